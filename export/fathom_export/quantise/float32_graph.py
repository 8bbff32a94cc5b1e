"""The unquantised portable graph, run on CPU so that its layers' inputs can be seen and each be put through fp8."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from fathom_export.onnxruntime_options import FLOAT8_OPTION
from fathom_export.spec.quantisation import Quantisation
from fathom_server.engine.settings import (
    GRAPH_FILE,
    INPUT_IDS,
    LOGIT_POSITIONS,
    LOGITS,
    POSITION_IDS,
    WRITE_INDICES,
    GraphDescription,
    past_name,
    present_name,
)

LENGTH: Final = 128
"""Tokens of a calibration sequence, at most; the graph's cache is no longer."""

SWITCH_SUFFIX: Final = ".is_fp8"
SCALE_SUFFIX: Final = ".scale"
"""Of the inputs that put a layer through fp8."""

Cache = dict[tuple[int, Literal["key", "value"]], npt.NDArray[np.float32]]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layer:
    """A product: its node's name, the name of its activations, and its matrix's name and shape, [inputs, outputs]."""

    name: str
    activations: str
    matrix: str
    shape: tuple[int, int]

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True)
class Layers:
    """An opened graph's products, and their matrices by name, mapped from the file where it stores them apart."""

    layers: Sequence[Layer]
    weights: Mapping[str, npt.NDArray[np.float32]]


