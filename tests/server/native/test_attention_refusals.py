"""Attention refuses what it cannot compute, names it, and writes nothing."""

from typing import Any

import numpy as np
import pytest
from tests.server.native.attention_reference import Shape, feeds, session


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"heads": None}, "attribute heads is missing"),
        ({"kv_heads": None}, "attribute kv_heads is missing"),
        ({"head_dim": None}, "attribute head_dim is missing"),
        ({"layer": None}, "attribute layer is missing"),
        ({"layer": -1}, "layer is -1"),
        ({"heads": 0}, "heads is 0"),
        ({"heads": 4, "kv_heads": 3}, "heads is 4, no multiple of kv_heads, 3"),
        ({"head_dim": 40}, "head_dim is 40"),
        ({"head_dim": 528}, "head_dim is 528"),
        ({"block_tokens": 48}, "block_tokens is 48"),
        ({"block_tokens": -32}, "block_tokens is -32"),
        ({"window": -1}, "window is -1"),
        ({"softcap": -2.0}, "softcap"),
        ({"softcap": float("nan")}, "softcap"),
        ({"scale": float("inf")}, "scale"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"kv_dtype": "int4"}, 'kv_dtype is "int4"; it must be int8, float16 or float32'),
    ],
)
def test_attributes(attributes: dict[str, Any], says: str) -> None:
    """A node with an attribute out of range makes no session."""
    with pytest.raises(Exception, match=r"fathom\.Attention") as caught:
        session(Shape(), **attributes)
    assert says in str(caught.value)


def zeros(*shape: int, dtype: type = np.float32) -> Any:
    """An input that is wrong by its shape."""
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"qkv": zeros(5, 319)}, "qkv has shape [5, 319]; it must be [?, 320]"),
        ({"qkv": zeros(1, 5, 320)}, "qkv has shape [1, 5, 320]"),
        ({"qkv": zeros(6, 320)}, "row_starts must begin with 0 and end with the 6 rows of qkv"),
        ({"kv_cache": zeros(1, 4, 4351, dtype=np.uint8)}, "kv_cache has shape [1, 4, 4351]; it must be [?, ?, 4352]"),
        ({"kv_cache": zeros(0, 4, 4352, dtype=np.uint8)}, "this node's layer is 0"),
        ({"row_starts": np.array([0, 5], np.int32)}, "row_starts has shape [2]; it must be [3]"),
        ({"row_starts": np.array([1, 3, 5], np.int32)}, "row_starts must begin with 0"),
        ({"row_starts": np.array([0, 6, 5], np.int32)}, "row_starts decreases at the end of row 1"),
        ({"past_lengths": np.array([0, -1], np.int32)}, "past_lengths of row 1 is -1"),
        ({"past_lengths": np.array([0, 63], np.int32)}, "its block table holds 64"),
        ({"past_lengths": np.array([2**31 - 1, 0], np.int32)}, "its block table holds 64"),
        ({"block_tables": zeros(2, 0, dtype=np.int32)}, "its block table holds 0"),
        ({"block_tables": zeros(1, 2, dtype=np.int32)}, "block_tables has shape [1, 2]; it must be [2, ?]"),
        (
            {"block_tables": np.array([[0, 1], [4, 2]], np.int32)},
            "block_tables of row 1 has block 4 at 0; the cache has blocks 0 to 3",
        ),
        ({"block_tables": np.array([[-1, 1], [3, 2]], np.int32)}, "block_tables of row 0 has block -1 at 0"),
        ({"cosines": zeros(4096, 33), "sines": zeros(4096, 33)}, "more than half of head_dim 64"),
        ({"sines": zeros(4096, 31)}, "sines has shape [4096, 31]; it must be [4096, 32]"),
        ({"cosines": zeros(2, 32), "sines": zeros(2, 32)}, "cosines end after 2 positions"),
        ({"q_norm": zeros(63)}, "q_norm has shape [63]; it must be [64]"),
        ({"k_norm": zeros(1, 64)}, "k_norm has shape [1, 64]"),
    ],
)
def test_inputs(inputs: dict[str, Any], says: str) -> None:
    """A step whose inputs do not fit is an error that names them, and the cache stays as it was."""
    shape = Shape(rotary=64, norms=True)
    cache = np.full((1, 4, shape.block_bytes), 7, np.uint8)
    given = feeds(
        shape,
        np.ones((5, shape.width), np.float32),
        cache,
        np.array([0, 3, 5], np.int32),
        np.array([0, 0], np.int32),
        np.array([[0, 1], [3, 2]], np.int32),
    )
    runner = session(shape)
    with pytest.raises(Exception, match=r"fathom\.Attention") as caught:
        runner.run(None, given | inputs)
    assert says in str(caught.value)
    assert (cache == 7).all()
    runner.run(None, given)
    assert (cache != 7).any()


def test_entries_that_a_row_needs_not_may_be_anything() -> None:
    """Table entries behind a row's tokens, and before what a window still sees, are not looked at."""
    shape = Shape(window=32)
    cache = np.zeros((1, 4, shape.block_bytes), np.uint8)
    table = np.array([[-5, 99, 1, 2, -1]], np.int32)
    qkv = np.ones((2, shape.width), np.float32)
    starts, past = np.array([0, 2], np.int32), np.array([96 + 5], np.int32)
    context = session(shape).run(None, feeds(shape, qkv, cache, starts, past, table))[0]
    assert context.shape == (2, shape.heads * shape.head_dim)
