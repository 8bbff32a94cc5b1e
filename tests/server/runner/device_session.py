"""A session of the cuda dialect's graph where there is no GPU: real bindings and memory, operators in numpy.

It holds what a CUDA graph asks of its caller: whoever runs one again must bring the same shapes, the same addresses and
the same bounds.
"""

import ctypes
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tests.export.decoder.cuda_reference import OPERATORS, widened

from fathom_server.engine.settings import ATTENTION_BOUNDS, LOGITS

Place = tuple[Any, tuple[int, ...], int]


class Binding:
    """Names, with element types, shapes and addresses."""

    def __init__(self) -> None:
        self.inputs: dict[str, Place] = {}
        self.outputs: dict[str, Place] = {}
        self.kept: list[Any] = []

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: Any, address: int) -> None:
        """As ONNX Runtime's."""
        assert (device, number) == ("cpu", 0)
        self.inputs[name] = np.dtype(dtype), tuple(shape), address

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        """As ONNX Runtime's."""
        self.inputs[name] = self._place(value)

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        """As ONNX Runtime's."""
        self.outputs[name] = self._place(value)

    def synchronize_inputs(self) -> None:
        """As ONNX Runtime's."""

    def synchronize_outputs(self) -> None:
        """As ONNX Runtime's."""

    def _place(self, value: Any) -> Place:
        self.kept.append(value)
        dtype = {"tensor(float16)": np.float16, "tensor(float)": np.float32}[value.data_type()]
        return np.dtype(dtype), tuple(value.shape()), value.data_ptr()


def memory(place: Place) -> Any:
    """The array at a place."""
    dtype, shape, address = place
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


class DeviceSession:
    """Computes a graph's steps; ``runs`` are the CUDA graphs' numbers in order, "-1" for none."""

    def __init__(self, path: Path) -> None:
        self._model = onnx.load(path)
        self._declared = {value.name: value.type.tensor_type for value in [*self._model.graph.input]}
        self._declared |= {value.name: value.type.tensor_type for value in self._model.graph.output}
        self._evaluator = ReferenceEvaluator(widened(onnx.load(path)), new_ops=OPERATORS)
        self._captured: dict[str, object] = {}
        self.runs: list[str] = []

    def get_modelmeta(self) -> Any:
        """As ONNX Runtime's."""
        return SimpleNamespace(custom_metadata_map={entry.key: entry.value for entry in self._model.metadata_props})

    def io_binding(self) -> Binding:
        """As ONNX Runtime's."""
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: ort.RunOptions) -> None:
        """As ONNX Runtime's."""
        dimensions: dict[str, int] = {}
        for name, place in (binding.inputs | binding.outputs).items():
            self._check(name, place, dimensions)
        assert {*binding.inputs} == {value.name for value in self._model.graph.input}
        assert {*binding.outputs} == {value.name for value in self._model.graph.output}
        assert dimensions["row_starts"] == dimensions["sequences"] + 1
        for name, place in binding.outputs.items():
            if name.startswith("present."):
                assert place == binding.inputs[name.replace("present", "past")]
        number = options.get_run_config_entry("gpu_graph_id")
        self.runs.append(number)
        if number != "-1":
            state = (binding.inputs, binding.outputs, memory(binding.inputs[ATTENTION_BOUNDS]).tolist())
            assert self._captured.setdefault(number, state) == state
        feeds = {name: memory(place) for name, place in binding.inputs.items()}
        (logits,) = self._evaluator.run([LOGITS], feeds)
        memory(binding.outputs[LOGITS])[:] = logits

    def _check(self, name: str, place: Place, dimensions: dict[str, int]) -> None:
        """Type and shape as the graph declares them, dimensions of one name equal."""
        declared, (dtype, shape, _) = self._declared[name], place
        assert helper.tensor_dtype_to_np_dtype(declared.elem_type) == dtype
        assert len(declared.shape.dim) == len(shape)
        for wanted, size in zip(declared.shape.dim, shape, strict=True):
            assert size == (dimensions.setdefault(wanted.dim_param, size) if wanted.dim_param else wanted.dim_value)
