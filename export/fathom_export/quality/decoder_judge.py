"""A decoder's quality card: its logits, greedy tokens, answers and layers against the source and our fp32 graph."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from fathom_export.decoder import build_decoder
from fathom_export.errors import ExportError
from fathom_export.quality.accuracy import task_accuracy
from fathom_export.quality.answers import Question, answer_all
from fathom_export.quality.card import LogitComparison, Measured, QualityCard, TokenParity, now
from fathom_export.quality.decoder_graph import DecoderGraph, FlatGraph
from fathom_export.quality.decoder_layers import compare_decoder_layers
from fathom_export.quality.held_out import HeldOutRow, find_held_out, read_held_out, spread
from fathom_export.quality.layers import LayerError
from fathom_export.quality.memory import JudgingPlan, available_bytes
from fathom_export.quality.picture import DIVERGENCES
from fathom_export.quality.session import session_options
from fathom_export.quality.sizes import graph_bytes, weight_bytes
from fathom_export.quality.source_decoder import SourceDecoder, has_torch
from fathom_export.quality.statistics import LogitStatistics
from fathom_export.quality.text import EvaluationText, Passage, file_text, generated_text, held_out_text
from fathom_export.spec import GenerateSpec
from fathom_server.engine.runner.load import served_graph
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import GRAPH_FILE, NATIVE_GRAPH_FILE, EngineSettings
from fathom_server.text.tokenizer import TextTokenizer

_TIE: Final = 5e-5
"""Two logits whose difference is less than this share of the largest magnitude are equal up to float32 rounding."""
_SERIES_POINTS: Final = 400
_LOGITS_BYTES: Final = 256 << 20
_REFERENCE_FOLDER: Final = "fp32-reference"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is measured; tokens are those that are computed, not only those that count."""

    tokens: int
    questions: int
    greedy_prompts: int
    greedy_tokens: int
    layer_texts: int


BUDGETS: Final[Mapping[str, Budget]] = {
    "quick": Budget(tokens=4_000, questions=140, greedy_prompts=4, greedy_tokens=32, layer_texts=4),
    "full": Budget(tokens=200_000, questions=1_000_000, greedy_prompts=16, greedy_tokens=128, layer_texts=16),
}


