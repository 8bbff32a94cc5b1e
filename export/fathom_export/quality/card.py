"""The quality card: what was measured, what had to be reached, and who let it pass; ``quality.json``."""

import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from fathom_export.errors import QualityError
from fathom_export.quality.layers import LayerError, worst
from fathom_export.quality.statistics import LogitAgreement
from fathom_export.spec.quality import Thresholds

CARD_FILE: Final = "quality.json"
MARKDOWN_FILE: Final = "quality.md"
PICTURE_FILE: Final = "quality.svg"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a figure was measured on: the text's origin and description, and how many texts and tokens were computed."""

    origin: str
    description: str
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class LogitComparison:
    """An LLM's logits against a reference's, which ``reference`` describes."""

    reference: str
    agreement: LogitAgreement


@dataclass(frozen=True, slots=True)
class TokenParity:
    """Greedy answers against the reference's: how many of ``prompts`` have all ``tokens_each`` tokens the same.

    ``matching_tokens`` counts the tokens before each answer's first difference. ``ties`` counts answers that part where
    the reference's two best logits are equal but for float32 rounding: those are no fault.
    """

    reference: str
    prompts: int
    tokens_each: int
    exact: int
    ties: int
    matching_tokens: int

    @property
    def is_exact(self) -> bool:
        """Whether no answer differs but at a tie."""
        return self.exact + self.ties == self.prompts


@dataclass(frozen=True, slots=True)
class TaskAccuracy:
    """Right answers to the source's held-out questions, greedy, by the serving engine.

    ``by_task`` gives each task's share of right answers, ``rows`` the number of questions; ``reference`` figures are
    those of our fp32 graph on the same questions, or None where the export is that graph.
    """

    rows: int
    accuracy: float
    by_task: Mapping[str, float]
    reference_accuracy: float | None
    reference_by_task: Mapping[str, float] | None

    @property
    def drop_points(self) -> float | None:
        """Percentage points lost to fp32; negative where some were gained."""
        return None if self.reference_accuracy is None else 100 * (self.reference_accuracy - self.accuracy)


@dataclass(frozen=True, slots=True)
class EmbeddingComparison:
    """An encoder's embeddings against a reference's, over ``texts``, each alone and in a padded batch.

    ``rank_correlation`` is Spearman's of the cosine similarities of all ``pairs`` of texts.
    """

    reference: str
    texts: int
    pairs: int
    min_cosine: float
    mean_cosine: float
    rank_correlation: float
    worst_text: str


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """A reranker's or classifier's scores against a reference's, over ``texts``, each alone and in a padded batch.

    Errors are in parts of the largest score, where that is above 1. ``rank_correlation`` is Spearman's of a reranker's
    scores, ``top1`` the share of texts with the same most probable label.
    """

    reference: str
    texts: int
    max_error: float
    mean_error: float
    rank_correlation: float | None
    top1: float | None
    worst_text: str


@dataclass(frozen=True, slots=True)
class Override:
    """Who let a card pass that failed, why and when."""

    user: str
    reason: str
    time: str


