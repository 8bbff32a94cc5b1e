"""The graph that reduces logits on the device, so that the few that choose a token cross the bus and not all.

It is a graph of its own and not a part of the model's: TopK copies its sizes from the host as it runs, which a captured
CUDA graph would repeat from memory that is long let go; and a step whose requests need all logits does without it.
"""

from typing import Final

import numpy as np
import onnx_ir as ir

from fathom_export.decoder.cuda_dialect import CUDA_OPSET
from fathom_export.decoder.graph_writer import GraphWriter
from fathom_server.engine.settings import LOGITS, TOP_LOGITS, TOP_TOKENS

_ROWS: Final = "logit_rows"


def write_sampling_graph(graph: GraphWriter, vocabulary: int) -> None:
    """From ``logits`` float32 [rows, vocabulary] to ``top_logits`` float32 [rows, 2 × k + 1], k = min(64, vocabulary).

    A row holds the k largest logits, the largest first, then their ids as numbers (exact, for a vocabulary is far below
    2^24), then the sum of all its logits, which is NaN where any is.
    """
    kept = min(TOP_TOKENS, vocabulary)
    graph.model.graph.opset_imports[""] = CUDA_OPSET
    logits = graph.input(LOGITS, ir.DataType.FLOAT, (_ROWS, vocabulary))
    values, ids = graph.nodes(
        "largest",
        "TopK",
        logits,
        graph.constant("kept", np.array([kept], np.int64)),
        outputs=("", ".ids"),
        axis=-1,
        largest=1,
        sorted=1,
    )
    numbers = graph.node("ids", "Cast", ids, to=ir.DataType.FLOAT)
    axis = graph.constant("axis.1", np.array([1], np.int64))
    sums = graph.node("sums", "ReduceSum", logits, axis, keepdims=1)
    top = graph.node("top", "Concat", values, numbers, sums, axis=1)
    graph.output(top, TOP_LOGITS, ir.DataType.FLOAT, (_ROWS, 2 * kept + 1))
