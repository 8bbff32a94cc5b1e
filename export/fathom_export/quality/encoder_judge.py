"""An encoder's quality card: its embeddings or scores and its layers against the source and our fp32 graph."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_client.protocol import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING, TOKEN_TYPE_IDS
from fathom_export.encoder import EncoderForm, SentenceModel
from fathom_export.encoder.tokenizer import load_tokenizer
from fathom_export.quality import layers as layer_errors
from fathom_export.quality.card import EmbeddingComparison, Measured, QualityCard, ScoreComparison, now
from fathom_export.quality.picture import REFERENCE_SIMILARITIES, SIMILARITIES
from fathom_export.quality.sentences import SENTENCES
from fathom_export.quality.session import open_session, session_options
from fathom_export.quality.sizes import graph_bytes, weight_bytes
from fathom_export.quality.statistics import cosines, spearman
from fathom_export.quality.text import read_text
from fathom_export.spec.model_spec import EncoderSpec
from fathom_server.engine.runner.load import served_graph
from fathom_server.engine.settings import GRAPH_FILE

Floats = npt.NDArray[np.float32]
Inputs = Mapping[str, npt.NDArray[np.int64]]
Encode = Callable[[Inputs], Floats]

_TEXTS: Final[Mapping[str, int]] = {"quick": 64, "full": 2_000}
_BATCH: Final = 16
_LONGEST: Final = 256
_LAYER_TEXTS: Final = 8
_SERIES_POINTS: Final = 400
_SOURCE: Final = "the source model (torch, fp32)"
_FP32: Final = "our fp32 graph"


class EncoderJudge:
    """Judges one export.

    ``work`` is a folder for what is needed meanwhile. ``fp32_graph`` is the same graph before it was quantised, None
    where it was not.
    """

    def __init__(self, spec: EncoderSpec, source: Path, version: Path, work: Path, fp32_graph: Path | None) -> None:
        self._spec = spec
        self._source = source
        self._version = version
        self._work = work
        self._fp32_graph = fp32_graph
        self._form = EncoderForm.load(source, spec.task)
        self._tokenizer = load_tokenizer(source, self._form.architecture)
        self._options = session_options(spec.precision)
        self._notes: list[str] = []

    def card(self, on_progress: Callable[[int, int], None]) -> QualityCard:
        """Measure everything; raises ExportError where the export cannot be run."""
        began = time.monotonic()
        texts, measured = self._texts()
        rows = self._rows(texts)
        on_progress(1, 4)
        graph = self._version / served_graph(self._version)
        given = self._encode_all(self._on_graph(graph, self._options), rows)
        wanted = {_SOURCE: self._encode_all(self._on_source(), rows)}
        on_progress(2, 4)
        if self._fp32_graph is not None:
            wanted[_FP32] = self._encode_all(self._on_graph(self._fp32_graph, {}), rows)
        on_progress(3, 4)
        embeddings: list[EmbeddingComparison] = []
        scores: list[ScoreComparison] = []
        series: dict[str, list[float]] = {}
        for name, reference in wanted.items():
            if self._form.output.name == SENTENCE_EMBEDDING:
                embeddings.append(compare_embeddings(name, reference, given, texts))
                series = series or _similarity_series(reference, given, len(texts))
            else:
                scores.append(compare_scores(name, reference, given, texts))
        errors = self._layer_errors(rows)
        if errors and graph.name != GRAPH_FILE:
            self._notes.append(f"layers of {graph.name}, whose operators hide them; those of {GRAPH_FILE} stand here")
        on_progress(4, 4)
        return QualityCard(
            model=self._spec.name,
            task=self._spec.task,
            precision=self._spec.precision,
            dialect=None,
            graph=graph.name,
            effort=self._spec.quality.effort,
            created=now(),
            source_bytes=weight_bytes(self._source),
            export_bytes=graph_bytes(self._version),
            thresholds=self._spec.quality.thresholds(self._spec.precision),
            measured=Measured(*measured, texts=len(texts), tokens=sum(len(ids) for ids, _ in rows)),
            embeddings=tuple(embeddings),
            scores=tuple(scores),
            layers=tuple(errors),
            notes=tuple(self._notes),
            seconds=round(time.monotonic() - began, 3),
            series=series,
        ).judged()

    def _texts(self) -> tuple[list[str], tuple[str, str]]:
        """Texts, and the origin and description of them."""
        most = _TEXTS[self._spec.quality.effort]
        if self._spec.quality.evaluation_text:
            path = Path(self._spec.quality.evaluation_text)
            lines = list(dict.fromkeys(line.strip() for line in read_text(path).splitlines() if line.strip()))
            return lines[:most], ("file", f"the lines of {path.name}")
        return list(SENTENCES[:most]), ("fixed", "fixed sentences of several subjects, tongues and scripts")

    def _rows(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Ids and token types of each text, or of each with the next where the encoder takes pairs."""
        others = [*texts[1:], texts[0]]
        rows = self._tokenizer.encode_rows(list(zip(texts, others, strict=True)) if self._form.takes_pairs else texts)
        longest = min(self._form.architecture.max_context, _LONGEST)
        return [(ids[:longest], types[:longest]) for ids, types in rows]

    def _encode_all(self, encode: Encode, rows: Sequence[tuple[list[int], list[int]]]) -> Floats:
        """Outputs of all rows in padded batches, then of each alone: [2 × rows, columns]."""
        batches = [self._inputs(rows[begin : begin + _BATCH]) for begin in range(0, len(rows), _BATCH)]
        alone = [self._inputs([row]) for row in rows]
        return np.concatenate([encode(inputs) for inputs in (*batches, *alone)]).astype(np.float32)

    def _inputs(self, rows: Sequence[tuple[list[int], list[int]]]) -> Inputs:
        length = max(len(ids) for ids, _ in rows)
        pad = self._form.architecture.pad_token_id
        arrays = {
            INPUT_IDS: [ids + [pad] * (length - len(ids)) for ids, _ in rows],
            ATTENTION_MASK: [[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows],
            TOKEN_TYPE_IDS: [types + [0] * (length - len(types)) for _, types in rows],
        }
        return {name: np.array(arrays[name], dtype=np.int64) for name in self._form.inputs}

    def _on_graph(self, path: Path, options: Mapping[str, str]) -> Encode:
        session = open_session(path, path.parent, options, int(self._spec.limits.get("threads", 0)))
        output = self._form.output.name
        return lambda inputs: np.asarray(session.run([output], dict(inputs))[0])

    def _on_source(self) -> Encode:
        import torch

        from fathom_export.encoder.torch_model import load_classifier, load_sentence_encoder

        model = self._form.model
        loaded: torch.nn.Module
        loaded = (
            load_sentence_encoder(model, self._work)
            if isinstance(model, SentenceModel)
            else load_classifier(model, self._work)
        )

        def encode(inputs: Inputs) -> Floats:
            with torch.inference_mode():
                outputs: Floats = loaded(*map(torch.from_numpy, inputs.values())).numpy()
            return outputs

        return encode

    def _layer_errors(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[layer_errors.LayerError]:
        if self._fp32_graph is None:
            self._notes.append("layers and fp32, for this is the fp32 graph that others are held against")
            return []
        inputs = [self._inputs([row]) for row in rows[:_LAYER_TEXTS]]
        paths = self._fp32_graph, self._version / GRAPH_FILE
        errors = compare_encoder_layers(paths, self._form.output.name, self._options, inputs)
        if not errors:
            self._notes.append("layers, for no stream was found in the graph")
        return errors


def compare_embeddings(name: str, reference: Floats, given: Floats, texts: Sequence[str]) -> EmbeddingComparison:
    """Embeddings [2 × texts, dimension], batched and then alone, against those of a reference."""
    own = cosines(reference, given)
    one, other = _similarities(reference, len(texts)), _similarities(given, len(texts))
    return EmbeddingComparison(
        reference=name,
        texts=len(texts),
        pairs=len(one),
        min_cosine=float(own.min()),
        mean_cosine=float(own.mean()),
        rank_correlation=spearman(one, other),
        worst_text=texts[int(np.nan_to_num(own, nan=-2.0).argmin()) % len(texts)][:80],
    )


def compare_scores(name: str, reference: Floats, given: Floats, texts: Sequence[str]) -> ScoreComparison:
    """Scores [2 × texts, columns] against a reference's; several columns are those of labels."""
    errors = np.abs(given - reference).max(axis=1) / max(1.0, float(np.abs(reference).max()))
    several = reference.shape[1] > 1
    return ScoreComparison(
        reference=name,
        texts=len(texts),
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        rank_correlation=None if several else spearman(reference[:, 0], given[:, 0]),
        top1=float((reference.argmax(axis=1) == given.argmax(axis=1)).mean()) if several else None,
        worst_text=texts[int(np.nan_to_num(errors, nan=np.inf).argmax()) % len(texts)][:80],
    )


def compare_encoder_layers(
    paths: tuple[Path, Path], output: str, options: Mapping[str, str], batches: Sequence[Inputs]
) -> list[layer_errors.LayerError]:
    """Each layer's error of the second graph, given the first's inner tensors; empty where they share no names."""
    import onnx

    ours, theirs = (
        layer_errors.stream_points(onnx.load(path, load_external_data=False).graph, output, output) for path in paths
    )
    points = layer_errors.common_points(ours, theirs)
    if len(points) < 2:
        return []
    (reference_path, tested_path), sessions = paths, []
    sessions.append(open_session(layer_errors.exposed(reference_path, points), reference_path.parent, {}))
    sessions.append(open_session(layer_errors.exposed(tested_path, points), tested_path.parent, options))
    types = {value.name: value.type for value in sessions[1].get_outputs()}
    content = layer_errors.cut(tested_path, points, types)
    sessions.append(open_session(content, tested_path.parent, options))
    comparison = layer_errors.LayerComparison(points, types)
    for inputs in batches:
        comparison.add(*(_on(session, inputs) for session in sessions))
    return comparison.errors()


def _on(session: Any, inputs: Inputs) -> layer_errors.RunGraph:
    known = {value.name for value in session.get_inputs()}

    def run(outputs: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
        feeds = {name: value for name, value in {**inputs, **given}.items() if name in known}
        found: list[Any] = session.run(list(outputs), feeds)
        return found

    return run


def _similarities(embeddings: Floats, texts: int) -> npt.NDArray[np.float64]:
    """Cosines of all pairs of different texts, of the first ``texts`` rows."""
    rows = np.asarray(embeddings[:texts], dtype=np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    pairs: npt.NDArray[np.float64] = (rows @ rows.T)[np.triu_indices(texts, k=1)]
    return pairs


def _similarity_series(reference: Floats, given: Floats, texts: int) -> dict[str, list[float]]:
    """Pairs for the picture, evenly picked."""
    one, other = _similarities(reference, texts), _similarities(given, texts)
    step = max(1, len(one) // _SERIES_POINTS)
    rounded = [[round(float(value), 4) for value in values[::step]] for values in (one, other)]
    return dict(zip((REFERENCE_SIMILARITIES, SIMILARITIES), rounded, strict=True))
