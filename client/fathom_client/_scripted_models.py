"""Models that answer as they are told, for tests without a server."""

import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2

from fathom_client import protocol
from fathom_client._requests import FINAL_PARAMETER
from fathom_client._tensors import bytes_element, read_strings
from fathom_client.errors import FathomError, InvalidArgumentError

_DTYPES: Final = {"BOOL": "?", "INT32": "<i4", "INT64": "<i8", "UINT32": "<u4", "UINT64": "<u8", "FP32": "<f4"}
_MAX_BATCH_SIZE: Final = 32

Reply = str | FathomError | Sequence[str | FathomError]


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as a server gets it: each input's values by the tensor's name, KServe parameters, gRPC metadata.

    Texts are strings, everything else plain numbers and booleans; the names are those of ``fathom_client.protocol``.
    """

    model: str
    request_id: str
    inputs: Mapping[str, list[Any]]
    parameters: Mapping[str, Any]
    metadata: Mapping[str, str]

    @property
    def text(self) -> str | None:
        """The prompt, if it is a text."""
        return self.inputs[protocol.TEXT_INPUT][0] if protocol.TEXT_INPUT in self.inputs else None

    @property
    def sampling_parameters(self) -> dict[str, Any]:
        """The options that have no tensor of their own, such as ``n`` and ``logprobs``."""
        listed = self.inputs.get(protocol.SAMPLING_PARAMETERS, ["{}"])
        parameters: dict[str, Any] = json.loads(listed[0])
        return parameters

    @property
    def messages(self) -> Any:
        """The conversation, if it is one, as it went over the wire."""
        return json.loads(self.inputs[protocol.MESSAGES][0]) if protocol.MESSAGES in self.inputs else None


class ScriptedModel(ABC):
    """A model that keeps the requests that it got, in order, in ``requests``."""

    max_batch_size = _MAX_BATCH_SIZE

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []

    @abstractmethod
    def infer(self, request: Any, metadata: Iterable[tuple[str, str]]) -> Any:
        """Answer a ``ModelInferRequest`` with a ``ModelInferResponse``. Raises FathomError as its status."""

    def receive(self, request: Any, metadata: Iterable[tuple[str, str]]) -> ReceivedRequest:
        """Read a ``ModelInferRequest`` and keep it."""
        inputs = {
            tensor.name: read_strings((tensor.datatype, content))
            if tensor.datatype == "BYTES"
            else np.frombuffer(content, dtype=_DTYPES[tensor.datatype]).tolist()
            for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in request.parameters.items()
        }
        received = ReceivedRequest(request.model_name, request.id, inputs, parameters, dict(metadata))
        self.requests.append(received)
        return received


class ScriptedGenerator(ScriptedModel):
    """An LLM that gives its replies in order, a request each, and the last one again and again.

    A reply is a text, which streams word by word; a list of chunks, which may end in an error; an error; or a function
    of the request that gives one of these. A chunk counts as a token, a word of the prompt as well. ``max_tokens`` ends
    a longer answer. Each of several answers (``n``) is the same. Raises InvalidArgumentError without a reply.
    """

    max_batch_size = 0

    def __init__(self, *replies: Reply | Callable[[ReceivedRequest], Reply]) -> None:
        super().__init__()
        if not replies:
            raise InvalidArgumentError("a ScriptedGenerator needs a reply; give a text, chunks, an error or a function")
        self._replies = replies
        self._turn = 0
        self._lock = threading.Lock()

    def infer(self, request: Any, metadata: Iterable[tuple[str, str]]) -> Any:
        """An LLM has no answer of this kind; Triton refuses it before the model."""
        raise NotImplementedError

    def stream(self, request: Any, metadata: Iterable[tuple[str, str]]) -> Iterator[Any]:
        """Answer a ``ModelInferRequest`` with ``ModelInferResponse``s. Raises FathomError as its status."""
        received = self.receive(request, metadata)
        with self._lock:
            reply = self._replies[min(self._turn, len(self._replies) - 1)]
            self._turn += 1
        chunks, reason = _chunks(reply(received) if callable(reply) else reply, received)
        words = max(1, len(re.findall(r"\S+", received.text or received.inputs.get(protocol.MESSAGES, [""])[0])))
        sequences = int(received.sampling_parameters.get("n", 1))
        if not received.inputs.get(protocol.STREAM, [False])[0]:
            texts = [chunk for chunk in chunks if not isinstance(chunk, FathomError)]
            for chunk in chunks:
                if isinstance(chunk, FathomError):
                    raise chunk
            yield _response([("".join(texts), len(texts), reason)] * sequences, words, range(sequences), is_final=True)
            return
        for number, chunk in enumerate(chunks):
            if isinstance(chunk, FathomError):
                raise chunk
            is_last = number == len(chunks) - 1
            for index in range(sequences):
                part = (chunk, 1, reason if is_last else "")
                yield _response([part], words, [index], is_final=is_last and index == sequences - 1)


class ScriptedTokenizer(ScriptedModel):
    """An LLM's tokenizer model, to be named ``chat_tokenizer`` beside a ``chat``: texts to ids, and back.

    ``encode`` gives a text's ids, and those of a conversation from its contents, line by line; ``decode`` the text.
    """

    max_batch_size = 0

    def __init__(self, encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str]) -> None:
        super().__init__()
        self._encode = encode
        self._decode = decode

    def infer(self, request: Any, metadata: Iterable[tuple[str, str]]) -> Any:
        """Answer one text, conversation or list of ids."""
        received = self.receive(request, metadata)
        response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        if protocol.OUTPUT_IDS in received.inputs:
            text = self._decode(received.inputs[protocol.OUTPUT_IDS])
            _add(response, protocol.TEXT_OUTPUT, np.array([text], dtype=np.object_))
            return response
        ids = list(self._encode(_conversation(received.messages) if received.text is None else received.text))
        _add(response, protocol.INPUT_IDS, np.array(ids, dtype="<i4"))
        _add(response, protocol.NUM_INPUT_TOKENS, np.array([len(ids)], dtype="<u4"))
        return response


class ScriptedEmbedder(ScriptedModel):
    """An embedding model: ``vector_of`` gives a text's vector, always of one length, or raises FathomError."""

    def __init__(self, vector_of: Callable[[str], Sequence[float]]) -> None:
        super().__init__()
        self._vector_of = vector_of

    def infer(self, request: Any, metadata: Iterable[tuple[str, str]]) -> Any:
        """Answer one batch."""
        texts = self.receive(request, metadata).inputs[protocol.TEXT_INPUT]
        vectors = np.array([self._vector_of(text) for text in texts], dtype="<f4")
        return _rows(request, texts, {protocol.SENTENCE_EMBEDDING: vectors})


