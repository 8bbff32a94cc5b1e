"""Writes nodes, constants and streamed weights into an ONNX graph."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

OPSET: Final = 24
IR_VERSION: Final = 12
"""ONNX 1.19's, the first with opset 24."""
MICROSOFT: Final = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
GRAPH_DATA_SUFFIX: Final = ".data"

Dimension = int | str


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that is computed when it is written, then let go of; ``read`` gives values of this dtype and shape.

    ``blocks``, where there is one, gives the same in pieces along the first axis, or along the last one if
    ``blocks_are_columns``, so that a tensor of any size can be written in little memory.
    """

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[Any]]
    blocks: Callable[[], Iterator[npt.NDArray[Any]]] | None = None
    blocks_are_columns: bool = False


class StreamedTensor(ir.LazyTensor):
    """A weight that goes to a file piece by piece."""

    def __init__(self, weight: Weight) -> None:
        super().__init__(
            lambda: ir.tensor(weight.read(), name=weight.name),
            dtype=weight.dtype,
            shape=ir.Shape(weight.shape),
            name=weight.name,
        )
        self._weight = weight

    @property
    def weight(self) -> Weight:
        """How its values are computed."""
        return self._weight

    def tofile(self, file: Any) -> None:
        """Write the bytes of the whole tensor at the file's position, and leave the position behind them."""
        if self._weight.blocks is None:
            super().tofile(file)
            return
        file.flush()
        begin, row_bytes = file.tell(), self.nbytes // self._weight.shape[0]
        at = begin
        for block in self._weight.blocks():
            if not self._weight.blocks_are_columns:
                at += _write_at(file, block, at)
                continue
            for row, values in enumerate(block):
                _write_at(file, values, at + row * row_bytes)
            at += block[0].nbytes
        file.seek(begin + self.nbytes)


def remove_graph(path: Path) -> None:
    """Remove a graph and its weights, as far as they are there."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + GRAPH_DATA_SUFFIX).unlink(missing_ok=True)


def _write_at(file: Any, values: npt.NDArray[Any], at: int) -> int:
    """Write values at a byte of a file, all of them; gives how many bytes they are."""
    rest = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while rest:
        written = os.pwrite(file.fileno(), rest, at)
        at, rest = at + written, rest[written:]
    return values.nbytes


class GraphWriter:
    """Builds one ONNX graph node by node. A node's first output carries the node's name."""

    def __init__(self, name: str, metadata: dict[str, str], producer: str, producer_version: str) -> None:
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=name)
        self._model = ir.Model(
            self._graph,
            ir_version=IR_VERSION,
            producer_name=producer,
            producer_version=producer_version,
            metadata_props=metadata,
        )

    @property
    def model(self) -> ir.Model:
        """The model as far as it is built, for passes over the whole graph before it is saved."""
        return self._model

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dimension]) -> ir.Value:
        """Declare a graph input; a string is a dimension of that name."""
        value = ir.val(name, dtype, shape)
        self._graph.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[Dimension]) -> None:
        """Declare a node's output a graph output, under this name."""
        value.name, value.dtype, value.shape = name, dtype, ir.Shape(shape)
        self._graph.outputs.append(value)

    def node(self, name: str, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Add a node with one output."""
        return self.nodes(name, op_type, *inputs, outputs=("",), domain=domain, **attributes)[0]

    def nodes(
        self,
        name: str,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: Sequence[str | None],
        domain: str = "",
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """Add a node with several outputs, each named ``name`` + its suffix; None is an output that nobody reads."""
        values = tuple(ir.Value(name="" if suffix is None else name + suffix) for suffix in outputs)
        self._graph.append(ir.node(op_type, inputs, attributes, domain=domain, outputs=values, name=name))
        if domain:
            self._graph.opset_imports[domain] = 1
        return values

    def rows_at(self, name: str, value: ir.Value, positions: ir.Value) -> ir.Value:
        """Rows of [batch, sequence, n] at positions [batch, k], each batch entry its own: [batch, k, n]."""
        last_axis = self.constant("axis.last", np.array([-1], np.int64))
        indices = self.node(f"{name}.indices", "Unsqueeze", positions, last_axis)
        return self.node(name, "GatherND", value, indices, batch_dims=1)

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """A tensor that is at hand; asking twice for a name gives the same one."""
        if name in self._graph.initializers:
            return self._graph.initializers[name]
        return self._initializer(ir.tensor(array, name=name), array.shape)

    def weight(self, weight: Weight) -> ir.Value:
        """A tensor that is streamed when the graph is saved; asking twice for a name gives the same one."""
        if weight.name in self._graph.initializers:
            return self._graph.initializers[weight.name]
        return self._initializer(StreamedTensor(weight), weight.shape)

    def save(self, path: Path, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Write the graph to ``path`` and its weights beside it in ``path`` + ".data", one tensor at a time.

        ``on_progress`` is called with the tensors written and their total. What was written is removed if it fails.
        """
        data = path.with_name(path.name + GRAPH_DATA_SUFFIX)

        def report(_: ir.TensorProtocol, info: ir.external_data.CallbackInfo) -> None:
            if on_progress is not None:
                on_progress(info.index + 1, info.total)

        try:
            ir.save(self._model, path, external_data=data.name, callback=report)
        except BaseException:
            remove_graph(path)
            raise

    def save_over(self, path: Path, stored: Path) -> None:
        """Write the graph to ``path``, its weights those of the graph ``stored`` beside it, by name.

        Small constants that ``stored`` does not have are written into the graph itself. Raises ValueError for a weight
        that it lacks or has in another form.
        """
        import onnx

        tensors = onnx.load(stored, load_external_data=False).graph.initializer
        weights = {tensor.name: tensor for tensor in tensors}
        for name, value in self._graph.initializers.items():
            own = value.const_value
            if name not in weights:
                if isinstance(own, StreamedTensor):
                    raise ValueError(f"{stored} has no weight {name}")
                continue
            there = ir.serde.deserialize_tensor(weights[name], stored.parent)
            if own is None or (own.dtype, own.shape) != (there.dtype, there.shape):
                raise ValueError(f"{name} of {stored} is {there}, not {own}")
            value.const_value = there
        try:
            ir.save(self._model, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _initializer(self, tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> ir.Value:
        value = ir.Value(name=tensor.name, shape=ir.Shape(shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value
