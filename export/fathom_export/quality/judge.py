"""From a model that was just built to its card, written beside the weights, or to the reason why it may not pass."""

from collections.abc import Callable
from pathlib import Path

from fathom_export.quality.card import PICTURE_FILE, QualityCard, now
from fathom_export.quality.markdown import save_markdown
from fathom_export.spec import BuiltSpec, GenerateSpec


def write_card(
    spec: BuiltSpec,
    source: Path,
    version: Path,
    work: Path,
    fp32_graph: Path | None,
    on_progress: Callable[[int, int], None],
    *,
    accept: str | None = None,
) -> QualityCard:
    """Judge the model in ``version`` and write its card there: ``quality.json``, ``quality.md``, ``quality.svg``.

    ``work`` is a folder for what judging needs meanwhile; ``fp32_graph`` an encoder's graph before it was quantised.
    ``accept`` is the reason why a card that fails is to pass all the same; it is recorded. Raises QualityError with the
    figures where the card fails and nobody accepted it, ExportError where the model cannot be judged.
    """
    card = _judge(spec, source, version, work, fp32_graph, on_progress)
    if card.failures and accept is not None:
        card = card.accepted(accept)
    card.require_pass()
    card.save_json(version)
    save_markdown(card, version)
    if card.measured is not None:
        from fathom_export.quality.picture import save_picture

        save_picture(card, version / PICTURE_FILE)
    return card


def _judge(
    spec: BuiltSpec,
    source: Path,
    version: Path,
    work: Path,
    fp32_graph: Path | None,
    on_progress: Callable[[int, int], None],
) -> QualityCard:
    if spec.quality.effort == "off":
        return _not_measured(spec, source, version, "the spec turns it off (quality.effort)")
    if isinstance(spec, GenerateSpec) and spec.dialect == "cuda":
        from fathom_server.engine.runner.cuda_device import cuda_fault

        fault = cuda_fault(spec.precision)
        if fault is not None:
            return _not_measured(spec, source, version, f"it is to be judged where it runs: {fault}")
    if isinstance(spec, GenerateSpec):
        from fathom_export.quality.decoder_judge import DecoderJudge

        text_file = Path(spec.quality.evaluation_text) if spec.quality.evaluation_text else None
        return DecoderJudge(spec, source, version, work, text_file).card(on_progress)
    from fathom_export.quality.encoder_judge import EncoderJudge

    return EncoderJudge(spec, source, version, work, fp32_graph).card(on_progress)


def _not_measured(spec: BuiltSpec, source: Path, version: Path, reason: str) -> QualityCard:
    from fathom_export.quality.sizes import graph_bytes, weight_bytes

    return QualityCard(
        model=spec.name,
        task=spec.task,
        precision=spec.precision,
        dialect=spec.dialect if isinstance(spec, GenerateSpec) else None,
        effort="off",
        created=now(),
        source_bytes=weight_bytes(source),
        export_bytes=graph_bytes(version),
        thresholds=spec.quality.thresholds(spec.precision),
        notes=(f"anything, for {reason}",),
    )