class ScriptedReranker(ScriptedModel):
    """A reranking model: ``score_of`` gives the score of a query and a document, or raises FathomError."""

    def __init__(self, score_of: Callable[[str, str], float]) -> None:
        super().__init__()
        self._score_of = score_of

    def infer(self, request: Any, metadata: Iterable[tuple[str, str]]) -> Any:
        """Answer one batch."""
        inputs = self.receive(request, metadata).inputs
        pairs = list(zip(inputs[protocol.QUERY], inputs[protocol.DOCUMENT], strict=True))
        scores = np.array([[self._score_of(*pair)] for pair in pairs], dtype="<f4")
        return _rows(request, [" ".join(pair) for pair in pairs], {protocol.SCORE: scores})


class ScriptedClassifier(ScriptedModel):
    """A classifying model: ``scores_of`` gives a text's score for each of ``labels``, or raises FathomError."""

    def __init__(self, labels: Sequence[str], scores_of: Callable[[str], Sequence[float]]) -> None:
        super().__init__()
        self._labels = tuple(labels)
        self._scores_of = scores_of

    def infer(self, request: Any, metadata: Iterable[tuple[str, str]]) -> Any:
        """Answer one batch."""
        texts = self.receive(request, metadata).inputs[protocol.TEXT_INPUT]
        scores = np.array([self._scores_of(text) for text in texts], dtype="<f4")
        labels = np.array([list(self._labels)] * len(texts), dtype=np.object_)
        return _rows(request, texts, {protocol.SCORES: scores, protocol.LABELS: labels})


def _conversation(messages: Any) -> str:
    turns = messages["messages"] if isinstance(messages, dict) else messages
    return "\n".join(turn["content"] for turn in turns)


def _chunks(reply: Reply, received: ReceivedRequest) -> tuple[list[str | FathomError], str]:
    """The chunks of an answer, within ``max_tokens``, and why it ends."""
    if isinstance(reply, FathomError):
        raise reply
    chunks = (re.findall(r"\S+\s*|\s+", reply) or [""]) if isinstance(reply, str) else list(reply) or [""]
    limit = received.inputs.get(protocol.MAX_TOKENS, [len(chunks)])[0]
    return chunks[:limit], protocol.FINISH_LENGTH if limit < len(chunks) else protocol.FINISH_STOP


def _response(parts: Sequence[tuple[str, int, str]], words: int, indices: Sequence[int], *, is_final: bool) -> Any:
    """A generation's response: text, number of tokens and finish reason of each answer in it."""
    response = service_pb2.ModelInferResponse()
    response.parameters[FINAL_PARAMETER].bool_param = is_final
    counts = [count for _, count, _ in parts]
    _add(response, protocol.TEXT_OUTPUT, np.array([text for text, _, _ in parts], dtype=np.object_))
    _add(response, protocol.NUM_INPUT_TOKENS, np.array([words], dtype="<u4"))
    _add(response, protocol.NUM_OUTPUT_TOKENS, np.array(counts, dtype="<u4"))
    _add(response, protocol.OUTPUT_IDS, np.arange(sum(counts), dtype="<i4"))
    _add(response, protocol.SEQUENCE_INDEX, np.array(indices, dtype="<i4"))
    if any(reason for _, _, reason in parts):
        _add(response, protocol.FINISH_REASON, np.array([reason for _, _, reason in parts], dtype=np.object_))
    return response


def _rows(request: Any, texts: Sequence[str], outputs: Mapping[str, Any]) -> Any:
    """An encoder's response: outputs, and a word a token."""
    response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
    for name, values in outputs.items():
        _add(response, name, values)
    _add(response, protocol.NUM_INPUT_TOKENS, np.array([[max(1, len(text.split()))] for text in texts], dtype="<u4"))
    return response


def _add(response: Any, name: str, values: Any) -> None:
    if values.dtype == np.object_:
        datatype, content = "BYTES", b"".join(bytes_element(text.encode("utf-8")) for text in values.reshape(-1))
    else:
        datatype = next(each for each, dtype in _DTYPES.items() if np.dtype(dtype) == values.dtype)
        content = values.tobytes()
    response.outputs.add(name=name, datatype=datatype, shape=values.shape)
    response.raw_output_contents.append(content)
