"""``ModelInferResponse`` → results; whatever the protocol does not have is a ProtocolError."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from fathom_client import protocol
from fathom_client._results import (
    Classification,
    Embeddings,
    ModelConfig,
    ModelInfo,
    ModelMetadata,
    Rerank,
    ServerMetadata,
    TensorMetadata,
)
from fathom_client._tensors import read_integers, read_strings
from fathom_client.errors import ProtocolError

BatchAnswer = tuple[service_pb2.ModelInferResponse, service_pb2.ModelInferRequest]
"""The response to one batch, and its request."""


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
            names = read_strings((datatype, content))
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
    counts = read_integers((datatype, content))
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


def model_config(response: service_pb2.ModelConfigResponse) -> ModelConfig:
    """Read a model's config."""
    config = response.config
    return ModelConfig(
        config.name,
        config.platform,
        config.backend,
        config.max_batch_size,
        config.model_transaction_policy.decoupled,
        tuple(tensor.name for tensor in config.input),
        tuple(tensor.name for tensor in config.output),
        {name: value.string_value for name, value in config.parameters.items()},
    )


def _tensors(tensors: Sequence[Any]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(each.name, each.datatype, tuple(each.shape)) for each in tensors)
