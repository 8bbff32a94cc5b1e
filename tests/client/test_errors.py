"""Every way in which a request can fail, from real servers."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fathom_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    FathomError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    StreamBrokenError,
    Timeout,
)

from . import triton
from .conftest import REPOSITORY

AWAY = "127.0.0.1:1"

SERVER_ERRORS = [
    (("INVALID_ARG", "max_tokens is 7"), InvalidRequestError, "INVALID_ARGUMENT", "chat: max_tokens is 7"),
    (("UNAVAILABLE", "the queue is full"), OverloadedError, "UNAVAILABLE", "the queue is full .try again later"),
    (("UNAVAILABLE", "shutting down"), ServerUnavailableError, "UNAVAILABLE", "is not available: shutting down"),
    (("NOT_FOUND", "no such adapter"), ModelNotFoundError, "NOT_FOUND", "no such adapter; it is .* READY"),
    (("INTERNAL", "a bug ü"), ServerError, "INTERNAL", "the server failed with INTERNAL: a bug ü"),
    (("UNKNOWN", "who knows"), ServerError, "UNKNOWN", "the server failed with UNKNOWN"),
    (("UNSUPPORTED", "not that"), ServerError, "UNIMPLEMENTED", "not that"),
    (("CANCELLED", "dropped"), RequestCancelledError, "CANCELLED", "the request was cancelled: dropped"),
    (("CANCELLED", "CANCELLED"), ServerUnavailableError, "UNAVAILABLE", "dropped the request, for it is stopping"),
    (("CANCELLED", "DEADLINE_EXCEEDED: too late"), DeadlineExceededError, "DEADLINE_EXCEEDED", "chat: too late"),
]


@pytest.mark.parametrize(("error", "kind", "code", "message"), SERVER_ERRORS, ids=lambda value: str(value)[:40])
async def test_each_status_has_its_error(
    client: Client,
    async_client: AsyncClient,
    ordered: Callable[..., str],
    error: tuple[str, str],
    kind: type[FathomError],
    code: str,
    message: str,
) -> None:
    """A model's error arrives as the class that its status has, with code, model and request id, from both clients."""
    prompt = ordered("hello big world", error=error)
    with pytest.raises(kind, match=message) as caught:
        client.generate("chat", prompt, request_id="mine")
    with pytest.raises(kind, match=message) as awaited:
        await async_client.generate("chat", prompt, request_id="mine")
    for each in (caught.value, awaited.value):
        assert type(each) is kind
        assert (each.code, each.model, each.request_id) == (code, "chat", "mine")


async def test_error_in_the_middle_follows_the_chunks(
    client: Client, async_client: AsyncClient, ordered: Callable[..., str]
) -> None:
    """A stream gives what came before an error, then raises it, and raises it again when asked again."""
    # an error that comes at once can overtake the response before it within Triton
    prompt = ordered("hello big world", error=("INTERNAL", "a bug"), after=2, delay_s=0.2)
    stream = client.stream("chat", prompt)
    assert [next(stream).text, next(stream).text] == ["hello ", "big "]
    for read in (lambda: next(stream), stream.result):
        with pytest.raises(ServerError, match="a bug"):
            read()
    async_stream = async_client.stream("chat", prompt)
    assert [(await anext(async_stream)).text, (await anext(async_stream)).text] == ["hello ", "big "]
    with pytest.raises(ServerError, match="a bug"):
        await async_stream.result()


async def test_server_that_leaves_in_the_middle_breaks_the_stream(client: Client, ordered: Callable[..., str]) -> None:
    """A server that becomes unavailable while it answers is a broken stream, with what was had so far."""
    prompt = ordered("hello big world", error=("UNAVAILABLE", "shutting down"), after=2, delay_s=0.2)
    with pytest.raises(StreamBrokenError, match=r"broke off after 10 tokens: .*shutting down") as caught:
        list(client.stream("chat", prompt))
    assert caught.value.code == "UNAVAILABLE"


async def test_unknown_model_is_named_with_those_there_are(client: Client, async_client: AsyncClient) -> None:
    """An unknown model's error names the models that are ready, for every method of both clients."""
    calls: list[Callable[[], Any]] = [
        lambda: client.generate("nobody", "hello"),
        lambda: next(client.stream("nobody", "hello")),
        lambda: client.embed("nobody", "hello"),
        lambda: client.embed("nobody", "hello", batch_size=1),
        lambda: client.model_metadata("nobody"),
    ]
    for call in calls:
        with pytest.raises(ModelNotFoundError, match=r"nobody.*; models that are ready: chat, minilm") as caught:
            call()
        assert (caught.value.code, caught.value.model) == ("NOT_FOUND", "nobody")
    for awaitable in (async_client.generate("nobody", "hello"), async_client.embed("nobody", "hello", batch_size=1)):
        with pytest.raises(ModelNotFoundError, match="models that are ready: chat, minilm"):
            await awaitable


