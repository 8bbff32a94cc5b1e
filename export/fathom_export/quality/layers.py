"""The error that each layer adds: every layer is given the reference's own input, and what it makes of it is compared.

A tensor of the residual stream has upstream errors in it, so a graph's tensors as they stand tell how the error grows,
not where it comes from. Therefore a copy of the graph is cut at the stream: behind each cut stands the reference's
tensor, as a further input.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_export.quality.statistics import cosines, relative_error

Array = npt.NDArray[Any]
RunGraph = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]
"""Runs a graph on one text for some outputs, fed with further inputs."""

_EMBEDDING: Final = "embedding"
GIVEN_SUFFIX: Final = ".given"
RESIDUAL_SUFFIX: Final = ".residual"
_NAMED_NORMS: Final = (".attention_norm", ".mlp_norm", "final_norm")
_UNNORMED: Final = tuple(name + RESIDUAL_SUFFIX for name in _NAMED_NORMS)
_FIRST_LAYER: Final = "layer.0.attention"
_MODULE_PREFIX: Final = "transformer."


@dataclass(frozen=True, slots=True)
class StreamPoint:
    """A point of the residual stream and the tensors that cross it, the stream itself first, then its norm.

    Where the stream is normed in place (as in BERT), or at the graph's end, there is one. ``is_sum`` says that the
    layer before the point adds to the stream. ``name`` is what stands at the point: in a stream of sums, the layer
    behind it.
    """

    name: str
    tensors: tuple[str, ...]
    is_sum: bool

    @property
    def stream(self) -> str:
        """The stream's tensor."""
        return self.tensors[0]


@dataclass(frozen=True, slots=True)
class LayerError:
    """A layer's error between two points of the stream.

    ``relative_l2`` is ‖d‖ ÷ ‖r‖, d the difference between what the layer adds to the stream (an encoder's: makes of it)
    and what the reference's layer does, r the latter; ``cosine`` is the mean over tokens of the cosine of the two, both
    given the reference's input. ``accumulated`` is the stream's relative error behind the layer without help.
    """

    layer: str
    relative_l2: float
    cosine: float
    accumulated: float


def stream_points(graph: Any, output: str, output_layer: str) -> list[StreamPoint]:
    """The points of the residual stream of an ONNX graph (``onnx.GraphProto``) in order; empty where none are known.

    Decoders have named ones: a norm and its ``.residual``. In other graphs they are found at LayerNormalization: where
    others too read what it norms, that is the stream, else its output is. The last point is the graph's ``output``,
    made by what is called ``output_layer``.
    """
    names = {name for node in graph.node for name in node.output if name}
    readers = Counter(name for node in graph.node for name in set(node.input))
    weights = {tensor.name for tensor in graph.initializer}
    # in float16 a norm reads the stream through a cast
    widened = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    points = []
    for node in graph.node:
        norm = node.output[0]
        source = widened.get(node.input[0], node.input[0]) if node.input else ""
        if norm.endswith(_NAMED_NORMS):
            stream = norm + RESIDUAL_SUFFIX if norm + RESIDUAL_SUFFIX in names else source
            points.append(StreamPoint(norm.removesuffix("_norm"), (stream, norm), is_sum=True))
        elif norm.endswith(_UNNORMED) and norm.removesuffix(RESIDUAL_SUFFIX) not in names:
            # norms stand behind the layers, and the next one reads the stream itself
            if not points:
                points.append(StreamPoint(_FIRST_LAYER, (node.input[0],), is_sum=True))
            layer = norm.removesuffix(RESIDUAL_SUFFIX).removesuffix("_norm")
            points.append(StreamPoint(layer, (norm,), is_sum=True))
        elif node.op_type == "LayerNormalization":
            weight = next((name for name in node.input[1:2] if name in weights), norm)
            layer = weight.removeprefix(_MODULE_PREFIX).removesuffix(".weight").removesuffix(".LayerNorm")
            is_sum = readers[source] > 1
            points.append(StreamPoint(layer, (source, norm) if is_sum else (norm,), is_sum=is_sum))
    if len({point.stream for point in points}) != len(points):
        return []
    layers = Counter(point.name for point in points)
    # the exporter keeps one of several equal weights, so norms that were never trained share their name
    unique = [point if layers[point.name] == 1 else replace(point, name=point.tensors[-1]) for point in points]
    return [*unique, StreamPoint(output_layer, (output,), is_sum=False)] if points else []


