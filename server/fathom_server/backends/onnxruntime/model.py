"""Serves an ONNX model under the config.pbtxt that Triton's own (C++) onnxruntime backend takes, on CPU.

The requests that Triton hands over together run in one call of the session; those whose shapes differ in more than the
batch run apart. The launcher copies this one file into the backend folder.
"""

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnxruntime
import triton_python_backend_utils as pb_utils

from fathom_server.native.library import register
from fathom_server.processor import has_avx2, has_vnni

Array = npt.NDArray[Any]
Config = Mapping[str, Any]

DEFAULT_MODEL_FILENAME: Final = "model.onnx"
NATIVE_FILENAME: Final = "model.native.onnx"
DEFAULT_MAX_BATCH_SIZE: Final = 4
"""What the C++ backend completes a config with, too."""

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


@dataclass(slots=True)
class Call:
    """One request: its inputs, the outputs that it wants, and its place among those that came together."""

    place: int
    inputs: dict[str, Array]
    wanted: list[str]

    @property
    def batch_size(self) -> int:
        """Rows of a batched request."""
        return len(next(iter(self.inputs.values())))

    @property
    def shape_key(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What must be equal for two requests to share a batch."""
        return tuple(sorted((name, array.shape[1:]) for name, array in self.inputs.items()))


class TritonPythonModel:
    """One instance of a served ONNX model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in inputs, outputs and batching from the graph where config.pbtxt leaves them out."""
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        graph = Graph(_stub_version_folder() / model_filename(config), config)
        if config["max_batch_size"] == 0 and not config["input"] and not config["output"] and graph.can_batch():
            auto_complete_model_config.set_max_batch_size(DEFAULT_MAX_BATCH_SIZE)
            auto_complete_model_config.set_dynamic_batching()
        batched = auto_complete_model_config.as_dict()["max_batch_size"] > 0
        if not config["input"]:
            for tensor in graph.inputs.values():
                auto_complete_model_config.add_input(tensor.as_config(batched))
        if not config["output"]:
            for tensor in graph.outputs.values():
                auto_complete_model_config.add_output(tensor.as_config(batched))
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and hold its config against it."""
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] != "CPU":
            pb_utils.Logger.log_warn(
                f"{args['model_name']} runs on CPU: this Triton has no onnxruntime backend of its own for a GPU"
            )
        self._graph = Graph(Path(args["model_repository"]) / args["model_version"] / model_filename(config), config)
        self._graph.check(config)
        self._batched = config["max_batch_size"] > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests; one that fails does not fail the others."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[object, list[Call]] = {}
        for place, request in enumerate(requests):
            try:
                call = self._call(place, request)
            except Exception as error:
                responses[place] = _failure(error)
                continue
            groups.setdefault(call.shape_key if self._batched else place, []).append(call)
        for group in groups.values():
            for call, outcome in self._answers(group):
                responses[call.place] = outcome
        return responses

    def finalize(self) -> None:
        """Let the session go."""
        del self._graph

    def _call(self, place: int, request: Any) -> Call:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name, array in inputs.items():
            if self._graph.inputs[name].data_type == "TYPE_STRING":
                inputs[name] = _each(array, lambda text: text.decode("utf-8") if isinstance(text, bytes) else text)
        return Call(place, inputs, list(request.requested_output_names()))

    def _answers(self, group: list[Call]) -> Iterator[tuple[Call, Any]]:
        """Responses of requests that may share a run; if the shared run fails, each has one of its own."""
        try:
            outcomes = [self._response(*pair) for pair in zip(group, self._results(group), strict=True)]
        except Exception as error:
            if len(group) == 1:
                outcomes = [_failure(error)]
            else:
                yield from (answer for call in group for answer in self._answers([call]))
                return
        yield from zip(group, outcomes, strict=True)

    def _results(self, group: list[Call]) -> list[dict[str, Array]]:
        """Run once for all; each request's share of the outputs that any of them wants."""
        wanted = sorted({name for call in group for name in call.wanted})
        if len(group) == 1:
            return [dict(zip(wanted, self._graph.run(group[0].inputs, wanted), strict=True))]
        joined = {name: np.concatenate([call.inputs[name] for call in group]) for name in group[0].inputs}
        sizes = [call.batch_size for call in group]
        shares: list[dict[str, Array]] = [{} for _ in group]
        for name, array in zip(wanted, self._graph.run(joined, wanted), strict=True):
            if len(array) != sum(sizes):
                raise ModelError(f"output {name!r} has {len(array)} rows for a batch of {sum(sizes)}")
            for share, part in zip(shares, np.split(array, np.cumsum(sizes)[:-1]), strict=True):
                share[name] = part
        return shares

    def _response(self, call: Call, outputs: Mapping[str, Array]) -> Any:
        tensors = []
        for name in call.wanted:
            array = outputs[name]
            if self._graph.outputs[name].data_type == "TYPE_STRING":
                array = _each(array, lambda text: text.encode("utf-8"))
            tensors.append(pb_utils.Tensor(name, np.ascontiguousarray(array)))
        return pb_utils.InferenceResponse(output_tensors=tensors)


def model_filename(config: Config) -> str:
    """The file within a version's folder."""
    return config.get("default_model_filename") or DEFAULT_MODEL_FILENAME


def _stub_version_folder() -> Path:
    """Folder of the version whose config is being completed: Triton tells it to the stub's command line alone."""
    arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    return Path(arguments[1].decode()).parent


def _each(array: Array, change: Any) -> Array:
    """An array of objects with each element changed."""
    return np.array([change(element) for element in array.reshape(-1)], dtype=np.object_).reshape(array.shape)


def _failure(error: Exception) -> Any:
    """An error response: the caller's fault if ONNX Runtime or the text says so, ours otherwise, and then logged."""
    is_callers = isinstance(error, UnicodeDecodeError) or type(error).__name__ == "InvalidArgument"
    if not is_callers:
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    code = getattr(pb_utils.TritonError, "INVALID_ARG" if is_callers else "INTERNAL")
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error), code))
