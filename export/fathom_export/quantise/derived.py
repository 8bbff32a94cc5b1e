"""Tensors whose values are those of others, changed piece by piece as they are written, so that none is ever whole."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fathom_export.decoder.graph_writer import StreamedTensor, Weight

Array = npt.NDArray[Any]
Change = Callable[[Array], Array]

_PIECE_BYTES: Final = 64 << 20


def derived(source: ir.TensorProtocol, change: Change, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    """A tensor of the same shape, each value changed by itself, in whatever pieces are the cheapest."""
    return _changed(source.weight if isinstance(source, StreamedTensor) else _by_rows(source), change, dtype, name)


def derived_matrix(source: ir.TensorProtocol, change: Change, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    """A matrix [inputs, outputs], each column changed by itself; ``change`` takes [inputs, some outputs]."""
    return _changed(_by_columns(source), change, dtype, name)


def derived_columns(source: ir.TensorProtocol, reduce: Change, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    """One value for each column of a matrix [inputs, outputs]: [outputs]; ``reduce`` takes [inputs, some outputs]."""
    weight = _by_columns(source)
    blocks = weight.blocks or (lambda: iter((weight.read(),)))
    return StreamedTensor(
        Weight(name, dtype, weight.shape[1:], lambda: np.concatenate([reduce(block) for block in blocks()]))
    )


def derived_rows(source: ir.TensorProtocol, reduce: Change, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    """One value for each row of a matrix [rows, columns]: [rows, 1]; ``reduce`` takes [some rows, columns]."""
    weight = _by_rows(source)
    blocks = weight.blocks or (lambda: iter((weight.read(),)))
    return StreamedTensor(
        Weight(name, dtype, (weight.shape[0], 1), lambda: np.concatenate([reduce(block) for block in blocks()]))
    )


def transposed(source: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """A matrix with its axes swapped."""
    rows, columns = _shape(source)
    weight = _by_columns(source)
    blocks = weight.blocks or (lambda: iter((weight.read(),)))
    return StreamedTensor(
        Weight(
            name,
            source.dtype,
            (columns, rows),
            lambda: np.ascontiguousarray(source.numpy().T),
            lambda: (np.ascontiguousarray(block.T) for block in blocks()),
        )
    )


def _changed(weight: Weight, change: Change, dtype: ir.DataType, name: str) -> StreamedTensor:
    blocks = weight.blocks
    return StreamedTensor(
        replace(
            weight,
            name=name,
            dtype=dtype,
            read=lambda: change(weight.read()),
            blocks=None if blocks is None else lambda: map(change, blocks()),
        )
    )


def _by_columns(source: ir.TensorProtocol) -> Weight:
    """How a matrix is read in pieces of whole columns."""
    if isinstance(source, StreamedTensor):
        weight = source.weight
        # rows of a streamed matrix are no columns: it is read whole
        return weight if weight.blocks is None or weight.blocks_are_columns else replace(weight, blocks=None)
    shape = _shape(source)
    step = max(1, int(_PIECE_BYTES // max(1, shape[0] * source.dtype.itemsize)))

    def blocks() -> Iterator[Array]:
        values = source.numpy()
        for first in range(0, shape[1], step):
            yield values[:, first : first + step]

    return Weight(str(source.name), source.dtype, shape, source.numpy, blocks, blocks_are_columns=True)


def _by_rows(source: ir.TensorProtocol) -> Weight:
    shape = _shape(source)
    if not shape:
        return Weight(str(source.name), source.dtype, shape, source.numpy)
    step = max(1, int(_PIECE_BYTES * shape[0] // max(1, source.nbytes)))

    def blocks() -> Iterator[Array]:
        values = source.numpy()  # of a file it is a map, not a copy
        for first in range(0, shape[0], step):
            yield values[first : first + step]

    return Weight(str(source.name), source.dtype, shape, source.numpy, blocks)


def _shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape.numpy())
