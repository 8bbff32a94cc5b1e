"""Blocks of the KV cache: who holds them, and which of them another prompt may share.

A full block is found again by its tokens and the block before it, compared token for token (a trie, not a hash: two
prompts never share by accident). A block that nobody holds keeps its content until its place is needed; the one that
was let go of first goes first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fathom_server.engine.runner.base import CacheGeometry

ROOT: Final = 0
"""The node before a prompt's first block; that of lane n is ``ROOT - n``, for lanes share no keys and values."""


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Blocks that already hold the beginning of a prompt, now held by the asker too, and the last one's node."""

    blocks: list[int]
    node: int


class BlockPool:
    """Reference counts and content of every block; owned by the engine's thread."""

    def __init__(self, geometry: CacheGeometry) -> None:
        self.geometry = geometry
        self._references = [0] * geometry.blocks
        self._empty = list(range(geometry.blocks - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # blocks that nobody holds but whose content may be shared
        self._by_content: dict[tuple[int, tuple[int, ...]], int] = {}
        self._content: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._nodes: dict[int, int] = {}
        self._next_node = ROOT + 1

    @property
    def available(self) -> int:
        """Blocks that can be taken now."""
        return len(self._empty) + len(self._kept)

    @property
    def held(self) -> int:
        """Blocks that somebody holds."""
        return self.geometry.blocks - self.available

    def blocks_for(self, tokens: int) -> int:
        """How many blocks so many tokens take."""
        return -(-tokens // self.geometry.block_tokens)

    def take(self, count: int) -> list[int] | None:
        """Blocks for one holder, or None if there are not so many."""
        if count > self.available:
            return None
        blocks = []
        for _ in range(count):
            if self._empty:
                block = self._empty.pop()
            else:
                block, _ = self._kept.popitem(last=False)
                self._forget(block)
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def share(self, token_ids: Sequence[int], root: int = ROOT) -> SharedPrefix:
        """Take hold of the longest run of full blocks behind ``root`` that holds the beginning of these tokens.

        At least one token is left to compute, since somebody wants its logits.
        """
        size = self.geometry.block_tokens
        shared = SharedPrefix([], root)
        if not self.geometry.shareable:
            return shared
        node = root
        for begin in range(0, (len(token_ids) - 1) // size * size, size):
            block = self._by_content.get((node, tuple(token_ids[begin : begin + size])))
            if block is None:
                break
            self._hold(block)
            shared.blocks.append(block)
            node = self._nodes[block]
        return SharedPrefix(shared.blocks, node)

    def shareable_tokens(self, token_ids: Sequence[int]) -> int:
        """How many tokens ``share`` would find, nothing taken."""
        shared = self.share(token_ids)
        self.release(shared.blocks)
        return len(shared.blocks) * self.geometry.block_tokens

    def keep(self, block: int, parent: int, token_ids: tuple[int, ...]) -> int:
        """Say what a full block holds, behind the block of node ``parent``; returns the node of this content.

        Where another block holds the same already, that one stays the one that is shared.
        """
        known = self._by_content.get((parent, token_ids))
        if known is not None:
            return self._nodes[known]
        node, self._next_node = self._next_node, self._next_node + 1
        self._by_content[parent, token_ids] = block
        self._content[block] = (parent, token_ids)
        self._nodes[block] = node
        return node

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of blocks, in the order of their sequence; ends of prompts are forgotten before their beginnings."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] < 0:
                raise ValueError(f"block {block} was let go of more often than it was held")
            if self._references[block] == 0:
                if block in self._content:
                    self._kept[block] = None
                else:
                    self._empty.append(block)

    def clear(self) -> None:
        """Forget the content of every block that nobody holds."""
        while self._kept:
            block, _ = self._kept.popitem()
            self._forget(block)
            self._empty.append(block)

    def _hold(self, block: int) -> None:
        if self._references[block] == 0:
            del self._kept[block]
        self._references[block] += 1

    def _forget(self, block: int) -> None:
        del self._by_content[self._content.pop(block)]
        del self._nodes[block]
