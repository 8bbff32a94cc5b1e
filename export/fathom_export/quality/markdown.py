"""The quality card for people to read: ``quality.md``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fathom_export.quality.card import MARKDOWN_FILE, PICTURE_FILE, QualityCard

_MIB = 1 << 20


def save_markdown(card: QualityCard, folder: Path) -> None:
    """Write ``quality.md``; the picture stands beside it unless nothing was measured."""
    (folder / MARKDOWN_FILE).write_text("\n".join(_lines(card)) + "\n", encoding="utf-8")


def _lines(card: QualityCard) -> Iterator[str]:
    form = f"{card.precision}, {card.dialect} dialect" if card.dialect else card.precision
    yield f"# {card.model}: {form}: {card.verdict}"
    yield ""
    yield (
        f"Weights: {card.source_bytes / _MIB:.1f} MiB in the source, {card.export_bytes / _MIB:.1f} MiB exported "
        f"({card.export_bytes / max(card.source_bytes, 1):.0%}). Judged {card.created} in {card.seconds:.1f} s, "
        f"effort {card.effort}{f', by {card.graph}' if card.graph else ''}."
    )
    if card.measured is not None:
        text = card.measured
        yield f"Text: {text.description} ({text.texts} texts, {text.tokens} tokens)."
    for note in card.notes:
        yield f"Not measured: {note}."
    if card.failures:
        yield from ("", "## What was not reached", "", *(f"- {failure}" for failure in card.failures))
    if card.override is not None:
        yield ""
        yield f"Let pass by {card.override.user} at {card.override.time}: {card.override.reason}"
    yield from _figures(card)
    if card.layers:
        yield from _section("The layers with the largest errors of their own")
        yield "Each layer is given the fp32 graph's input; *accumulated* is the error of the stream behind it without."
        yield ""
        rows = [
            (error.layer, f"{error.relative_l2:.3%}", f"{error.cosine:.6f}", f"{error.accumulated:.3%}")
            for error in card.worst_layers
        ]
        yield from _table(("layer", "relative L2 error", "cosine", "accumulated"), rows)
    if card.measured is not None:
        yield from ("", f"![Quality of {card.model}]({PICTURE_FILE})")


def _figures(card: QualityCard) -> Iterator[str]:
    limits = card.thresholds
    if card.logits:
        yield from _section("Next-token distributions")
        rows = []
        for comparison in card.logits:
            figures = comparison.agreement
            rows.append(
                (
                    comparison.reference,
                    f"{figures.positions}",
                    f"{figures.mean_kl:.3g}{_limit('≤', limits.max_kl)}",
                    f"{figures.max_kl:.3g}",
                    f"{figures.perplexity:.4f} / {figures.reference_perplexity:.4f}",
                    f"{figures.top1:.2%}{_limit('≥', limits.min_top1)}",
                    f"{figures.mean_cosine:.6f}{_limit('≥', limits.min_cosine)}",
                )
            )
        head = ("reference", "positions", "mean KL, nats", "max KL", "perplexity / reference's", "top-1", "cosine")
        yield from _table(head, rows)
    if card.token_parity is not None:
        parity = card.token_parity
        yield from _section("Greedy tokens")
        ties = f", {parity.ties} more up to a tie" if parity.ties else ""
        yield (
            f"{parity.exact} of {parity.prompts} answers of {parity.tokens_each} tokens are those of "
            f"{parity.reference}{ties}; {parity.matching_tokens} of {parity.prompts * parity.tokens_each} tokens come "
            "before a first difference."
        )
    if card.accuracy is not None:
        yield from _section("Tasks")
        accuracy = card.accuracy
        reference = accuracy.reference_by_task
        rows = [
            (task, f"{share:.1%}", *((f"{reference[task]:.1%}",) if reference is not None else ()))
            for task, share in accuracy.by_task.items()
        ]
        whole = [f"all {accuracy.rows} questions", f"{accuracy.accuracy:.1%}"]
        if accuracy.reference_accuracy is not None:
            limit = _limit("≥ −", limits.max_accuracy_drop_points, " points")
            whole[1] += limit
            whole.append(f"{accuracy.reference_accuracy:.1%}")
        head = ("task", card.precision, *(("fp32",) if reference is not None else ()))
        yield from _table(head, [*rows, whole])
    if card.embeddings:
        yield from _section("Embeddings")
        table = [
            (
                comparison.reference,
                f"{comparison.texts}",
                f"{comparison.min_cosine:.6f}{_limit('≥', limits.min_cosine)}",
                f"{comparison.mean_cosine:.6f}",
                f"{comparison.rank_correlation:.6f}{_limit('≥', limits.min_rank_correlation)}",
                f"{comparison.pairs}",
            )
            for comparison in card.embeddings
        ]
        yield from _table(("reference", "texts", "least cosine", "mean", "rank correlation", "pairs"), table)
    if card.scores:
        yield from _section("Scores")
        scores = [
            (
                score.reference,
                f"{score.texts}",
                f"{score.max_error:.3g}{_limit('≤', limits.max_score_error)}",
                f"{score.mean_error:.3g}",
                "" if score.rank_correlation is None else f"{score.rank_correlation:.6f}",
                "" if score.top1 is None else f"{score.top1:.2%}",
            )
            for score in card.scores
        ]
        yield from _table(
            ("reference", "texts", "largest error", "mean error", "rank correlation", "same label"), scores
        )


def _section(title: str) -> Iterator[str]:
    yield from ("", f"## {title}", "")


def _limit(sign: str, value: float | None, unit: str = "") -> str:
    return "" if value is None else f" ({sign}{' ' if sign in '≤≥' else ''}{value:g}{unit})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