def test_wrong_kind_of_model_is_refused(client: Client) -> None:
    """Embedding with a generating model, or generating with an embedding one, is the caller's mistake."""
    with pytest.raises(InvalidRequestError, match="generates and does not embed"):
        client.embed("chat", "hello", batch_size=1)
    with pytest.raises(InvalidRequestError, match=r"minilm: .*inputs"):
        client.generate("minilm", "hello")


async def test_server_that_is_away_names_address_and_remedy() -> None:
    """A refused connection fails at once, and says where and what to do."""
    message = r"no server answers at 127\.0\.0\.1:1 .*refused.*start one with fathom-serve"
    with Client(AWAY) as client:
        for call in (lambda: client.generate("chat", "a"), lambda: client.embed("minilm", "a"), client.models):
            with pytest.raises(ServerUnavailableError, match=message) as caught:
                call()
            assert type(caught.value) is ServerUnavailableError
    async with AsyncClient(AWAY) as async_client:
        with pytest.raises(ServerUnavailableError, match=message):
            await async_client.generate("chat", "a")


def test_name_that_does_not_resolve_is_a_missing_server() -> None:
    """A host without an address is a server that does not answer."""
    with Client("nobody.invalid:8001") as client, pytest.raises(ServerUnavailableError, match=r"nobody\.invalid:8001"):
        client.generate("chat", "a")


def test_peer_that_never_answers_is_given_up() -> None:
    """A port that accepts and stays silent is given up after ``connect_s``."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(address, timeout=Timeout(connect_s=0.5)) as client, pytest.raises(ServerUnavailableError):
            client.generate("chat", "a", timeout_s=20)


def read_all(client: Client, prompt: str, first: threading.Event) -> FathomError:
    """Read a stream to its failure, which is returned."""
    try:
        for _ in client.stream("chat", prompt):
            first.set()
    except FathomError as error:
        return error
    raise AssertionError("the stream ended without an error")


async def test_killed_server_breaks_what_runs_and_a_new_one_serves(tmp_path: Path) -> None:
    """When the server dies, streams in the middle break, waiting requests fail, and the same clients go on later."""
    server = triton.start(REPOSITORY, tmp_path / "first")
    client, async_client = Client(server.url), AsyncClient(server.url)
    prompt = json.dumps({"delay_s": 0.02}) + "\n" + "a word " * 2000
    silent = json.dumps({"delay_s": 60}) + "\nhello"
    begun = [threading.Event() for _ in range(8)]
    try:
        with ThreadPoolExecutor(10) as pool:
            streams = [pool.submit(read_all, client, prompt, event) for event in begun]
            waiting = pool.submit(client.generate, "chat", silent)
            embedding = pool.submit(client.embed, "minilm", ["slow"] * 40, batch_size=1)
            async_stream = async_client.stream("chat", prompt)
            await anext(async_stream)
            for event in begun:
                await asyncio.to_thread(event.wait)
            server.kill()
            for stream in streams:
                error = await asyncio.wrap_future(stream)
                assert isinstance(error, StreamBrokenError)
                assert error.code == "UNAVAILABLE"
            with pytest.raises(StreamBrokenError, match="broke off after"):
                await async_stream.result()
            for future in (waiting, embedding):
                with pytest.raises(ServerUnavailableError, match=server.url):
                    await asyncio.wrap_future(future)
        server = triton.start(REPOSITORY, tmp_path / "second", grpc_port=server.grpc_port)
        client.wait_until_ready(10)
        assert client.generate("chat", "hello").text == "hello"
        await async_client.wait_until_ready(10)
        assert (await async_client.generate("chat", "hello")).text == "hello"
    finally:
        client.close()
        await async_client.close()
        server.kill()


class WrongServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A gRPC server that speaks the service and breaks its rules, as a proxy or another model server might."""

    def __init__(self, responses: list[service_pb2.ModelInferResponse]) -> None:
        self._responses = responses

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[service_pb2.ModelStreamInferResponse]:
        """Send the responses and end the call with OK."""
        for _ in requests:
            for response in self._responses:
                yield service_pb2.ModelStreamInferResponse(infer_response=response)

    def ModelInfer(self, request: Any, context: Any) -> service_pb2.ModelInferResponse:
        """Send the first response."""
        return self._responses[0]


@contextmanager
def wrong_server(*responses: service_pb2.ModelInferResponse) -> Iterator[str]:
    """Run such a server; gives its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(WrongServer(list(responses)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def response(final: bool = False, **tensors: tuple[str, bytes]) -> service_pb2.ModelInferResponse:
    """A response with tensors of shape [1]: name = (datatype, contents)."""
    made = service_pb2.ModelInferResponse(model_name="chat")
    made.parameters["triton_final_response"].bool_param = final
    for name, (datatype, contents) in tensors.items():
        made.outputs.add(name=name, datatype=datatype, shape=[1])
        made.raw_output_contents.append(contents)
    return made


def text(value: str) -> tuple[str, bytes]:
    """A text's datatype and contents."""
    return "BYTES", len(value.encode()).to_bytes(4, "little") + value.encode()


