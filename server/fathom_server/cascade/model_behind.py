"""A model that the cascade asks, over gRPC: on the same Triton, or on another.

Triton has calls of its own between models (BLS), but release 2.51 cannot cancel one, forgets what kind of error it
ended with, and can lock up where several stream at once (docs/cascade.md).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy.typing as npt
from grpc import aio
from tritonclient.grpc import service_pb2

from fathom_client import Tls, protocol
from fathom_server.cascade.evidence import TensorValues
from fathom_server.cascade.messages import infer_request, is_last, response_tensors
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    EngineFailureError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
)

_STREAM_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
)
_EOF: Final = aio.EOF  # type: ignore[attr-defined]  # grpc-stubs do not know it
GRACE_S: Final = 1.0
"""The model itself is to give up first."""

_STATUSES: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.CANCELLED: CancelledRequestError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.INTERNAL: EngineFailureError,
}


@dataclass(frozen=True, slots=True)
class Part:
    """One response of a model: its tensors, and whether it is the last."""

    tensors: TensorValues
    is_last: bool


class ModelBehind:
    """One model of one server, spoken to in the clear without ``tls``; for the event loop that runs when it is made."""

    def __init__(self, name: str, url: str, tls: Tls | None = None) -> None:
        self.name = name
        self._channel = _channel(url, tls)
        self._open = self._channel.unary_stream(
            _STREAM_METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    async def ask(
        self,
        request_id: str,
        tensors: Mapping[str, npt.NDArray[Any]],
        parameters: Mapping[str, Any],
        timeout_s: float,
    ) -> AsyncGenerator[Part]:
        """Its responses as they come; whoever stops before the last one cancels the request there.

        Raises the RequestError that its refusal stands for: QueueFullError where it cannot be reached, is not loaded,
        or is too busy.
        """
        if timeout_s <= 0:
            raise DeadlineError(f"no time was left for {self.name}")
        call: Any = self._open(
            infer_request(self.name, request_id, tensors, parameters, timeout_s), timeout=timeout_s + GRACE_S
        )
        is_over = False
        try:
            while True:
                response = await call.read()
                if response is _EOF:
                    raise QueueFullError(f"{self.name} broke its answer off")
                if response.error_message:
                    is_over = True
                    raise refusal_of(response.error_message)
                part = Part(response_tensors(response.infer_response), is_last(response.infer_response))
                if part.is_last:
                    is_over = True
                    # read to the end: Triton 2.51 can crash on a call that is cancelled as it answers
                    while await call.read() is not _EOF:
                        pass
                    yield part
                    return
                yield part
        except grpc.RpcError as error:
            is_over = True
            raise _error_of(error, self.name) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise QueueFullError(f"{self.name} cannot be reached: the connection was closed") from None
        finally:
            if not is_over:
                call.cancel()

    async def close(self) -> None:
        """Hang up; calls that still run are cancelled."""
        await self._channel.close(None)


def _channel(url: str, tls: Tls | None) -> aio.Channel:
    if tls is None:
        return aio.insecure_channel(url, options=_OPTIONS)
    ca, key, certificate = (each if isinstance(each, bytes) else None for each in (tls.ca, tls.key, tls.certificate))
    options: list[tuple[str, Any]] = [*_OPTIONS]
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return aio.secure_channel(url, grpc.ssl_channel_credentials(ca, key, certificate), options=options)


def refusal_of(message: str) -> RequestError:
    """The error that a model's error message stands for, by the status it begins with (``protocol.STATUS_PREFIXES``).

    Without one it is INVALID_ARGUMENT, unless Triton itself says that there is no such model, or not now.
    """
    if message.startswith(protocol.DEADLINE_PREFIX):
        return DeadlineError(message.removeprefix(protocol.DEADLINE_PREFIX))
    status, _, rest = message.partition(": ")
    if f"{status}: " not in protocol.STATUS_PREFIXES:
        is_away = any(sign in message for sign in ("unknown model", "not ready", "is not found", "Server is stopping"))
        return QueueFullError(message) if is_away else InvalidRequestError(message)
    if status in ("UNAVAILABLE", "NOT_FOUND"):
        return QueueFullError(rest)
    return CancelledRequestError(rest) if status == "CANCELLED" else EngineFailureError(rest)


def _error_of(error: Any, model: str) -> RequestError:
    status = error.code()
    kind = _STATUSES.get(status, QueueFullError)
    return kind(f"{model}: {error.details() or status.name}")