@dataclass(frozen=True, slots=True)
class QualityCard:
    """One export's card.

    ``graph`` is the file of an LLM that was judged: the one that is served where the export ran. ``source_bytes`` are
    those of the checkpoint's weights, ``export_bytes`` those of the graph with its weights.
    ``failures`` says in a sentence each what was not reached. ``notes`` say what was not measured, and why.
    """

    model: str
    task: str
    precision: str
    dialect: str | None
    effort: str
    created: str
    source_bytes: int
    export_bytes: int
    thresholds: Thresholds
    graph: str = ""
    measured: Measured | None = None
    logits: tuple[LogitComparison, ...] = ()
    token_parity: TokenParity | None = None
    accuracy: TaskAccuracy | None = None
    embeddings: tuple[EmbeddingComparison, ...] = ()
    scores: tuple[ScoreComparison, ...] = ()
    layers: tuple[LayerError, ...] = ()
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    override: Override | None = None
    seconds: float = 0.0
    series: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.effort == "off":
            return "not measured"
        if not self.failures:
            return "passed"
        return "failed" if self.override is None else "failed, accepted"

    @property
    def worst_layers(self) -> list[LayerError]:
        """The ten layers with the largest errors of their own."""
        return worst(self.layers)

    def judged(self, *failures: str) -> Self:
        """The same card with its failures, by its thresholds, and others that are known already."""
        return replace(self, failures=(*failures, *_failures(self)))

    def accepted(self, reason: str) -> Self:
        """The same card, let pass by the user of this process."""
        return replace(self, override=Override(_user(), reason, now()))

    def require_pass(self) -> None:
        """Raise QualityError, with every failure and what to do, unless the card passes or was let pass."""
        if self.failures and self.override is None:
            raise QualityError(
                f"{self.model}: the {self.precision} export is not good enough: {'; '.join(self.failures)}. The models "
                "that were there are as they were. Choose a higher precision, change the thresholds under quality, or "
                "let it pass with --accept-quality REASON"
            )

    def as_json(self) -> dict[str, Any]:
        """The card as JSON values; the worst layers stand beside all of them."""
        values = asdict(self)
        series = values.pop("series")
        return {
            "verdict": self.verdict,
            **values,
            "worst_layers": [error.layer for error in self.worst_layers],
            "series": series,
        }

    def save_json(self, folder: Path) -> None:
        """Write ``quality.json``."""
        text = json.dumps(self.as_json(), indent=2, ensure_ascii=False)
        (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def now() -> str:
    """The present moment in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id that no account has, as in some containers
        return "unknown"


def _failures(card: QualityCard) -> list[str]:
    limits, failures = card.thresholds, []

    def hold(what: str, value: float, limit: float | None, name: str, *, at_most: bool = False) -> None:
        # written so that a figure that is not a number fails, too
        if limit is not None and not (value <= limit if at_most else value >= limit):
            failures.append(f"{what} is {value:.4g}, {'above' if at_most else 'below'} {name} {limit:g}")

    for comparison in card.logits:
        figures, against = comparison.agreement, f"against {comparison.reference}"
        hold(f"the mean KL divergence {against}", figures.mean_kl, limits.max_kl, "max_kl", at_most=True)
        hold(f"top-1 agreement {against}", figures.top1, limits.min_top1, "min_top1")
        hold(f"the logits' mean cosine {against}", figures.mean_cosine, limits.min_cosine, "min_cosine")
    for embedding in card.embeddings:
        against = f"against {embedding.reference}"
        what = f"the cosine of the embedding of {embedding.worst_text!r} {against}"
        hold(what, embedding.min_cosine, limits.min_cosine, "min_cosine")
        limit, what = limits.min_rank_correlation, f"the rank correlation of similarities {against}"
        hold(what, embedding.rank_correlation, limit, "min_rank_correlation")
    for score in card.scores:
        against = f"against {score.reference}"
        what = f"the error of the score of {score.worst_text!r} {against}"
        hold(what, score.max_error, limits.max_score_error, "max_score_error", at_most=True)
        if score.rank_correlation is not None:
            limit = limits.min_rank_correlation
            hold(f"the rank correlation of scores {against}", score.rank_correlation, limit, "min_rank_correlation")
    if card.accuracy is not None and card.accuracy.drop_points is not None:
        limit = limits.max_accuracy_drop_points
        what = "the loss of task accuracy in percentage points"
        hold(what, card.accuracy.drop_points, limit, "max_accuracy_drop_points", at_most=True)
    parity = card.token_parity
    if limits.exact_tokens and parity is not None and not parity.is_exact:
        differing = parity.prompts - parity.exact - parity.ties
        failures.append(f"greedy tokens differ from those of {parity.reference} for {differing} of {parity.prompts}")
    return failures