ONE = "UINT32", b"\x01\0\0\0"
GOOD = {
    "text_output": text("hi"),
    "output_ids": ("INT32", b"\x07\0\0\0"),
    "num_input_tokens": ONE,
    "num_output_tokens": ONE,
}


@pytest.mark.parametrize("chunks", [0, 1, 3])
async def test_stream_that_ends_without_a_final_response_is_broken(chunks: int) -> None:
    """A stream that the server closes, with OK, before the final response never passes for a whole answer."""
    message = f"broke off after {chunks} tokens: the server closed the stream without a final response"
    with wrong_server(*[response(**GOOD)] * chunks) as url:
        with Client(url) as client:
            stream = client.stream("chat", "hello")
            for _ in range(chunks):
                assert next(stream).text == "hi"
            with pytest.raises(StreamBrokenError, match=message):
                next(stream)
            with pytest.raises(StreamBrokenError, match=message):
                client.generate("chat", "hello")
        async with AsyncClient(url) as async_client:
            with pytest.raises(StreamBrokenError, match=message):
                await async_client.generate("chat", "hello")


WRONG_RESPONSES = {
    "no text": {name: tensor for name, tensor in GOOD.items() if name != "text_output"},
    "text of another type": GOOD | {"text_output": ONE},
    "text that is cut off": GOOD | {"text_output": ("BYTES", b"\xff\0\0\0hi")},
    "text that is not UTF-8": GOOD | {"text_output": ("BYTES", b"\x01\0\0\0\xff")},
    "empty text tensor": GOOD | {"text_output": ("BYTES", b"")},
    "count of another type": GOOD | {"num_output_tokens": ("FP32", b"\0\0\0\0")},
    "count of no bytes": GOOD | {"num_output_tokens": ("UINT32", b"")},
    "count of odd bytes": GOOD | {"num_output_tokens": ("UINT32", b"\0\0\0")},
}


@pytest.mark.parametrize("tensors", WRONG_RESPONSES.values(), ids=WRONG_RESPONSES.keys())
def test_response_that_does_not_fit_is_refused(tensors: dict[str, tuple[str, bytes]]) -> None:
    """Tensors that are missing, of another type or damaged are a protocol error that shows what came."""
    with wrong_server(response(True, **tensors)) as url, Client(url) as client:
        with pytest.raises(ProtocolError, match=r"does not fit .*it has .*num_input_tokens UINT32") as caught:
            client.generate("chat", "hello")
        assert caught.value.model == "chat"
        assert caught.value.request_id


def test_response_without_contents_is_refused() -> None:
    """A response whose contents do not match its tensors is a protocol error."""
    bare = response(True, **GOOD)
    del bare.raw_output_contents[-1]
    with wrong_server(bare) as url, Client(url) as client:
        with pytest.raises(ProtocolError, match="4 tensors and 3 contents"):
            client.generate("chat", "hello")
        with pytest.raises(ProtocolError, match="does not fit"):
            client.embed("minilm", "hello", batch_size=1)


def test_embedding_that_does_not_fit_is_refused() -> None:
    """Vectors that are missing, of another type, or too few are a protocol error."""
    shaped = response(sentence_embedding=("FP32", b"\0" * 16), num_input_tokens=ONE)
    shaped.outputs[0].shape[:] = [1, 4]
    double = response(sentence_embedding=("FP64", b"\0" * 16), num_input_tokens=ONE)
    double.outputs[0].shape[:] = [1, 2]
    uncounted = response(sentence_embedding=("FP32", b"\0" * 16))
    uncounted.outputs[0].shape[:] = [1, 4]
    for wrong, texts in ((response(**GOOD), ["a"]), (shaped, ["a", "b"]), (double, ["a"]), (uncounted, ["a"])):
        with (
            wrong_server(wrong) as url,
            Client(url) as client,
            pytest.raises(ProtocolError, match="an embedding model"),
        ):
            client.embed("minilm", texts, batch_size=2)
    with wrong_server(shaped) as url, Client(url) as client:
        assert client.embed("minilm", "a", batch_size=2).vectors.shape == (1, 4)


def test_methods_that_the_server_lacks_are_server_errors() -> None:
    """A gRPC server without Triton's other methods fails with UNIMPLEMENTED, not with silence."""
    with (
        wrong_server(response(**GOOD)) as url,
        Client(url) as client,
        pytest.raises(ServerError, match="UNIMPLEMENTED"),
    ):
        client.models()
