"""2:4 pruning: what stays of every four weights."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.export.quantise.conftest import cosines, logits

from fathom_export.quantise.sparsity import pruned

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=50),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


def groups_of_four(matrix):
    """[inputs, outputs] → [groups, 4, outputs], the last one filled up with zeros."""
    return np.pad(matrix, ((0, -len(matrix) % 4), (0, 0))).reshape(-1, 4, matrix.shape[1])


@settings(max_examples=200, deadline=None)
@given(matrix=MATRICES, data=st.data())
def test_every_group_of_four_has_at_most_two_weights(matrix, data) -> None:
    """Along the inputs of every output, by either score; what stays is as it was."""
    norms = data.draw(st.none() | hnp.arrays(np.float32, len(matrix), elements=st.floats(0, 100, width=32)))
    sparse = pruned(matrix, norms)
    assert (np.count_nonzero(groups_of_four(sparse), axis=1) <= 2).all()
    np.testing.assert_array_equal(sparse[sparse != 0], matrix[sparse != 0])


@settings(max_examples=100, deadline=None)
@given(matrix=MATRICES)
def test_the_largest_magnitudes_stay(matrix) -> None:
    """Of each group, the sum of the two largest magnitudes is what is left."""
    kept = np.abs(groups_of_four(pruned(matrix))).sum(axis=1)
    best = np.sort(np.abs(groups_of_four(matrix)), axis=1)[:, -2:].sum(axis=1)
    np.testing.assert_allclose(kept, best, rtol=1e-6)


def test_wandas_score_weighs_a_weight_by_its_input() -> None:
    """A small weight of a loud input stays before a larger one of a quiet input."""
    matrix = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    sparse = pruned(matrix, np.array([100, 1, 1, 1], np.float32))
    np.testing.assert_array_equal(sparse[:, 0], [1, 0, 0, 4])


def test_wanda_keeps_more_of_the_output_than_magnitude() -> None:
    """On inputs of unequal loudness the layer's own output error is smaller."""
    random = np.random.default_rng(0)
    matrix = random.normal(0, 1, (256, 64)).astype(np.float32)
    inputs = random.normal(0, 1, (512, 256)).astype(np.float32) * np.exp(random.normal(0, 1, 256)).astype(np.float32)
    norms = np.linalg.norm(inputs, axis=0)
    errors = [np.linalg.norm(inputs @ (pruned(matrix, scores) - matrix)) for scores in (norms, None)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_a_graphs_stored_matrices_are_sparse(built, precision: str, method: str) -> None:
    """Every projection of a layer, in the file itself, and in fp8 after rounding; the LM head is dense."""
    folder, _ = built("llama-odd-sizes", "portable", precision, sparsity="2:4", sparsity_method=method)
    model = onnx.load(folder / "model.onnx")
    suffix = "_proj.weight.fp8" if precision == "fp8" else "_proj.weight"
    matrices = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(suffix)]
    assert len(matrices) == 7 * 3
    for matrix in matrices:
        assert (np.count_nonzero(groups_of_four(matrix.astype(np.float32)), axis=1) <= 2).all()
    head = next(t for t in model.graph.initializer if t.name == "lm_head.weight")
    assert np.count_nonzero(onnx.numpy_helper.to_array(head)) > 0.9 * np.prod(head.dims)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_a_trained_model_survives_pruning(built, held_out, method: str) -> None:
    """Half of the projections' weights gone, the mean cosine of logits to the dense graph's stays above 0.9."""
    dense = logits(built("real", "portable", "fp32"), held_out)
    sparse = logits(built("real", "portable", "fp32", sparsity="2:4", sparsity_method=method), held_out)
    assert 0.9 < cosines(sparse, dense).mean() < 0.99999