def common_points(reference: Sequence[StreamPoint], tested: Sequence[StreamPoint]) -> list[StreamPoint]:
    """The points that both graphs have, in order."""
    theirs = {point.tensors for point in reference}
    return [point for point in tested if point.tensors in theirs]


def exposed(path: Path, points: Sequence[StreamPoint]) -> bytes:
    """A graph with the points' tensors as further outputs."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    _add_outputs(model, [tensor for point in points for tensor in point.tensors])
    content: bytes = model.SerializeToString()
    return content


def cut(path: Path, points: Sequence[StreamPoint], types: Mapping[str, str]) -> bytes:
    """A graph cut at every point but the last: who reads a tensor there reads an input named ``….given`` instead.

    ``types`` gives ONNX Runtime's type of each tensor. The tensors themselves are further outputs.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    given = {tensor: tensor + GIVEN_SUFFIX for point in points[:-1] for tensor in point.tensors}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in given:
                node.input[place] = given[name]
    for tensor, name in given.items():
        element = onnx.TensorProto.DataType.Value(_ONNX_TYPES[types[tensor]])
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, element, None))
    _add_outputs(model, [point.stream for point in points])
    content: bytes = model.SerializeToString()
    return content


def stream_types(types: Mapping[str, str], points: Sequence[StreamPoint]) -> dict[str, np.dtype[Any]]:
    """The dtype of each point's tensors, from ONNX Runtime's names of them."""
    return {tensor: np.dtype(_NUMPY_TYPES[types[tensor]]) for point in points for tensor in point.tensors}


class LayerComparison:
    """Gathers the tensors of several texts at the points of the stream, of a reference and of a graph under test."""

    def __init__(self, points: Sequence[StreamPoint], types: Mapping[str, str]) -> None:
        self._points = points
        self._types = stream_types(types, points)
        self._reference: dict[str, list[Array]] = {point.name: [] for point in points}
        self._isolated: dict[str, list[Array]] = {point.name: [] for point in points}
        self._whole: dict[str, list[Array]] = {point.name: [] for point in points}

    def add(self, reference: RunGraph, whole: RunGraph, isolated: RunGraph) -> None:
        """Run one text through the reference, the graph, and the cut graph."""
        tensors = [tensor for point in self._points for tensor in point.tensors]
        found = dict(zip(tensors, reference(tensors, {}), strict=True))
        streams = [point.stream for point in self._points]
        given = {
            tensor + GIVEN_SUFFIX: found[tensor].astype(self._types[tensor])
            for point in self._points[:-1]
            for tensor in point.tensors
        }
        for point, own, alone in zip(self._points, whole(streams, {}), isolated(streams, given), strict=True):
            self._reference[point.name].append(_rows(found[point.stream]))
            self._whole[point.name].append(_rows(own))
            self._isolated[point.name].append(_rows(alone))

    def errors(self) -> list[LayerError]:
        """The error of each layer from point to point, in order, the embedding's before them."""
        first = self._points[0]
        tensors = np.concatenate(self._reference[first.name]), np.concatenate(self._whole[first.name])
        error = relative_error(*tensors)
        errors = [LayerError(_EMBEDDING, error, float(cosines(*tensors).mean()), error)]
        for before, point in pairwise(self._points):
            wanted = np.concatenate(self._reference[point.name])
            made = np.concatenate(self._isolated[point.name])
            accumulated = relative_error(wanted, np.concatenate(self._whole[point.name]))
            if point.is_sum:
                base = np.concatenate(self._reference[before.name])
                wanted, made = wanted - base, made - base
            errors.append(
                LayerError(
                    before.name if point.is_sum else point.name,
                    relative_l2=relative_error(wanted, made),
                    cosine=float(cosines(wanted, made).mean()),
                    accumulated=accumulated,
                )
            )
        return errors


def worst(errors: Sequence[LayerError], count: int = 10) -> list[LayerError]:
    """The layers with the largest errors of their own, largest first."""
    return sorted(errors, key=lambda error: -error.relative_l2)[:count]


def _rows(tensor: Array) -> Array:
    return np.asarray(tensor, dtype=np.float64).reshape(-1, tensor.shape[-1])


def _add_outputs(model: Any, tensors: Sequence[str]) -> None:
    import onnx

    present = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in tensors if tensor not in present)


_ONNX_TYPES: Final = {"tensor(float)": "FLOAT", "tensor(float16)": "FLOAT16", "tensor(double)": "DOUBLE"}
_NUMPY_TYPES: Final = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
