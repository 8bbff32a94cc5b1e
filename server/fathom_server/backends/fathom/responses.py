"""Pieces of answers → the output tensors of responses."""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom_client import protocol
from fathom_server.backends.fathom.generate_request import GenerateRequest
from fathom_server.engine.request import Piece
from fathom_server.engine.sampler import Choice

OutputTensors = Mapping[str, npt.NDArray[Any]]


class ResponseWriter:
    """What the responses to one request say; of ``protocol.GENERATE_OUTPUTS`` what was asked for.

    ``names`` are the outputs that the caller's request lists; ``echo`` is the text that stands before each answer.
    ``token_bytes`` is what each token writes, which is told beside log-probabilities. Not to be used from two threads
    at once.
    """

    def __init__(
        self, call: GenerateRequest, names: Collection[str], token_bytes: Mapping[int, bytes], echo: str = ""
    ) -> None:
        self._names = call.outputs & frozenset(names)
        self._prompt_ids = call.prompt_ids
        self._sequences = call.sampling.n
        self._echo = echo
        self._token_bytes = token_bytes
        self._logprobs = [0.0] * self._sequences
        self._begun = [False] * self._sequences
        self._prompt_is_told = False

    def streamed(self, pieces: Iterable[Piece]) -> list[OutputTensors]:
        """One response for each sequence that has pieces, in order of its first; each holds those pieces alone.

        Calls follow the order of the pieces.
        """
        of_sequence: dict[int, list[Piece]] = {}
        for piece in pieces:
            of_sequence.setdefault(piece.sequence, []).append(piece)
        return [self._tensors([sequence], of_sequence) for sequence in of_sequence]

    def whole(self, pieces: Iterable[Piece]) -> OutputTensors:
        """The one response of an answer that is not streamed: an element a sequence, from all of their pieces."""
        of_sequence: dict[int, list[Piece]] = {sequence: [] for sequence in range(self._sequences)}
        for piece in pieces:
            of_sequence[piece.sequence].append(piece)
        return self._tensors(range(self._sequences), of_sequence)

    def _tensors(self, sequences: Sequence[int], pieces: Mapping[int, Sequence[Piece]]) -> OutputTensors:
        makers: dict[str, Callable[[], npt.NDArray[Any] | None]] = {
            protocol.TEXT_OUTPUT: lambda: _strings(self._text(sequence, pieces[sequence]) for sequence in sequences),
            protocol.FINISH_REASON: lambda: _strings(_reason(pieces[sequence]) for sequence in sequences),
            protocol.NUM_INPUT_TOKENS: lambda: np.array([len(self._prompt_ids)], dtype=np.uint32),
            protocol.NUM_OUTPUT_TOKENS: lambda: np.array([len(ids) for ids in token_ids], dtype=np.uint32),
            protocol.OUTPUT_IDS: lambda: np.array([token for ids in token_ids for token in ids], dtype=np.int32),
            protocol.SEQUENCE_INDEX: lambda: np.array(sequences, dtype=np.int32),
            protocol.LOGPROBS: lambda: _strings(json.dumps([self._listed(each) for each in own]) for own in choices),
            protocol.PROMPT_LOGPROBS: lambda: self._prompt_logprobs(pieces),
            protocol.CUMULATIVE_LOGPROB: lambda: cumulative,
            protocol.CUM_LOG_PROBS: lambda: cumulative,
            protocol.OUTPUT_LOG_PROBS: lambda: np.array(
                [_finite(choice.logprob) for own in choices for choice in own], dtype=np.float32
            ),
        }
        token_ids = [[token for piece in pieces[sequence] for token in piece.token_ids] for sequence in sequences]
        choices = [[choice for piece in pieces[sequence] for choice in piece.choices] for sequence in sequences]
        for sequence, own in zip(sequences, choices, strict=True):
            self._logprobs[sequence] += sum(_finite(choice.logprob) for choice in own)
        cumulative = np.array([self._logprobs[sequence] for sequence in sequences], dtype=np.float32)
        values = {name: makers[name]() for name in self._names}
        return {name: value for name, value in values.items() if value is not None}

    def _text(self, sequence: int, pieces: Sequence[Piece]) -> str:
        """The pieces' text, behind the echo where the sequence begins."""
        text = "".join(piece.text for piece in pieces)
        if self._begun[sequence]:
            return text
        self._begun[sequence] = True
        return self._echo + text

    def _prompt_logprobs(self, pieces: Mapping[int, Sequence[Piece]]) -> npt.NDArray[Any] | None:
        """The prompt's log-probabilities, with the request's first response."""
        if self._prompt_is_told:
            return None
        self._prompt_is_told = True
        every = (piece.prompt_choices for own in pieces.values() for piece in own)
        told = [Choice(self._prompt_ids[0]), *next((choices for choices in every if choices), ())]
        return _strings([json.dumps([self._listed(choice) for choice in told])])

    def _listed(self, choice: Choice) -> dict[str, Any]:
        return {
            "token_id": choice.token,
            **self._text_of(choice.token),
            "logprob": None if choice.logprob is None else _finite(choice.logprob),
            "top": [
                {"token_id": each.token, **self._text_of(each.token), "logprob": _finite(each.logprob)}
                for each in choice.top
            ],
        }

    def _text_of(self, token: int) -> dict[str, str]:
        """A token's text, and its bytes where they are no whole characters."""
        written = self._token_bytes[token]
        if not written:
            return {}
        try:
            return {"token": written.decode()}
        except UnicodeDecodeError:
            return {"token": written.decode(errors="replace"), "bytes": written.hex()}


def _reason(pieces: Sequence[Piece]) -> str:
    return (pieces[-1].finish_reason or "") if pieces else ""


def _finite(logprob: float | None) -> float:
    """A log-probability that JSON can hold."""
    if logprob is None or math.isnan(logprob):
        return protocol.LOWEST_LOGPROB
    return max(logprob, protocol.LOWEST_LOGPROB)


def _strings(texts: Iterable[str]) -> npt.NDArray[np.object_]:
    return np.array([text.encode() for text in texts], dtype=np.object_)