class Float32Graph:
    """A portable float32 graph whose every product gives its inputs out, and can be computed in fp8 instead."""

    def __init__(self, folder: Path, form: GraphDescription) -> None:
        import onnxruntime as ort

        self.vocabulary = form.vocabulary
        self.length = form.max_context
        self._form = form
        opened = open_up(folder / GRAPH_FILE, folder / GRAPH_FILE)
        self.layers, self._weights = opened.layers, opened.weights
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(FLOAT8_OPTION, "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # packed copies of the weights would take as much memory as the model has
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = ort.InferenceSession(str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"])
        self._idle: dict[str, npt.NDArray[Any]] = {}
        for layer in self.layers:
            self._idle[layer.name + SWITCH_SUFFIX] = np.array(False)
            self._idle[layer.name + SCALE_SUFFIX] = np.array(1, np.float32)

    def empty_cache(self, batch: int) -> Cache:
        """A cache of zeros for so many rows."""
        form = self._form
        shape = (batch, form.kv_heads, form.max_context, form.head_dim)
        parts: tuple[Literal["key", "value"], ...] = ("key", "value")
        return {(layer, part): np.zeros(shape, np.float32) for layer in range(form.layers) for part in parts}

    def step(self, ids: npt.NDArray[np.int64], past: int, cache: Cache) -> Logits:
        """Logits [batch, 1, vocabulary] after ids [batch, sequence] behind ``past`` tokens; the cache is written to."""
        positions = np.full((len(ids), 1), ids.shape[1] - 1, np.int64)
        binding = self._session.io_binding()
        for name, value in (self._feeds(ids, positions, past) | self._idle).items():
            binding.bind_cpu_input(name, value)
        for (layer, part), values in cache.items():
            place = ("cpu", 0, np.float32, values.shape, values.ctypes.data)
            binding.bind_input(past_name(layer, part), *place)
            binding.bind_output(present_name(layer, part), *place)
        binding.bind_output(LOGITS, "cpu")
        self._session.run_with_iobinding(binding)
        logits: Logits = binding.get_outputs()[-1].numpy()
        return logits

    def activations(self, ids: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float32]]:
        """The inputs of every product for a sequence of ids [sequence], by their names."""
        names = sorted({layer.activations for layer in self.layers})
        values = self._session.run(names, self._prefill(ids) | self._idle)
        return dict(zip(names, values, strict=True))

    def logits(
        self, ids: npt.NDArray[np.int64], fp8: Mapping[str, np.float32] | None = None, layer: Layer | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits [sequence, vocabulary] of ids [sequence], one layer in fp8 if it is given.

        ``fp8`` has the scale of each activation by its name.
        """
        feeds = self._prefill(ids) | self._idle
        if layer is not None and fp8 is not None:
            feeds |= fp8_layer(layer, self._weights[layer.matrix], fp8)
        logits: npt.NDArray[np.float32] = self._session.run([LOGITS], feeds)[0][0]
        return logits

    def _prefill(self, ids: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        feeds = self._feeds(ids[np.newaxis], np.arange(len(ids))[np.newaxis], 0)
        return feeds | {past_name(*place): values for place, values in self.empty_cache(1).items()}

    def _feeds(
        self, ids: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], past: int
    ) -> dict[str, npt.NDArray[Any]]:
        begins = np.full(len(ids), past, np.int64)
        return {
            INPUT_IDS: ids,
            LOGIT_POSITIONS: positions,
            POSITION_IDS: begins[:, np.newaxis] + np.arange(ids.shape[1]),
            WRITE_INDICES: begins,
        }


@contextmanager
def float32_graph(
    source: Path, beside: Path, max_context: int, sparsity: Quantisation | None = None
) -> Iterator[Float32Graph]:
    """Build the graph of a checkpoint in a folder of its own under ``beside``, which is removed at the end."""
    from fathom_export.decoder.build import build_decoder

    with tempfile.TemporaryDirectory(prefix="calibration-", dir=beside) as name:
        folder = Path(name)
        form = build_decoder(
            source,
            folder,
            dialect="portable",
            precision="fp32",
            quantisation=sparsity,
            max_context=min(LENGTH, max_context),
        )
        yield Float32Graph(folder, form)


def fp8_layer(
    layer: Layer, matrix: npt.NDArray[np.float32], scales: Mapping[str, np.float32]
) -> dict[str, npt.NDArray[Any]]:
    """What an opened graph is fed with to compute one layer in fp8; ``scales`` are the activations', by name."""
    from fathom_export.quantise.fp8 import column_scales, rounded

    return {
        layer.matrix: rounded(matrix, column_scales(matrix)),
        layer.name + SCALE_SUFFIX: np.array(scales[layer.activations], np.float32),
        layer.name + SWITCH_SUFFIX: np.array(True),
    }


def open_up(path: Path, destination: Path) -> Layers:
    """Write a graph, over the same weights, whose products give their inputs out and have a switch to fp8 each.

    ``destination`` lies in the folder of ``path``, or is it. Matrices become inputs that need not be given.
    """
    import ml_dtypes
    import onnx_ir as ir

    from fathom_export.quantise.products import add_initializer, products, stored

    model = ir.load(path)
    graph = model.graph
    zero = add_initializer(graph, ir.tensor(np.zeros((), ml_dtypes.float8_e4m3fn), name="fp8.zero_point"))
    layers: list[Layer] = []
    weights: dict[str, npt.NDArray[np.float32]] = {}
    seen: set[str] = set()
    for product in list(products(graph)):
        name, source, matrix = product.name, product.activations, product.matrix
        layers.append(Layer(name, str(source.name), str(matrix.name), product.shape))
        if source.name not in seen:
            seen.add(str(source.name))
            source.type, source.shape = ir.TensorType(ir.DataType.FLOAT), None
            graph.outputs.append(source)
        if matrix.name not in weights:
            weights[str(matrix.name)] = stored(matrix).numpy()
            graph.inputs.append(matrix)
        switch = ir.val(name + SWITCH_SUFFIX, ir.DataType.BOOL, ())
        scale = ir.val(name + SCALE_SUFFIX, ir.DataType.FLOAT, ())
        graph.inputs.extend([switch, scale])
        quantised = ir.node("QuantizeLinear", [source, scale, zero], name=f"{name}.switch.fp8")
        restored = ir.node("DequantizeLinear", [quantised.outputs[0], scale, zero], name=f"{name}.switch.restored")
        chosen = ir.node("Where", [switch, restored.outputs[0], source], name=f"{name}.switch")
        for node in (quantised, restored, chosen):
            node.outputs[0].name = str(node.name)
        graph.insert_before(product.node, [quantised, restored, chosen])
        product.node.replace_input_with(0, chosen.outputs[0])
    ir.save(model, destination)
    return Layers(layers, weights)
