"""What a draft model has computed of each sequence, and the blocks that hold it."""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

from fathom_server.engine.block_pool import BlockPool
from fathom_server.engine.runner.base import CacheGeometry


@dataclass(slots=True)
class CachedTokens:
    """One sequence's tokens in the draft model's cache: ``computed`` of its own, then ``drafted`` ones, maybe wrong."""

    computed: int = 0
    drafted: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many tokens stand in the cache."""
        return self.computed + len(self.drafted)

    def settle(self, token_ids: Sequence[int]) -> None:
        """Keep of the drafted tokens those that came true. The last token is always computed again: for its logits."""
        for token in self.drafted:
            if self.computed >= len(token_ids) - 1 or token_ids[self.computed] != token:
                break
            self.computed += 1
        self.computed = min(self.computed, len(token_ids) - 1)
        self.drafted.clear()


class DraftCache:
    """Blocks of the draft model's cache by sequence. What is not used for longest makes room."""

    def __init__(self, geometry: CacheGeometry) -> None:
        self.pool = BlockPool(geometry)
        self._most_tokens = geometry.blocks * geometry.block_tokens if geometry.shareable else geometry.block_tokens
        self._held: dict[Hashable, CachedTokens] = {}  # the one used longest ago first

    def of(self, key: Hashable) -> CachedTokens:
        """What is held of a sequence, possibly nothing; it counts as used now."""
        cached = self._held.pop(key, None) or CachedTokens()
        self._held[key] = cached
        return cached

    def reserve(self, cached: CachedTokens, tokens: int, needed: Collection[Hashable]) -> bool:
        """Blocks for so many tokens, if need be those of sequences that are not ``needed``; tells if there are."""
        if tokens > self._most_tokens:
            return False
        missing = self.pool.blocks_for(tokens) - len(cached.blocks)
        if missing <= 0:
            return True
        for key in list(self._held):
            if self.pool.available >= missing:
                break
            if key not in needed:
                self.forget(key)
        blocks = self.pool.take(missing)
        if blocks is None:
            return False
        cached.blocks.extend(blocks)
        return True

    def forget(self, key: Hashable) -> None:
        """Free what is held of a sequence."""
        cached = self._held.pop(key, None)
        if cached is not None:
            self.pool.release(cached.blocks)

    def clear(self) -> None:
        """Free everything."""
        for key in list(self._held):
            self.forget(key)
