"""A half-precision encoder as ONNX Runtime's CPU provider computes it without widening all of its weights at once.

That provider has few kernels for float16. It computes the others in float32 and casts what they are given: a weight
when its node runs, if nothing is optimised before. But it takes a float16 node that stands alone between others for a
detour, and casts its data, too: the whole table of embeddings, of which a text needs a few rows. So the table's
look-ups get company in float16 that does nothing.
"""

from pathlib import Path
from typing import Final

_ROWS: Final = "/float16_rows"


def in_float16(graph: Path) -> bytes:
    """The graph's model, without its weights, whose look-ups in float16 tables stay in float16."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(graph, load_external_data=False)
    tables = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] in tables:
            rows = node.output[0]
            node.output[0] = f"{rows}{_ROWS}"
            axis = f"{rows}{_ROWS}_axis"
            nodes += [
                helper.make_node("Unsqueeze", [node.output[0], axis], [f"{rows}{_ROWS}_wider"]),
                helper.make_node("Squeeze", [f"{rows}{_ROWS}_wider", axis], [rows]),
            ]
            model.graph.initializer.append(helper.make_tensor(axis, TensorProto.INT64, [1], [0]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    content: bytes = model.SerializeToString()
    return content
