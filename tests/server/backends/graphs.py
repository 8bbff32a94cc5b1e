"""Small ONNX models, and repositories that serve them."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
TABLE = np.arange(20, dtype=np.float32).reshape(10, 2)


def _save(path: Path, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto],
          outputs: list[onnx.ValueInfoProto], constants: dict[str, np.ndarray]) -> None:  # fmt: skip
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def affine(path: Path) -> None:
    """X float [batch, 4] → PRODUCT = X · WEIGHT [batch, 3] and NEGATED = −X [batch, 4]."""
    tensor = helper.make_tensor_value_info
    _save(
        path,
        [helper.make_node("MatMul", ["X", "W"], ["PRODUCT"]), helper.make_node("Neg", ["X"], ["NEGATED"])],
        [tensor("X", TensorProto.FLOAT, ["batch", 4])],
        [tensor("PRODUCT", TensorProto.FLOAT, ["batch", 3]), tensor("NEGATED", TensorProto.FLOAT, ["batch", 4])],
        {"W": WEIGHT},
    )


def lookup(path: Path) -> None:
    """IDS int64 [batch, length] → VECTORS float [batch, length, 2], rows of TABLE; an id from 10 on is an error."""
    tensor = helper.make_tensor_value_info
    _save(
        path,
        [helper.make_node("Gather", ["TABLE", "IDS"], ["VECTORS"])],
        [tensor("IDS", TensorProto.INT64, ["batch", "length"])],
        [tensor("VECTORS", TensorProto.FLOAT, ["batch", "length", 2])],
        {"TABLE": TABLE},
    )


def echo(path: Path) -> None:
    """TEXT string [batch, 1] → SAME."""
    tensor = helper.make_tensor_value_info
    _save(
        path,
        [helper.make_node("Identity", ["TEXT"], ["SAME"])],
        [tensor("TEXT", TensorProto.STRING, ["batch", 1])],
        [tensor("SAME", TensorProto.STRING, ["batch", 1])],
        {},
    )


def total(path: Path) -> None:
    """VALUES double [n] → SUM double []: a model that does not batch."""
    tensor = helper.make_tensor_value_info
    _save(
        path,
        [helper.make_node("ReduceSum", ["VALUES"], ["SUM"], keepdims=1)],
        [tensor("VALUES", TensorProto.DOUBLE, ["n"])],
        [tensor("SUM", TensorProto.DOUBLE, [1])],
        {},
    )


AFFINE_CONFIG = """
backend: "onnxruntime"
max_batch_size: 16
input [{ name: "X" data_type: TYPE_FP32 dims: [4] }]
output [
  { name: "PRODUCT" data_type: TYPE_FP32 dims: [3] },
  { name: "NEGATED" data_type: TYPE_FP32 dims: [-1] }
]
dynamic_batching { max_queue_delay_microseconds: 20000 }
instance_group [{ kind: KIND_CPU count: 1 }]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
parameters { key: "execution_mode" value { string_value: "0" } }
parameters { key: "session.intra_op.allow_spinning" value { string_value: "0" } }
optimization { graph { level: 1 } }
default_model_filename: "affine.onnx"
"""

LOOKUP_CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "IDS" data_type: TYPE_INT64 dims: [-1] allow_ragged_batch: true }]
output [{ name: "VECTORS" data_type: TYPE_FP32 dims: [-1, 2] }]
dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 5000000 }
instance_group [{ kind: KIND_CPU count: 1 }]
"""

ECHO_CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "TEXT" data_type: TYPE_STRING dims: [1] }]
output [{ name: "SAME" data_type: TYPE_STRING dims: [1] }]
dynamic_batching { preferred_batch_size: [2] max_queue_delay_microseconds: 5000000 }
instance_group [{ kind: KIND_CPU count: 1 }]
"""

BARE_CONFIG = 'backend: "onnxruntime"\ninstance_group [{ kind: KIND_CPU count: 1 }]\n'


def write_model(repository: Path, name: str, config: str, graph: str = "model.onnx") -> Path:
    """Make the folder of a model with its config; the path is where the graph belongs."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    return version / graph
