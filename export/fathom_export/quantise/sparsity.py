"""2:4 structured pruning: of every four weights along a layer's inputs, at most two stay.

TensorRT's sparse kernels multiply such matrices at up to twice the rate of dense ones.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fathom_export.quantise.derived import derived_matrix
from fathom_export.quantise.products import products, replace_tensor, stored

GROUP: Final = 4
KEPT: Final = 2


def pruned(
    matrix: npt.NDArray[np.float32], input_norms: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """A matrix [inputs, outputs] with the two lowest scores of every four inputs of an output set to zero.

    A weight's score is its magnitude, or, given the Euclidean norms of the inputs over calibration text, float32
    [inputs], |weight| × norm (Wanda: Sun et al. 2023, arXiv 2306.11695, equation 1). The last, shorter group of a layer
    whose inputs are no multiple of four also keeps at most two. Of equal scores the first ones stay.
    """
    inputs, outputs = matrix.shape
    scores = np.abs(matrix)
    if input_norms is not None:
        scores = scores * input_norms[:, np.newaxis]
    missing = -inputs % GROUP
    groups = np.pad(scores, ((0, missing), (0, 0)), constant_values=-1).reshape(-1, GROUP, outputs)
    order = np.argsort(-groups, axis=1, kind="stable")
    keep = np.zeros(groups.shape, bool)
    np.put_along_axis(keep, order[:, :KEPT], True, axis=1)
    return np.where(keep.reshape(-1, outputs)[:inputs], matrix, np.float32(0))


def prune(graph: ir.Graph, input_norms: Mapping[str, npt.NDArray[np.float32]] | None) -> int:
    """Prune the matrix of every product of a graph as it is written, in place; returns how many there are.

    ``input_norms`` has the norms of each activation's columns by the activation's name, None for pruning by magnitude.
    """
    count = 0
    for product in list(products(graph)):
        norms = None if input_norms is None else input_norms[str(product.activations.name)]

        def change(values: npt.NDArray[Any], norms: npt.NDArray[np.float32] | None = norms) -> npt.NDArray[Any]:
            return pruned(values, norms)

        name = str(product.matrix.name)
        replace_tensor(product.matrix, derived_matrix(stored(product.matrix), change, ir.DataType.FLOAT, name))
        count += 1
    return count
