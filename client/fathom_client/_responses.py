"""``ModelInferResponse`` → results; whatever the protocol does not have is a ProtocolError."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from fathom_client import protocol
from fathom_client._requests import FINAL_PARAMETER
from fathom_client._results import (
    Classification,
    Embeddings,
    Generation,
    GenerationChunk,
    ModelInfo,
    ModelMetadata,
    Rerank,
    ServerMetadata,
    TensorMetadata,
)
from fathom_client.errors import ProtocolError

_INTEGER_DATATYPES: Final = {"INT32": "<i4", "UINT32": "<u4", "INT64": "<i8", "UINT64": "<u8"}

BatchAnswer = tuple[service_pb2.ModelInferResponse, service_pb2.ModelInferRequest]
"""The response to one batch, and its request."""


class Answer:
    """The answer to one generation as it comes in: it turns responses into chunks and adds the chunks up."""

    def __init__(self, model: str, request_id: str) -> None:
        self.model = model
        self.request_id = request_id
        self.num_output_tokens = 0
        self.is_complete = False
        self.finish_reason: str | None = None
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._num_input_tokens: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a chunk has arrived."""
        return bool(self._texts)

    def add(self, response: service_pb2.ModelInferResponse) -> GenerationChunk | None:
        """Take the next response; None for one that brings nothing but the end. Raises ProtocolError."""
        self.is_complete = self.is_complete or response.parameters[FINAL_PARAMETER].bool_param
        if not response.outputs:
            return None
        outputs = self._outputs(response)
        try:
            chunk = GenerationChunk(
                text=_strings(outputs[protocol.TEXT_OUTPUT])[0],
                token_ids=_integers(outputs[protocol.OUTPUT_IDS]),
                num_output_tokens=_integers(outputs[protocol.NUM_OUTPUT_TOKENS])[0],
                finish_reason=self._finish_reason(outputs),
            )
            self._num_input_tokens = _integers(outputs[protocol.NUM_INPUT_TOKENS])[0]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            given = ", ".join(f"{name} {datatype}" for name, (datatype, _) in outputs.items())
            raise self._error(f"the response does not fit ({error!r}); it has {given}") from error
        self.num_output_tokens += chunk.num_output_tokens
        self.finish_reason = chunk.finish_reason
        self._texts.append(chunk.text)
        self._token_ids.extend(chunk.token_ids)
        return chunk

    def result(self) -> Generation:
        """Return the whole answer once it has ended; raises ProtocolError if it ended without saying why."""
        if self.finish_reason is None or self._num_input_tokens is None:
            raise self._error("the answer ended without a finish reason")
        return Generation(
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            finish_reason=self.finish_reason,
            num_input_tokens=self._num_input_tokens,
            num_output_tokens=self.num_output_tokens,
            model=self.model,
            request_id=self.request_id,
        )

    def _outputs(self, response: service_pb2.ModelInferResponse) -> dict[str, tuple[str, bytes]]:
        contents = response.raw_output_contents
        if len(contents) != len(response.outputs):
            raise self._error(f"the response has {len(response.outputs)} tensors and {len(contents)} contents")
        return {
            tensor.name: (tensor.datatype, content) for tensor, content in zip(response.outputs, contents, strict=True)
        }

    @staticmethod
    def _finish_reason(outputs: Mapping[str, tuple[str, bytes]]) -> str | None:
        if protocol.FINISH_REASON not in outputs:
            return None
        return _strings(outputs[protocol.FINISH_REASON])[0] or None

    def _error(self, what: str) -> ProtocolError:
        return ProtocolError(
            f"{what}; is {self.model!r} a generating model of this version of Fathom?",
            model=self.model,
            request_id=self.request_id,
        )


def embeddings(model: str, answers: Sequence[BatchAnswer]) -> Embeddings:
    """Join the answers to an embedding's batches; raises ProtocolError."""
    vectors: list[npt.NDArray[np.float32]] = []
    counts: list[int] = []
    for response, request in answers:
        with _fitting(model, request, "an embedding") as size:
            vectors.append(_rows(response, protocol.SENTENCE_EMBEDDING, size))
            counts.extend(_counts(response, size))
    return Embeddings(np.concatenate(vectors), tuple(counts), model)


