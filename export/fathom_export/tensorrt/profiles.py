"""The shapes that a plan is optimised for."""

from collections.abc import Mapping
from typing import Final

from fathom_server.engine.plan_passport import PlanProfile, ShapeRange
from fathom_server.engine.settings import (
    INPUT_IDS,
    LOGIT_POSITIONS,
    POSITION_IDS,
    WRITE_INDICES,
    EngineSettings,
    past_name,
)

SHORT_TEXT_TOKENS: Final = 128
"""Texts up to this length have a profile of their own: most are, and what suits 512 tokens is slow for 30."""


def decoder_profiles(settings: EngineSettings) -> tuple[PlanProfile, ...]:
    """Prefill (1 … max_batch rows of 1 … prefill_chunk tokens), a decode step of one row, and of several.

    TensorRT chooses kernels by the likeliest shape of each profile, so one row does not share a profile with many.
    """
    limits = settings.limits
    chunk = min(limits.prefill_chunk, settings.graph.max_context)
    profiles = [
        _decoder_profile("prefill", settings, (1, 1), (1, chunk), (limits.max_batch, chunk)),
        _decoder_profile("decode_one", settings, (1, 1), (1, 1), (1, 1)),
    ]
    if limits.max_batch > 1:
        most = (limits.max_batch, 1)
        profiles.append(_decoder_profile("decode_many", settings, (2, 1), most, most))
    return tuple(profiles)


def encoder_profiles(inputs: Mapping[str, int], max_batch: int, max_context: int) -> tuple[PlanProfile, ...]:
    """Short texts, and all lengths where there are longer ones; every input is [batch, sequence].

    ``inputs`` gives the rank of each input by its name; one of rank 1 is [batch].
    """
    short = min(SHORT_TEXT_TOKENS, max_context)
    lengths = [("short_texts", short)]
    if max_context > short:
        lengths.append(("all_texts", max_context))
    return tuple(
        PlanProfile(
            name,
            {
                tensor: ShapeRange((1, 1)[:rank], (max_batch, max(1, length // 2))[:rank], (max_batch, length)[:rank])
                for tensor, rank in inputs.items()
            },
        )
        for name, length in lengths
    )


def _decoder_profile(
    name: str, settings: EngineSettings, least: tuple[int, int], likeliest: tuple[int, int], most: tuple[int, int]
) -> PlanProfile:
    """A profile by batch and new tokens a row; a row gets logits at one position, the cache has its static length."""
    ends = (least, likeliest, most)
    tokens = ShapeRange(*ends)
    shapes = {
        INPUT_IDS: tokens,
        LOGIT_POSITIONS: ShapeRange(*((batch, 1) for batch, _ in ends)),
        POSITION_IDS: tokens,
        WRITE_INDICES: ShapeRange(*((batch,) for batch, _ in ends)),
    }
    graph = settings.graph
    cache = ShapeRange(*((batch, graph.kv_heads, graph.max_context, graph.head_dim) for batch, _ in ends))
    for layer in range(graph.layers):
        shapes[past_name(layer, "key")] = cache
        shapes[past_name(layer, "value")] = cache
    return PlanProfile(name, shapes)
