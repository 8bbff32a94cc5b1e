"""The check that an exported encoder says what its source says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fathom_client.protocol import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING, TOKEN_TYPE_IDS
from fathom_export.errors import ParityError
from fathom_export.onnxruntime_options import FLOAT8_OPTION, WEIGHTS_FOLDER_OPTION
from fathom_export.spec import Precision
from fathom_server.engine.settings import NATIVE_GRAPH_FILE

if TYPE_CHECKING:
    import torch
    from onnxruntime import InferenceSession

    from fathom_export.encoder.form import EncoderForm
    from fathom_server.text.tokenizer import TextTokenizer

MINIMUM_COSINE: Final[Mapping[Precision, float]] = {"fp32": 0.999, "fp16": 0.995, "int8": 0.97, "fp8": 0.95}
"""Below this cosine to the source's embedding of any sentence an export fails."""

MAXIMUM_ERROR: Final[Mapping[Precision, float]] = {"fp32": 0.001, "fp16": 0.01, "int8": 0.1, "fp8": 0.15}
"""Above this distance from the source's score of any text or pair an export fails: of a probability as it is, of a
score without bounds in parts of the largest one."""

SENTENCES: Final = (
    "The cat sat on the mat.",
    "How do I reset my password?",
    "Quantum computers use qubits instead of bits, which can be in a superposition of both states.",
    "Der Zug nach München fährt um 7:45 Uhr von Gleis 3 ab.",
    "no",
    "def mean(values): return sum(values) / len(values)",
    "The stock market fell sharply on Monday after the central bank raised interest rates by half a point.",
    "東京は日本の首都です。",
    "A train left the station at noon, and nobody on it knew where the line would end. " * 12,
)
"""Short ones, and one that is longer than the windows of architectures which look at a text through one."""

_LONGEST: Final = 192
"""Tokens of the longest row of the check; a longer one costs time and shows nothing more."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A batch and what the source makes of it.

    ``inputs`` are int64 [batch, sequence] by name, ``outputs`` float32 [batch, columns]; ``texts`` name the rows.
    """

    texts: tuple[str, ...]
    inputs: Mapping[str, npt.NDArray[np.int64]]
    outputs: npt.NDArray[np.float32]


def reference_outputs(model: "torch.nn.Module", tokenizer: "TextTokenizer", form: "EncoderForm") -> Reference:
    """What the source makes of the fixed sentences, or of pairs of them where it takes pairs."""
    import torch

    others = (*SENTENCES[1:], SENTENCES[0])
    rows = tokenizer.encode_rows(list(zip(SENTENCES, others, strict=True)) if form.takes_pairs else SENTENCES)
    longest = min(form.architecture.max_context, _LONGEST)
    rows = [(ids[:longest], types[:longest]) for ids, types in rows]
    length = max(len(ids) for ids, _ in rows)
    arrays = {
        INPUT_IDS: np.array(
            [ids + [form.architecture.pad_token_id] * (length - len(ids)) for ids, _ in rows], dtype=np.int64
        ),
        ATTENTION_MASK: np.array([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows], dtype=np.int64),
        TOKEN_TYPE_IDS: np.array([types + [0] * (length - len(types)) for _, types in rows], dtype=np.int64),
    }
    given = {name: arrays[name] for name in form.inputs}
    with torch.no_grad():
        outputs = model(*map(torch.from_numpy, given.values())).numpy()
    return Reference(SENTENCES, given, outputs)


def check_parity(graph: Path, reference: Reference, precision: Precision, output: str) -> dict[str, float]:
    """Hold a graph's ``output`` against the source's, for a padded batch and for each row alone.

    Returns lowest and mean cosine of embeddings, or the largest error of scores. Raises ParityError beyond
    MINIMUM_COSINE or MAXIMUM_ERROR.
    """
    session = _open(graph, precision)
    batch = _run(session, output, reference.inputs)
    lengths = reference.inputs[ATTENTION_MASK].sum(axis=1)
    alone = np.concatenate(
        [
            _run(session, output, {name: rows[row : row + 1, :length] for name, rows in reference.inputs.items()})
            for row, length in enumerate(lengths)
        ]
    )
    both, twice = np.concatenate([batch, alone]), np.concatenate([reference.outputs] * 2)
    if output == SENTENCE_EMBEDDING:
        return _check_embeddings(both, twice, reference.texts, precision)
    return _check_scores(both, twice, reference.texts, precision)


def _open(graph: Path, precision: Precision) -> "InferenceSession":
    """A session that takes little more memory than the mapped weights: of their copies, it has one at a time."""
    import onnxruntime

    from fathom_server.native.library import register

    options = onnxruntime.SessionOptions()
    # packed copies of the weights would take as much memory as the model has
    options.add_session_config_entry("session.disable_prepacking", "1")
    if precision == "fp8":  # else ONNX Runtime's CPU provider finds no kernel
        options.add_session_config_entry(FLOAT8_OPTION, "1")
    if graph.name == NATIVE_GRAPH_FILE:
        register(options)
    content: str | bytes = str(graph)
    if precision in ("fp16", "fp8"):
        from fathom_export.encoder.checked_graph import in_float16
        from fathom_export.system_memory import give_large_blocks_back

        give_large_blocks_back()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # else all casts come first
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # they keep what is no longer needed
        options.add_session_config_entry(WEIGHTS_FOLDER_OPTION, str(graph.parent))
        content = in_float16(graph)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _check_embeddings(
    given: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], texts: Sequence[str], precision: Precision
) -> dict[str, float]:
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (given * wanted).sum(axis=1) / norms
    lowest = float(cosines.min())
    if not lowest >= MINIMUM_COSINE[precision]:
        text = texts[int(np.nan_to_num(cosines, nan=-1.0).argmin()) % len(texts)]
        raise ParityError(
            f"the {precision} graph's embedding of {text[:80]!r} has cosine {lowest:.4f} to the source's, below "
            f"{MINIMUM_COSINE[precision]}; export with precision fp32, or report the model"
        )
    return {"cosine_min": round(lowest, 6), "cosine_mean": round(float(cosines.mean()), 6)}


def _check_scores(
    given: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], texts: Sequence[str], precision: Precision
) -> dict[str, float]:
    errors = np.abs(given - wanted).max(axis=1) / max(1.0, float(np.abs(wanted).max()))
    largest = float(errors.max())
    if not largest <= MAXIMUM_ERROR[precision]:
        text = texts[int(np.nan_to_num(errors, nan=np.inf).argmax()) % len(texts)]
        raise ParityError(
            f"the {precision} graph's score of {text[:80]!r} is {largest:.4f} from the source's, above "
            f"{MAXIMUM_ERROR[precision]}; export with precision fp32, or report the model"
        )
    return {"score_error_max": round(largest, 6)}


def _run(
    session: "InferenceSession", output: str, inputs: Mapping[str, npt.NDArray[np.int64]]
) -> npt.NDArray[np.float32]:
    outputs: npt.NDArray[np.float32] = session.run([output], dict(inputs))[0]
    return outputs
