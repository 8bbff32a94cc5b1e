"""How good an export must be: the thresholds of its quality card, and how much is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final, Literal

from fathom_export.errors import SpecError
from fathom_export.spec.key import Key, check_ranges

Effort = Literal["quick", "full", "off"]

EFFORT_HELP: Final = "quick: a sample, in seconds; full: all of the held-out set; off: no card's figures at all"

EffortKey = Annotated[Effort, Key(EFFORT_HELP)]
TextKey = Annotated[
    str, Key("UTF-8 file of text to judge on; by default the source's held-out set, or else text of our own choice")
]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a card must reach; None is not asked for.

    ``max_kl`` bounds the mean divergence KL(reference ‖ export) in nats, ``min_top1`` the share of positions with the
    same most probable token, ``min_cosine`` the mean cosine of logits, or the least cosine of embeddings,
    ``max_accuracy_drop_points`` the percentage points of task accuracy lost to fp32, ``min_rank_correlation``
    Spearman's correlation of the similarities of pairs of texts (embed) or of the scores (rerank), ``max_score_error``
    the largest error of a score; ``exact_tokens`` asks for the source's greedy tokens.
    """

    max_kl: float | None = None
    min_top1: float | None = None
    min_cosine: float | None = None
    max_accuracy_drop_points: float | None = None
    min_rank_correlation: float | None = None
    max_score_error: float | None = None
    exact_tokens: bool = False


DECODER_THRESHOLDS: Final[Mapping[str, Thresholds]] = {
    "fp32": Thresholds(1e-5, 0.999, 0.9999, 0.5, exact_tokens=True),
    "fp16": Thresholds(0.005, 0.98, 0.999, 2.0),
    "int8": Thresholds(0.05, 0.9, 0.99, 3.0),
    "fp8": Thresholds(0.1, 0.88, 0.98, 4.0),
    "int4": Thresholds(0.3, 0.8, 0.9, 8.0),
}
"""Defaults by precision, for an LLM."""

ENCODER_THRESHOLDS: Final[Mapping[str, Thresholds]] = {
    "fp32": Thresholds(min_cosine=0.999, min_rank_correlation=0.999, max_score_error=0.001),
    "fp16": Thresholds(min_cosine=0.995, min_rank_correlation=0.995, max_score_error=0.01),
    "int8": Thresholds(min_cosine=0.97, min_rank_correlation=0.98, max_score_error=0.1),
    "fp8": Thresholds(min_cosine=0.95, min_rank_correlation=0.97, max_score_error=0.15),
    "int4": Thresholds(min_cosine=0.9, min_rank_correlation=0.95, max_score_error=0.2),
}
"""Defaults by precision, for an encoder."""


@dataclass(frozen=True, slots=True)
class DecoderQuality:
    """How good an LLM must be; a threshold that is not given is the precision's own."""

    effort: EffortKey = "quick"
    evaluation_text: TextKey = ""
    max_kl: Annotated[
        float | None, Key("nats that the mean divergence KL(reference ‖ export) may have, by precision", minimum=0)
    ] = None
    min_top1: Annotated[
        float | None, Key("least share of positions with the reference's most probable token, by precision", minimum=0)
    ] = None
    min_cosine: Annotated[
        float | None, Key("least mean cosine of the logits to the reference's, by precision", minimum=0)
    ] = None
    max_accuracy_drop_points: Annotated[
        float | None, Key("percentage points of task accuracy that may be lost to fp32, by precision", minimum=0)
    ] = None

    def __post_init__(self) -> None:
        check_ranges(self, "quality")
        _check_shares(self, ("min_top1", "min_cosine"))

    def thresholds(self, precision: str) -> Thresholds:
        """What holds for a precision."""
        return _override(DECODER_THRESHOLDS.get(precision, Thresholds()), self)


@dataclass(frozen=True, slots=True)
class EncoderQuality:
    """How good an encoder must be; a threshold that is not given is the precision's own."""

    effort: EffortKey = "quick"
    evaluation_text: TextKey = ""
    min_cosine: Annotated[
        float | None, Key("least cosine of any text's embedding to the reference's (embed), by precision", minimum=0)
    ] = None
    min_rank_correlation: Annotated[
        float | None,
        Key("least rank correlation of pairs' similarities (embed) or of scores (rerank), by precision", minimum=0),
    ] = None
    max_score_error: Annotated[
        float | None,
        Key(
            "largest error of a score (rerank, classify), in parts of the largest one above 1, by precision", minimum=0
        ),
    ] = None

    def __post_init__(self) -> None:
        check_ranges(self, "quality")
        _check_shares(self, ("min_cosine", "min_rank_correlation"))

    def thresholds(self, precision: str) -> Thresholds:
        """What holds for a precision."""
        return _override(ENCODER_THRESHOLDS.get(precision, Thresholds()), self)


def _override(defaults: Thresholds, given: DecoderQuality | EncoderQuality) -> Thresholds:
    names = [field.name for field in fields(given) if hasattr(defaults, field.name)]
    own: dict[str, Any] = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    return replace(defaults, **own)


def _check_shares(quality: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(quality, name)
        if value is not None and value > 1:
            raise SpecError(f"quality.{name} is {value}; it must be between 0 and 1")
