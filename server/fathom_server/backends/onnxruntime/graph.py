"""An ONNX model as Triton's config.pbtxt describes it: its tensors, its session and the options of that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy.typing as npt
import onnxruntime

from fathom_server.native.library import register
from fathom_server.processor import has_avx2, has_vnni

Array = npt.NDArray[Any]
Config = Mapping[str, Any]

DEFAULT_MODEL_FILENAME: Final = "model.onnx"
NATIVE_FILENAME: Final = "model.native.onnx"

DATA_TYPES: Final = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
"""ONNX Runtime's names of types → Triton's."""

OVERFLOW_GUARD: Final = "session.x64quantprecision"
"""Keeps products of u8 and s8 from overflowing their 16-bit sums on processors without VNNI. On the others it changes
no result and makes such products half as fast, so there it is left out."""


class ModelError(Exception):
    """A model that cannot be served; the message says what to mend."""


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of the graph; a dimension that is not fixed is −1."""

    name: str
    data_type: str
    dims: tuple[int, ...]

    @classmethod
    def of(cls, node: Any) -> Self:
        """From a session's description; raises ModelError for a type that Triton has not got."""
        if node.type not in DATA_TYPES:
            raise ModelError(f"tensor {node.name!r} of the graph is of type {node.type}, which Triton's Python has not")
        dims = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
        return cls(node.name, DATA_TYPES[node.type], dims)

    def as_config(self, batched: bool) -> dict[str, Any]:
        """As an entry of a config; with batching the first dimension is left out."""
        return {"name": self.name, "data_type": self.data_type, "dims": list(self.dims[1:] if batched else self.dims)}

    def check(self, entry: Config, batched: bool) -> None:
        """Raise ModelError if a config's entry says something else of this tensor."""
        if entry["data_type"] != self.data_type:
            raise ModelError(
                f"tensor {self.name!r} is {entry['data_type']} in config.pbtxt, but {self.data_type} in the graph; "
                f"write {self.data_type}"
            )
        written = entry.get("reshape", {}).get("shape", entry["dims"])
        dims = (-1, *map(int, written)) if batched else tuple(map(int, written))
        same_rank = len(dims) == len(self.dims)
        if not same_rank or any(-1 not in pair and len({*pair}) > 1 for pair in zip(dims, self.dims, strict=True)):
            batch = " after the batch dimension, which max_batch_size adds," if batched else ""
            raise ModelError(
                f"tensor {self.name!r} has the dims {list(map(int, written))}{batch} in config.pbtxt, but "
                f"{list(self.dims)} in the graph (-1 is any size); make them agree"
            )


class Graph:
    """A loaded ONNX model."""

    def __init__(self, path: Path, config: Config) -> None:
        if not path.is_file():
            raise ModelError(f"{path} is missing; put the model there, or name it in default_model_filename")
        options = session_options(config)
        path = served_file(path, options)
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no base class of its errors
            raise ModelError(f"{path} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}") from error
        self.inputs = {node.name: GraphTensor.of(node) for node in self._session.get_inputs()}
        self.outputs = {node.name: GraphTensor.of(node) for node in self._session.get_outputs()}
        self._run_options = onnxruntime.RunOptions()
        shrinkage = parameter(config, "memory.enable_memory_arena_shrinkage")
        if shrinkage:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinkage)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Compute the named outputs."""
        results: list[Array] = self._session.run(list(outputs), dict(inputs), self._run_options)
        return results

    def check(self, config: Config) -> None:
        """Raise ModelError if config.pbtxt does not describe this graph."""
        for unsupported in ("sequence_batching", "batch_input", "batch_output"):
            if config.get(unsupported):
                raise ModelError(f"config.pbtxt uses {unsupported}, which only Triton's own onnxruntime backend serves")
        batched = config["max_batch_size"] > 0
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            for entry in config[kind]:
                if entry["name"] not in tensors:
                    raise ModelError(
                        f"{kind} {entry['name']!r} of config.pbtxt is not in the graph, whose {kind}s are "
                        f"{', '.join(tensors)}"
                    )
                tensors[entry["name"]].check(entry, batched)
        missing = self.inputs.keys() - {entry["name"] for entry in config["input"]}
        if missing:
            raise ModelError(
                f"config.pbtxt lacks the graph's inputs {', '.join(sorted(missing))}; add them, or start fathom-serve "
                "with --auto-complete-config"
            )

    def can_batch(self) -> bool:
        """Whether every input and output has a first dimension of any size."""
        return all(tensor.dims[:1] == (-1,) for tensor in (*self.inputs.values(), *self.outputs.values()))


def served_file(path: Path, options: Any) -> Path:
    """The graph in Fathom's own operators beside a graph where they are built here and fast, else the graph itself.

    The options then have the operators. ``FATHOM_NATIVE=0`` turns them off.
    """
    native = path.with_name(NATIVE_FILENAME)
    if path.name == DEFAULT_MODEL_FILENAME and native.is_file() and has_avx2() and register(options):
        return native
    return path


def parameter(config: Config, name: str) -> str:
    """A parameter of config.pbtxt, or ''."""
    value: str = config.get("parameters", {}).get(name, {}).get("string_value", "")
    return value


def session_options(config: Config) -> Any:
    """ONNX Runtime's options from the parameters that the C++ backend reads; raises ModelError for a wrong value."""
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = {
        -1: levels.ORT_ENABLE_BASIC,
        1: levels.ORT_ENABLE_EXTENDED,
        2: levels.ORT_DISABLE_ALL,
    }.get(level, levels.ORT_ENABLE_ALL)
    modes = onnxruntime.ExecutionMode
    for name, attribute, values in (
        ("intra_op_thread_count", "intra_op_num_threads", None),
        ("inter_op_thread_count", "inter_op_num_threads", None),
        ("execution_mode", "execution_mode", {0: modes.ORT_SEQUENTIAL, 1: modes.ORT_PARALLEL}),
        ("enable_mem_arena", "enable_cpu_mem_arena", {0: False, 1: True}),
        ("enable_mem_pattern", "enable_mem_pattern", {0: False, 1: True}),
    ):
        text = parameter(config, name)
        if not text:
            continue
        if not text.isdecimal() or (values is not None and int(text) not in values):
            allowed = "0 or 1" if values is not None else "a number of threads, 0 for one a core"
            raise ModelError(f"parameter {name} is {text!r}; it must be {allowed}")
        setattr(options, attribute, int(text) if values is None else values[int(text)])
    for name in config.get("parameters", {}):
        if name.startswith("session.") and not (name == OVERFLOW_GUARD and has_vnni()):
            options.add_session_config_entry(name, parameter(config, name))
    return options


def model_filename(config: Config) -> str:
    """The file within a version's folder."""
    return config.get("default_model_filename") or DEFAULT_MODEL_FILENAME