class LogitModel(Protocol):
    """Something that gives logits of a text: the source model, or a graph."""

    def logits(self, token_ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after the tokens at some positions: float32 [positions, vocabulary]."""
        ...


@dataclass(frozen=True, slots=True)
class _Reference:
    """A model to be compared with, and how it is called; ``folder`` and ``settings`` are our own graph's."""

    description: str
    model: LogitModel
    folder: Path | None = None


class DecoderJudge:
    """Judges one export. ``version`` is its version's folder, ``work`` one that may be written into."""

    def __init__(self, spec: GenerateSpec, source: Path, version: Path, work: Path, text_file: Path | None) -> None:
        self._spec = spec
        self._source = source
        self._version = version
        self._work = work
        self._text_file = text_file
        self._budget = BUDGETS[spec.quality.effort]
        self._settings = EngineSettings.load(version)
        self._tokenizer = TextTokenizer.load(version)
        self._options = session_options(spec.precision) if spec.dialect != "cuda" else {}
        self._notes: list[str] = []

    def card(self, on_progress: Callable[[int, int], None]) -> QualityCard:
        """Measure everything; raises ExportError where the export cannot be run."""
        began = time.monotonic()
        rows, path = self._held_out()
        text = self._text(rows, path)
        on_progress(1, 6)
        graph = served_graph(self._version)
        tested = self._tested(graph)
        plan = self._plan()
        source = SourceDecoder.load(self._source) if plan.with_source else None
        own = self._own_reference() if plan.with_own else None
        references = [] if source is None else [_Reference("the source model (transformers, fp32)", source)]
        references += [] if own is None else [own]
        on_progress(2, 6)
        passages = text.within(self._budget.tokens)
        comparisons, series = self._compare_logits(references, tested, passages)
        on_progress(3, 6)
        parity = self._token_parity(references, source, passages)
        on_progress(4, 6)
        accuracy = None
        if rows:
            chosen = spread(rows, self._budget.questions)
            fp32 = own.folder if own is not None and self._spec.precision != "fp32" else None
            accuracy = task_accuracy(self._version, fp32, chosen, self._tokenizer, self._options)
        on_progress(5, 6)
        errors = self._layer_errors(own, passages) if plan.with_layers else []
        if errors and graph != GRAPH_FILE:
            self._notes.append(f"layers of {graph}, whose operators hide them; those of {GRAPH_FILE} stand here")
        on_progress(6, 6)
        nothing = () if references or not plan.notes else (f"nothing was compared: {'; '.join(plan.notes)}",)
        return QualityCard(
            model=self._spec.name,
            task=self._spec.task,
            precision=self._spec.precision,
            dialect=self._spec.dialect,
            graph=graph,
            effort=self._spec.quality.effort,
            created=now(),
            source_bytes=weight_bytes(self._source),
            export_bytes=graph_bytes(self._version),
            thresholds=self._spec.quality.thresholds(self._spec.precision),
            measured=Measured(
                text.origin, text.description, len(passages), sum(len(passage.token_ids) for passage in passages)
            ),
            logits=tuple(comparisons),
            token_parity=parity,
            accuracy=accuracy,
            layers=tuple(errors),
            notes=tuple(self._notes),
            seconds=round(time.monotonic() - began, 3),
            series=series,
        ).judged(*nothing)

    def _plan(self) -> JudgingPlan:
        """What is compared, as far as memory goes."""
        plan = JudgingPlan.of(
            self._source,
            graph_bytes(self._version),
            wants_source=has_torch(),
            wants_own=self._spec.precision != "fp32",
            available=available_bytes(),
        )
        self._notes.extend(plan.notes)
        if plan.with_source and self._spec.precision == "fp32":
            self._notes.append("layers and fp32, for this is the fp32 graph that others are held against")
        return plan

    def _tested(self, graph: str) -> LogitModel:
        """The graph that is served."""
        if graph == NATIVE_GRAPH_FILE or self._settings.graph.dialect == "cuda":
            return FlatGraph(self._version, self._settings)
        return DecoderGraph(self._version, self._settings.graph, self._options, threads=self._settings.limits.threads)

    def _held_out(self) -> tuple[list[HeldOutRow], Path | None]:
        path = find_held_out(self._source)
        if path is None:
            self._notes.append("task accuracy, for the source brings no held_out.jsonl")
            return [], None
        if not self._tokenizer.has_chat_template:
            self._notes.append(f"task accuracy, for {path.name} asks by messages and the model has no chat template")
            return [], None
        return read_held_out(path), path

    def _text(self, rows: list[HeldOutRow], path: Path | None) -> EvaluationText:
        context = self._settings.limits.max_context
        if self._text_file is not None:
            return file_text(self._text_file, self._tokenizer, context)
        if path is not None:
            ends = self._settings.eos_token_ids
            return held_out_text(spread(rows, len(rows)), path, self._tokenizer, ends, context)
        return generated_text(self._version, self._settings, self._tokenizer, self._options)

    def _own_reference(self) -> _Reference | None:
        """Our fp32 graph: of the same dialect; for an fp32 export, which lacks the source model then, of the other.

        The cuda dialect, which has no fp32, is held against the cpu one's.
        """
        dialect = self._settings.graph.dialect
        if dialect == "cuda":
            dialect = "cpu"
        if self._spec.precision == "fp32":
            dialect = "portable" if dialect == "cpu" else "cpu"
        folder = self._work / _REFERENCE_FOLDER
        folder.mkdir()
        try:
            description = build_decoder(
                self._source,
                folder,
                dialect=dialect,
                precision="fp32",
                max_context=self._settings.graph.max_context,
            )
        except ExportError as error:
            if self._spec.precision != "fp32":
                raise
            self._notes.append(f"fp32, without the source model, for the {dialect} dialect cannot be built: {error}")
            return None
        EngineSettings(description, self._settings.limits, self._settings.eos_token_ids).save(folder)
        graph = DecoderGraph(folder, description, {}, threads=self._settings.limits.threads)
        return _Reference(f"our fp32 graph, {dialect} dialect", graph, folder)

    def _compare_logits(
        self, references: Sequence[_Reference], tested: LogitModel, passages: Sequence[Passage]
    ) -> tuple[list[LogitComparison], dict[str, list[float]]]:
        statistics = [LogitStatistics() for _ in references]
        for group in self._groups(passages):
            logits = [tested.logits(passage.token_ids, passage.positions) for passage in group]
            for reference, gathered in zip(references, statistics, strict=True):
                for passage, own in zip(group, logits, strict=True):
                    theirs = reference.model.logits(passage.token_ids, passage.positions)
                    gathered.add(theirs, own, np.array(passage.targets, dtype=np.int64))
        comparisons = [
            LogitComparison(reference.description, gathered.agreement())
            for reference, gathered in zip(references, statistics, strict=True)
        ]
        if not statistics:
            return [], {}
        shares = np.linspace(0, 1, _SERIES_POINTS)
        quantiles = np.quantile(statistics[0].divergences, shares)
        return comparisons, {DIVERGENCES: [float(f"{value:.3g}") for value in quantiles]}

    def _groups(self, passages: Sequence[Passage]) -> Iterator[list[Passage]]:
        """Passages in groups whose logits fit into memory: fewer turns of the models disturb each other less."""
        room = max(1, _LOGITS_BYTES // (4 * self._settings.graph.vocabulary))
        group: list[Passage] = []
        positions = 0
        for passage in passages:
            if group and positions + len(passage.positions) > room:
                yield group
                group, positions = [], 0
            group.append(passage)
            positions += len(passage.positions)
        if group:
            yield group

    def _token_parity(
        self, references: Sequence[_Reference], source: SourceDecoder | None, passages: Sequence[Passage]
    ) -> TokenParity | None:
        context = self._settings.limits.max_context
        prompts = []
        for passage in passages:
            size = max(passage.first_target, min(16, len(passage.token_ids) // 2))
            if size + self._budget.greedy_tokens <= context:
                prompts.append(passage.token_ids[:size])
        prompts = prompts[: self._budget.greedy_prompts]
        if not references or not prompts:
            return None
        reference = references[0]
        length = self._budget.greedy_tokens
        sampling = SamplingParameters(max_tokens=length, ignore_eos=True)
        questions = [Question(tuple(prompt), sampling) for prompt in prompts]
        if source is not None:
            wanted = [source.greedy(prompt, length) for prompt in prompts]
        else:
            assert reference.folder is not None  # noqa: S101  # without the source, it is our own graph
            settings = EngineSettings.load(reference.folder)
            answers = answer_all(reference.folder, settings, self._tokenizer, questions, {})
            wanted = [answer.token_ids for answer in answers]
        given = answer_all(self._version, self._settings, self._tokenizer, questions, self._options)
        exact = ties = matching = 0
        for prompt, ours, theirs in zip(prompts, (answer.token_ids for answer in given), wanted, strict=True):
            same = next(
                (place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), None
            )
            matching += length if same is None else same
            if same is None:
                exact += 1
            elif _is_tie(reference.model, (*prompt, *theirs[:same])):
                ties += 1
        return TokenParity(reference.description, len(prompts), length, exact, ties, matching)

    def _layer_errors(self, own: _Reference | None, passages: Sequence[Passage]) -> list[LayerError]:
        if own is None or own.folder is None or self._settings.graph.dialect == "cuda":
            return []
        description = EngineSettings.load(own.folder).graph
        paths = own.folder / GRAPH_FILE, self._version / GRAPH_FILE
        texts = [passage.token_ids for passage in passages[: self._budget.layer_texts]]
        errors = compare_decoder_layers(paths, description, self._settings.graph, self._options, texts)
        if not errors:
            self._notes.append("layers, for the graph's inner tensors are not those of the fp32 graph")
        return errors


def _is_tie(model: LogitModel, token_ids: Sequence[int]) -> bool:
    logits = model.logits(token_ids, [len(token_ids) - 1])[0]
    second, first = np.sort(logits)[-2:]
    return bool(first - second <= _TIE * np.abs(logits).max())