def rerank(model: str, answers: Sequence[BatchAnswer]) -> Rerank:
    """Join the answers to a reranking's batches; raises ProtocolError."""
    scores: list[npt.NDArray[np.float32]] = []
    counts: list[int] = []
    for response, request in answers:
        with _fitting(model, request, "a reranking") as size:
            scores.append(_rows(response, protocol.SCORE, size, columns=1)[:, 0])
            counts.extend(_counts(response, size))
    return Rerank(np.concatenate(scores), tuple(counts), model)


def classification(model: str, answers: Sequence[BatchAnswer]) -> Classification:
    """Join the answers to a classification's batches; raises ProtocolError."""
    scores: list[npt.NDArray[np.float32]] = []
    counts: list[int] = []
    labels: tuple[str, ...] = ()
    for response, request in answers:
        with _fitting(model, request, "a classifying") as size:
            datatype, _, content = _tensor(response, protocol.LABELS)
            names = _strings((datatype, content))
            labels = tuple(names[: len(names) // size])
            scores.append(_rows(response, protocol.SCORES, size, columns=len(labels)))
            counts.extend(_counts(response, size))
    return Classification(np.concatenate(scores), labels, tuple(counts), model)


@contextlib.contextmanager
def _fitting(model: str, request: service_pb2.ModelInferRequest, kind: str) -> Iterator[int]:
    """Give the number of rows that a batch has; a response that does not fit it becomes a ProtocolError."""
    size = int(request.inputs[0].shape[0])
    try:
        yield size
    except (KeyError, ValueError) as error:
        raise ProtocolError(
            f"the response to {size} texts does not fit ({error!r}); is {model!r} {kind} model of this version of "
            "Fathom?",
            model=model,
            request_id=request.id,
        ) from error


def _rows(
    response: service_pb2.ModelInferResponse, name: str, size: int, columns: int | None = None
) -> npt.NDArray[np.float32]:
    datatype, shape, content = _tensor(response, name)
    if datatype != "FP32" or len(shape) != 2 or shape[0] != size or columns not in (None, shape[1]):
        raise ValueError(f"{name} is {datatype} {shape}")
    return np.frombuffer(content, dtype="<f4").reshape(shape)


def _counts(response: service_pb2.ModelInferResponse, size: int) -> tuple[int, ...]:
    datatype, shape, content = _tensor(response, protocol.NUM_INPUT_TOKENS)
    counts = _integers((datatype, content))
    if len(counts) != size:
        raise ValueError(f"{protocol.NUM_INPUT_TOKENS} is {datatype} {shape}")
    return counts


def _tensor(response: service_pb2.ModelInferResponse, name: str) -> tuple[str, tuple[int, ...], bytes]:
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.name == name:
            return tensor.datatype, tuple(tensor.shape), content
    raise KeyError(name)


def model_infos(response: service_pb2.RepositoryIndexResponse) -> tuple[ModelInfo, ...]:
    """Read the index of a server's repository."""
    return tuple(ModelInfo(each.name, each.version, each.state, each.reason) for each in response.models)


def server_metadata(response: service_pb2.ServerMetadataResponse) -> ServerMetadata:
    """Read a server's metadata."""
    return ServerMetadata(response.name, response.version, tuple(response.extensions))


def model_metadata(response: service_pb2.ModelMetadataResponse) -> ModelMetadata:
    """Read a model's metadata."""
    return ModelMetadata(
        response.name,
        tuple(response.versions),
        response.platform,
        _tensors(response.inputs),
        _tensors(response.outputs),
    )


def _tensors(tensors: Sequence[Any]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(each.name, each.datatype, tuple(each.shape)) for each in tensors)


def _strings(tensor: tuple[str, bytes]) -> list[str]:
    datatype, content = tensor
    if datatype != "BYTES":
        raise ValueError(f"{datatype} where BYTES belongs")
    strings, position = [], 0
    while position < len(content):
        end = position + 4 + int.from_bytes(content[position : position + 4], "little")
        if end > len(content):
            raise ValueError("a BYTES tensor is cut off")
        strings.append(content[position + 4 : end].decode("utf-8"))
        position = end
    return strings


def _integers(tensor: tuple[str, bytes]) -> tuple[int, ...]:
    datatype, content = tensor
    if datatype not in _INTEGER_DATATYPES:
        raise ValueError(f"{datatype} where integers belong")
    return tuple(np.frombuffer(content, dtype=_INTEGER_DATATYPES[datatype]).tolist())
