"""Blocks are shared by content, never lost, and forgotten in the order in which nobody needs them."""

import pytest

from fathom_server.engine.block_pool import ROOT, BlockPool
from fathom_server.engine.runner.base import CacheGeometry

PROMPT = list(range(100, 111))


def filled(pool: BlockPool, tokens: list[int]) -> list[int]:
    """Blocks for a sequence, the full ones known by content."""
    blocks = pool.take(pool.blocks_for(len(tokens)))
    assert blocks is not None
    node = ROOT
    for place, block in enumerate(blocks[: len(tokens) // pool.geometry.block_tokens]):
        node = pool.keep(block, node, tuple(tokens[place * 4 : place * 4 + 4]))
    return blocks


@pytest.fixture
def pool() -> BlockPool:
    """Eight blocks of four tokens."""
    return BlockPool(CacheGeometry(blocks=8, block_tokens=4, shareable=True))


def test_full_blocks_are_found_again(pool: BlockPool) -> None:
    """The full blocks of a prompt's beginning are shared while they are held and after; a partial one is not."""
    blocks = filled(pool, PROMPT)
    shared = pool.share([*PROMPT, 7])
    assert shared.blocks == blocks[:2]
    pool.release(blocks)
    pool.release(shared.blocks)
    assert pool.available == 8
    assert pool.share(PROMPT).blocks == blocks[:2]
    assert pool.held == 2


def test_one_token_is_always_left_to_compute(pool: BlockPool) -> None:
    """A prompt of whole blocks does not find its last one: its logits are wanted."""
    blocks = filled(pool, PROMPT[:8])
    assert pool.share(PROMPT[:8]).blocks == blocks[:1]


def test_same_tokens_behind_others_are_not_shared(pool: BlockPool) -> None:
    """A block counts with everything before it."""
    filled(pool, PROMPT)
    assert pool.share([0, 0, 0, 0, *PROMPT[4:]]).blocks == []


def test_content_goes_when_its_place_is_needed(pool: BlockPool) -> None:
    """What was let go of first is forgotten first, ends of prompts before their beginnings."""
    blocks = filled(pool, PROMPT)
    pool.release(blocks)
    assert pool.take(7) is not None  # the six without content, and one of the two that were kept
    shared = pool.share(PROMPT)
    assert shared.blocks == blocks[:1]
    assert pool.take(1) is None
    assert pool.held == 8


def test_letting_go_twice_is_a_fault(pool: BlockPool) -> None:
    """A block that nobody holds cannot be let go of."""
    blocks = pool.take(1)
    assert blocks is not None
    pool.release(blocks)
    with pytest.raises(ValueError, match="more often than it was held"):
        pool.release(blocks)


def test_slots_are_not_shared() -> None:
    """Where a block is a slot, nothing is found."""
    pool = BlockPool(CacheGeometry(blocks=2, block_tokens=64, shareable=False))
    pool.take(1)
    assert pool.share(PROMPT).blocks == []


def test_clear_forgets_what_nobody_holds(pool: BlockPool) -> None:
    """After ``clear`` only what is held can be shared."""
    first, second = filled(pool, PROMPT), filled(pool, [1, 2, 3, 4, 5])
    pool.release(first)
    pool.clear()
    assert pool.share(PROMPT).blocks == []
    assert pool.share([1, 2, 3, 4, 5]).blocks == second[:1]
