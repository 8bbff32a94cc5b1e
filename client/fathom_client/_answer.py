"""Responses to a generation → chunks and results; whatever the protocol does not have is a ProtocolError."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonclient.grpc import service_pb2

from fathom_client import protocol
from fathom_client._requests import FINAL_PARAMETER
from fathom_client._results import Generation, GenerationChoice, GenerationChunk, TokenLogprob
from fathom_client._tensors import read_integers, read_strings
from fathom_client.errors import ProtocolError

Outputs = Mapping[str, tuple[str, bytes]]
"""Datatype and contents by name."""

_FIRST = (0,)
_MISFITS = (KeyError, ValueError, IndexError, TypeError, RecursionError)


@dataclass(slots=True)
class _Sequence:
    """One of a request's answers as far as it has come."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: str | None = None

    def add(self, chunk: GenerationChunk) -> None:
        self.texts.append(chunk.text)
        self.token_ids.extend(chunk.token_ids)
        if chunk.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *chunk.logprobs]
        self.finish_reason = chunk.finish_reason


class Answer:
    """The answers to one generation as they come in: responses become chunks, and the chunks add up.

    ``sequences`` is how many answers there will be.
    """

    def __init__(self, model: str, request_id: str, sequences: int = 1) -> None:
        self.model = model
        self.request_id = request_id
        self.num_output_tokens = 0
        self.is_complete = False
        self._sequences = [_Sequence() for _ in range(sequences)]
        self._num_input_tokens: int | None = None
        self._prompt_logprobs: tuple[TokenLogprob, ...] | None = None
        self._cascade: Mapping[str, Any] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a chunk has arrived."""
        return self._num_input_tokens is not None

    @property
    def is_whole(self) -> bool:
        """Whether every answer has its finish reason."""
        return all(sequence.finish_reason is not None for sequence in self._sequences)

    def add(self, response: service_pb2.ModelInferResponse) -> GenerationChunk | None:
        """Take the next response; None for one that brings nothing but the end. Raises ProtocolError.

        Of a response that holds several answers whole, the chunk is the first's.
        """
        self.is_complete = self.is_complete or response.parameters[FINAL_PARAMETER].bool_param
        if not response.outputs:
            return None
        outputs = self._outputs(response)
        try:
            if protocol.CASCADE in outputs:
                self._cascade = json.loads(read_strings(outputs[protocol.CASCADE])[0])
            if protocol.TEXT_OUTPUT not in outputs and protocol.CASCADE in outputs:
                return None
            chunks = _chunks(outputs)
            for chunk in chunks:
                self._sequences[chunk.index].add(chunk)
                self.num_output_tokens += chunk.num_output_tokens
            if self._num_input_tokens is None:
                self._num_input_tokens = read_integers(outputs[protocol.NUM_INPUT_TOKENS])[0]
            if protocol.PROMPT_LOGPROBS in outputs:
                self._prompt_logprobs = _logprobs(read_strings(outputs[protocol.PROMPT_LOGPROBS])[0])
        except _MISFITS as error:
            given = ", ".join(f"{name} {datatype}" for name, (datatype, _) in outputs.items())
            raise self._error(f"the response does not fit ({error!r}); it has {given}") from error
        return chunks[0]

    def result(self) -> Generation:
        """Return the whole answer once it has ended; raises ProtocolError if it ended without saying why."""
        choices = tuple(
            GenerationChoice(
                index=index,
                text="".join(sequence.texts),
                token_ids=tuple(sequence.token_ids),
                finish_reason=sequence.finish_reason,
                logprobs=None if sequence.logprobs is None else tuple(sequence.logprobs),
            )
            for index, sequence in enumerate(self._sequences)
            if sequence.finish_reason is not None
        )
        if len(choices) < len(self._sequences) or self._num_input_tokens is None:
            raise self._error("the answer ended without a finish reason")
        return Generation(
            text=choices[0].text,
            token_ids=choices[0].token_ids,
            finish_reason=choices[0].finish_reason,
            num_input_tokens=self._num_input_tokens,
            num_output_tokens=self.num_output_tokens,
            model=self.model,
            request_id=self.request_id,
            choices=choices,
            prompt_logprobs=self._prompt_logprobs,
            cascade=self._cascade,
        )

    def _outputs(self, response: service_pb2.ModelInferResponse) -> dict[str, tuple[str, bytes]]:
        tensors, contents = response.outputs, response.raw_output_contents
        if len(contents) != len(tensors):
            raise self._error(f"the response has {len(tensors)} tensors and {len(contents)} contents")
        return {tensor.name: (tensor.datatype, content) for tensor, content in zip(tensors, contents, strict=True)}

    def _error(self, what: str) -> ProtocolError:
        return ProtocolError(
            f"{what}; is {self.model!r} a generating model of this version of Fathom?",
            model=self.model,
            request_id=self.request_id,
        )


def _chunks(outputs: Outputs) -> Sequence[GenerationChunk]:
    """A response's part of each answer that it holds; ids lie end to end, and their numbers part them."""
    texts = read_strings(outputs[protocol.TEXT_OUTPUT])
    counts = read_integers(outputs[protocol.NUM_OUTPUT_TOKENS])
    ids = read_integers(outputs[protocol.OUTPUT_IDS])
    indices = read_integers(outputs[protocol.SEQUENCE_INDEX]) if protocol.SEQUENCE_INDEX in outputs else _FIRST
    reasons = read_strings(outputs[protocol.FINISH_REASON]) if protocol.FINISH_REASON in outputs else [""] * len(texts)
    listed: Sequence[str | None] = (
        read_strings(outputs[protocol.LOGPROBS]) if protocol.LOGPROBS in outputs else [None] * len(texts)
    )
    if not texts or sum(counts) != len(ids) or min(indices) < 0:
        raise ValueError(f"{len(texts)} texts, counts {counts} of {len(ids)} ids, sequences {indices}")
    if len(texts) == 1:
        [text], [count], [reason], [index], [told] = texts, counts, reasons, indices, listed
        logprobs = None if told is None else _logprobs(told)
        return (GenerationChunk(text, ids, count, reason or None, index, logprobs),)
    chunks, begin = [], 0
    for index, text, count, reason, told in zip(indices, texts, counts, reasons, listed, strict=True):
        logprobs = None if told is None else _logprobs(told)
        chunks.append(GenerationChunk(text, ids[begin : begin + count], count, reason or None, index, logprobs))
        begin += count
    return chunks


def _logprobs(text: str) -> tuple[TokenLogprob, ...]:
    return tuple(_logprob(each) for each in json.loads(text))


def _logprob(given: Mapping[str, Any]) -> TokenLogprob:
    logprob = given["logprob"]
    return TokenLogprob(
        token_id=int(given["token_id"]),
        logprob=None if logprob is None else float(logprob),
        top=tuple(_logprob(each) for each in given.get("top", ())),
        token_bytes=bytes.fromhex(given["bytes"]) if "bytes" in given else str(given.get("token", "")).encode(),
    )
