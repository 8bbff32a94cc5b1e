"""How much memory an LLM's engine takes, part by part, and what fits into how much."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from fathom_server.engine.settings import EngineLimits
from fathom_server.sizing import constants
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.shape import DecoderShape

_FLOAT32: Final = 4
_SPARE_SLOTS: Final = 1
"""Slots of a slot cache beyond ``max_batch`` (``engine/runner/slots.py``)."""
MOST_REQUESTS: Final = 1 << 20
MOST_CONTEXT: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Load:
    """So many requests at once, each of ``prompt_tokens`` and, in the end, ``generated_tokens``."""

    requests: int
    prompt_tokens: int
    generated_tokens: int

    @property
    def context(self) -> int:
        """Tokens of one request in the end."""
        return self.prompt_tokens + self.generated_tokens


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what they are for; their sum is what the engine's process (or the GPU) must have."""

    weights: int
    prompt_cache: int
    generation_cache: int
    activations: int
    logits: int
    runtime: int
    fragmentation: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(size for _, size in self.parts)

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Each part under the name that people read, largest things first in their fixed order."""
        return (
            ("weights", self.weights),
            ("KV cache, prompts", self.prompt_cache),
            ("KV cache, generation", self.generation_cache),
            ("activations", self.activations),
            ("logits", self.logits),
            ("workspace and runtime", self.runtime),
            ("fragmentation", self.fragmentation),
        )


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """The memory of one LLM's engine. ``max_positions`` is the length of the graph's rotary tables in tokens."""

    shape: DecoderShape
    form: EngineForm
    limits: EngineLimits
    max_positions: int

    @property
    def cache_bytes_per_token(self) -> int:
        """Of one token of one request, in all layers."""
        return self.form.cache_bytes_per_token(self.shape)

    @property
    def block_tokens(self) -> int:
        """Tokens by which a request's part of the cache grows."""
        return self.form.block_tokens(self.shape)

    @property
    def reserved_tokens(self) -> int:
        """Tokens for which the cache has addresses from the start; on a CPU its memory is taken as it is written."""
        limits, block = self.limits, self.block_tokens
        if self.form.has_slots:
            return (limits.max_batch + _SPARE_SLOTS) * limits.max_context
        each = -(-limits.max_context // block) * block
        return -(-limits.kv_cache_tokens // block) * block or limits.max_batch * each

    @property
    def usable_tokens(self) -> int:
        """Tokens of requests that the cache can hold."""
        return self.limits.max_batch * self.limits.max_context if self.form.has_slots else self.reserved_tokens

    def cache_tokens(self, tokens: int) -> int:
        """Tokens of cache that one request of so many tokens holds: whole blocks, or pages of a slot."""
        block = self.block_tokens
        return -(-tokens // block) * block

    def at_load(self) -> Memory:
        """When the model is loaded and warmed up, and nobody has asked anything yet.

        A native graph's embedding is mapped, and read row by row as tokens come.
        """
        memory = self._with_cache(0, 0, self.limits.max_batch)
        if self.form.runner != "native":
            return memory
        return replace(memory, weights=memory.weights - self.form.embedding_bytes(self.shape))

    def under(self, load: Load) -> Memory:
        """With so many requests at once at their longest.

        On a GPU the whole cache is taken at the start; what they do not use of it is fragmentation.
        """
        prompts = load.requests * self.cache_tokens(load.prompt_tokens)
        whole = load.requests * self.cache_tokens(load.context)
        return self._with_cache(prompts, whole - prompts, max(0, self.limits.max_batch - load.requests))

    def full(self) -> Memory:
        """With a full cache: the most that the engine ever takes. Prompts and answers are not told apart.

        It comes to that: blocks keep what they hold for others to share until their place is needed.
        """
        return self._with_cache(self.usable_tokens, 0, 0)

    def largest_requests(self, load: Load, memory_bytes: int) -> int:
        """How many requests of these lengths at once fit; 0 if not one does."""

        def fits(requests: int) -> bool:
            sized = self.sized_for(replace(load, requests=requests))
            return sized.under(replace(load, requests=requests)).total <= memory_bytes

        return largest(fits, MOST_REQUESTS)

    def longest_context(self, requests: int, memory_bytes: int) -> int:
        """How many tokens, prompt and answer together, so many requests at once may have each; 0 if none."""

        def fits(context: int) -> bool:
            load = Load(requests, context, 0)
            return self.sized_for(load).under(load).total <= memory_bytes

        return largest(fits, MOST_CONTEXT)

    def sized_for(self, load: Load) -> "EngineMemory":
        """The engine with limits for exactly this load."""
        context = max(1, load.context)
        limits = replace(
            self.limits,
            max_batch=max(1, load.requests),
            max_context=context,
            kv_cache_tokens=0,
        )
        return replace(self, limits=limits, max_positions=max(context, 1))

    def _with_cache(self, prompt_tokens: int, generated_tokens: int, idle_slots: int) -> Memory:
        shape, form, each = self.shape, self.form, self.cache_bytes_per_token
        activations = self._activation_bytes()
        idle = 0
        if form.on_gpu:
            idle = (self.reserved_tokens - prompt_tokens - generated_tokens) * each
        elif form.has_slots:  # warm-up wrote a token into each
            idle = idle_slots * self.block_tokens * each
        return Memory(
            weights=form.weight_bytes(shape) + self._rotary_bytes(),
            prompt_cache=prompt_tokens * each,
            generation_cache=generated_tokens * each,
            activations=activations,
            logits=self._logit_bytes(),
            runtime=self._runtime_bytes(),
            fragmentation=max(0, idle) + round(activations * constants.ARENA_SLACK),
        )

    def _rotary_bytes(self) -> int:
        """Cosines and sines of every position."""
        item = 2 if self.form.on_gpu else _FLOAT32
        return self.max_positions * self.shape.head_dim * item

    def _activation_bytes(self) -> int:
        """Activations that live at once in the widest place of a step: a chunk of prompts and a token of the others."""
        shape, limits = self.shape, self.limits
        rows = min(limits.prefill_chunk, limits.max_context) + limits.max_batch
        query = shape.heads * shape.head_dim
        attention = 2 * query + 2 * shape.kv_heads * shape.head_dim
        if self.form.runner == "native":
            mlp = shape.intermediate + shape.hidden
        else:
            mlp = 3 * shape.intermediate + shape.hidden
        item = 2 if self.form.on_gpu else _FLOAT32
        return rows * (2 * shape.hidden + max(attention, mlp)) * item

    def _logit_bytes(self) -> int:
        """Logits of a step in float32, once by the graph and once by the sampler."""
        return constants.LOGIT_COPIES * self.limits.max_batch * self.shape.vocabulary * _FLOAT32

    def _runtime_bytes(self) -> int:
        if self.form.on_gpu:
            return constants.CUDA_CONTEXT_BYTES + constants.CUDA_WORKSPACE_BYTES
        return constants.ENGINE_PROCESS_BYTES + constants.ENGINE_BYTES_PER_TOKEN_ID * self.shape.vocabulary


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that fits, where what is more than one that does not fit does not either."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
