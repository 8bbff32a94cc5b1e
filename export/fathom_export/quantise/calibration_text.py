"""The tokens that a model is calibrated on: the user's text, or text that the model writes itself; never noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from fathom_export.errors import SpecError

if TYPE_CHECKING:
    from fathom_export.quantise.float32_graph import Float32Graph

TOKENS: Final = 2048
"""Tokens that are looked at, at most."""
FEWEST_TOKENS: Final = 32
"""A text of fewer is refused."""
SEED: Final = 0

_MOST_BYTES_A_TOKEN: Final = 64
_SEQUENCES: Final = 16
"""How many texts the model writes."""

TextKind = Literal["user", "generated"]


@dataclass(frozen=True, slots=True)
class CalibrationTokens:
    """Sequences of token ids, each int64 [sequence], and where they are from."""

    kind: TextKind
    sequences: tuple[npt.NDArray[np.int64], ...]

    @property
    def count(self) -> int:
        """Tokens of all sequences."""
        return sum(len(sequence) for sequence in self.sequences)


def read_text(path: Path, source: Path, length: int) -> CalibrationTokens:
    """The first ``TOKENS`` tokens of a UTF-8 file in pieces of up to ``length``, by the tokenizer of a checkpoint.

    Raises SpecError if the file cannot be read or holds no two tokens, TextError if the tokenizer cannot be used.
    """
    from fathom_server.text.tokenizer import TextTokenizer

    where = f"quantisation.calibration_text {path}"
    text = read_beginning(path, where)
    ids = (
        np.array(TextTokenizer.load(source).encode(text)[:TOKENS], np.int64) if text.strip() else np.empty(0, np.int64)
    )
    if len(ids) < FEWEST_TOKENS:
        raise SpecError(
            f"{where} holds {len(ids)} tokens; give it at least {FEWEST_TOKENS} of text like the model's use"
        )
    return CalibrationTokens("user", tuple(ids[begin : begin + length] for begin in range(0, len(ids), length)))


def read_beginning(path: Path, where: str) -> str:
    """As much of a UTF-8 file as can be looked at; raises SpecError beginning with ``where`` if it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(TOKENS * _MOST_BYTES_A_TOKEN)
    except OSError as error:
        raise SpecError(f"{where} cannot be read: {error.strerror or error}") from error
    return _decoded(content, where)


def write_text(graph: "Float32Graph", start: int | None, length: int, seed: int = SEED) -> CalibrationTokens:
    """Texts that the model itself writes: sampled at temperature 1 after its first token, seeded.

    Each begins with ``start``, the model's own token for it, or else with a token drawn from the vocabulary, as in
    LLM-QAT (Liu et al. 2023, arXiv 2305.17888, section 3.1).
    """
    random = np.random.default_rng(seed)
    length = max(2, min(length, TOKENS // _SEQUENCES))
    first = random.integers(0, graph.vocabulary, _SEQUENCES) if start is None else np.full(_SEQUENCES, start)
    tokens = first[:, np.newaxis].astype(np.int64)
    cache = graph.empty_cache(_SEQUENCES)
    while tokens.shape[1] < length:
        logits = graph.step(tokens[:, -1:], tokens.shape[1] - 1, cache)
        # the largest of logits with Gumbel noise is a sample of their softmax
        noise = random.gumbel(size=logits[:, 0].shape)
        tokens = np.concatenate([tokens, (logits[:, 0] + noise).argmax(axis=1)[:, np.newaxis]], axis=1)
    return CalibrationTokens("generated", tuple(tokens))


def _decoded(content: bytes, where: str) -> str:
    """Text of a file's beginning, whose last character may be cut."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and error.start > 0:
            return content[: error.start].decode("utf-8")
        raise SpecError(f"{where} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
