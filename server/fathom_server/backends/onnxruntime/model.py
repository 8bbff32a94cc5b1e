"""Serves an ONNX model under the config.pbtxt that Triton's own (C++) onnxruntime backend takes, on CPU.

The requests that Triton hands over together run in one call of the session; those whose shapes differ in more than the
batch run apart. The launcher copies this one file into the backend folder.
"""

import json
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

from fathom_server.backends.onnxruntime.graph import Array, Graph, ModelError, model_filename

DEFAULT_MAX_BATCH_SIZE: Final = 4
"""What the C++ backend completes a config with, too."""


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
