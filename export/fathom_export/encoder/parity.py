"""The check that an exported encoder says what its source says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fathom_client.protocol import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING
from fathom_export.errors import ParityError
from fathom_export.spec import Precision
from fathom_server.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from fathom_export.encoder.torch_model import SentenceEncoder

MINIMUM_COSINE: Final[Mapping[Precision, float]] = {"fp32": 0.999, "int8": 0.97}
"""Below this cosine to the source's embedding of any sentence an export fails."""

SENTENCES: Final = (
    "The cat sat on the mat.",
    "How do I reset my password?",
    "Quantum computers use qubits instead of bits, which can be in a superposition of both states.",
    "Der Zug nach München fährt um 7:45 Uhr von Gleis 3 ab.",
    "no",
    "def mean(values): return sum(values) / len(values)",
    "The stock market fell sharply on Monday after the central bank raised interest rates by half a point.",
    "東京は日本の首都です。",
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A batch, int64 [batch, sequence] twice, and the source's embeddings of it, float32 [batch, dimension]."""

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]


def reference_embeddings(model: "SentenceEncoder", folder: Path) -> Reference:
    """The source's embeddings of the fixed sentences."""
    import torch

    rows = TextTokenizer.load(folder).encode_batch(SENTENCES)
    length = max(map(len, rows))
    # padding is masked out, so any id does
    ids = np.array([row + [0] * (length - len(row)) for row in rows], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], dtype=np.int64)
    with torch.no_grad():
        embeddings = model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    return Reference(ids, mask, embeddings)


def check_parity(graph: Path, reference: Reference, precision: Precision) -> dict[str, float]:
    """Lowest and mean cosine of the graph's embeddings to the source's, of a padded batch and of each sentence alone.

    Raises ParityError below MINIMUM_COSINE.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    batch = _run(session, reference.input_ids, reference.attention_mask)
    lengths = reference.attention_mask.sum(axis=1)
    alone = np.concatenate(
        [
            _run(session, reference.input_ids[row : row + 1, :length], reference.attention_mask[row : row + 1, :length])
            for row, length in enumerate(lengths)
        ]
    )
    cosines = np.concatenate([_cosine(batch, reference.embeddings), _cosine(alone, reference.embeddings)])
    lowest = float(cosines.min())
    if not lowest >= MINIMUM_COSINE[precision]:
        sentence = SENTENCES[int(np.nan_to_num(cosines, nan=-1.0).argmin()) % len(SENTENCES)]
        raise ParityError(
            f"the {precision} graph's embedding of {sentence!r} has cosine {lowest:.4f} to the source's, below "
            f"{MINIMUM_COSINE[precision]}; export with precision fp32, or report the model"
        )
    return {"cosine_min": round(lowest, 6), "cosine_mean": round(float(cosines.mean()), 6)}


def _run(session: Any, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    embeddings: npt.NDArray[np.float32] = session.run([SENTENCE_EMBEDDING], {INPUT_IDS: ids, ATTENTION_MASK: mask})[0]
    return embeddings


def _cosine(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines: npt.NDArray[np.float32] = (one * other).sum(axis=1) / norms
    return cosines
