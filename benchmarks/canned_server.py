"""A gRPC server that answers at once with prepared bytes: what a load generator can ask when no server is the limit.

    python -m benchmarks.canned_server       # prints its port

It speaks as much of KServe's protocol as ``fathom-load`` needs: model ``canned`` streams ``max_tokens`` responses of a
token each as fast as they are read, or answers with a vector of 384 numbers.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import numpy as np
from grpc import aio
from tritonclient.grpc import service_pb2

from fathom_client import protocol

SERVICE: Final = "inference.GRPCInferenceService"
DIMENSIONS: Final = 384
Message = bytes


def _add(response: Any, name: str, datatype: str, shape: list[int], content: bytes) -> None:
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    response.raw_output_contents.append(content)


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _text(text: bytes) -> bytes:
    return _number(len(text)) + text


def vector(request_id: str) -> Message:
    """An embedding."""
    response = service_pb2.ModelInferResponse(model_name="canned", model_version="1", id=request_id)
    numbers = np.full(DIMENSIONS, DIMENSIONS**-0.5, dtype="<f4")
    _add(response, protocol.SENTENCE_EMBEDDING, "FP32", [1, DIMENSIONS], numbers.tobytes())
    _add(response, protocol.NUM_INPUT_TOKENS, "UINT32", [1, 1], _number(8))
    return bytes(response.SerializeToString())


def piece(request_id: str, *, last: bool) -> Message:
    """One token of an answer."""
    whole = service_pb2.ModelStreamInferResponse()
    response = whole.infer_response
    response.model_name, response.model_version, response.id = "canned", "1", request_id
    _add(response, protocol.TEXT_OUTPUT, "BYTES", [1], _text(b"tick "))
    _add(response, protocol.NUM_INPUT_TOKENS, "UINT32", [1], _number(8))
    _add(response, protocol.NUM_OUTPUT_TOKENS, "UINT32", [1], _number(1))
    _add(response, protocol.OUTPUT_IDS, "INT32", [1], _number(7))
    if last:
        _add(response, protocol.FINISH_REASON, "BYTES", [1], _text(b"length"))
        response.parameters["triton_final_response"].bool_param = True
    return bytes(whole.SerializeToString())


async def infer(message: Message, context: Any) -> Message:
    """Answer ``ModelInfer``."""
    return vector(service_pb2.ModelInferRequest.FromString(message).id)


async def stream_infer(messages: AsyncIterator[Message], context: Any) -> AsyncIterator[Message]:
    """Answer ``ModelStreamInfer``."""
    async for message in messages:
        request = service_pb2.ModelInferRequest.FromString(message)
        tokens = 16
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True):
            if tensor.name == protocol.MAX_TOKENS:
                tokens = int.from_bytes(content, "little")
        ordinary = piece(request.id, last=False)
        for _ in range(tokens - 1):
            yield ordinary
        yield piece(request.id, last=True)


def _always(response: Any) -> Callable[[Message, Any], Awaitable[Message]]:
    content = bytes(response.SerializeToString())

    async def answer(message: Message, context: Any) -> Message:
        return content

    return answer


async def serve() -> None:
    """Serve on a free port of the loopback interface until the input ends."""
    model = service_pb2.ModelMetadataResponse(name="canned", versions=["1"], platform="canned")
    unary: dict[str, Any] = {
        "ServerLive": _always(service_pb2.ServerLiveResponse(live=True)),
        "ServerReady": _always(service_pb2.ServerReadyResponse(ready=True)),
        "ModelReady": _always(service_pb2.ModelReadyResponse(ready=True)),
        "ServerMetadata": _always(service_pb2.ServerMetadataResponse(name="canned", version="1")),
        "ModelMetadata": _always(model),
        "ModelInfer": infer,
    }
    handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in unary.items()}
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(stream_infer)
    server = aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve())
