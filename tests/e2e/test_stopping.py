"""A stop loses no answer that is being given, takes no new work, and nobody holds it up."""

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from tests.serving import FathomServe
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fathom_client import Client
from fathom_client.errors import FathomError, ModelNotFoundError, ServerUnavailableError, StreamBrokenError

STREAMS = 32
TOKENS = 150
PATIENCE_S = 60.0
NOT_TAKEN = (ServerUnavailableError, ModelNotFoundError)
"""What a server says of a request that came too late; a client with several servers tries the next one."""


@pytest.fixture(scope="module")
def one_model(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the large model alone."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "chat").symlink_to(repository / "chat")
    return folder


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Return as soon as it is so; fails the test if that does not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def is_grpc_ready(server: FathomServe) -> bool:
    """What the server says of itself over gRPC; one that cannot be asked is not ready."""
    with grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            return bool(stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready)
        except grpc.RpcError:
            return False


@dataclass(slots=True)
class Streams:
    """Many streams read at once, and what has become of them."""

    client: Client
    tokens: int
    begun: int = 0
    ended: int = 0
    results: list[Future[int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> int:
        """Read one stream to its end; returns its tokens."""
        try:
            with self.client.stream("chat", "hello", max_tokens=self.tokens, ignore_eos=True) as stream:
                for place, _ in enumerate(stream):
                    if place == 0:
                        with self.lock:
                            self.begun += 1
                return stream.result().num_output_tokens
        finally:
            with self.lock:
                self.ended += 1


@pytest.mark.timeout(120, func_only=True)
@pytest.mark.parametrize("moment", ["first begun", "all sent", "some ended"])
def test_stop_at_any_moment_under_32_streams(serve: Callable[..., FathomServe], one_model: Path, moment: str) -> None:
    """Readiness goes while streams still run, each that was taken ends whole, each that came later is refused."""
    server = serve(one_model, "--drain-s", "50")
    with (
        Client(server.url) as client,
        Client(server.url, retry=None) as late,
        ThreadPoolExecutor(STREAMS) as threads,
    ):
        streams = Streams(client, TOKENS)
        streams.results += [threads.submit(streams.read) for _ in range(STREAMS)]
        moments = {
            "first begun": lambda: streams.begun > 0,
            "all sent": lambda: requests_of(server) == STREAMS or streams.ended > 0,
            "some ended": lambda: streams.ended > 0,
        }
        wait_until(moments[moment], f"the moment {moment!r} never came")
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/v2/health/ready")[0] != 200, "still ready over HTTP")
        wait_until(lambda: not is_grpc_ready(server), "still ready over gRPC")
        assert streams.ended < STREAMS, "readiness went only after the last answer"
        with pytest.raises(NOT_TAKEN):
            late.generate("chat", "too late", max_tokens=1)
        failures = [failure for result in streams.results if (failure := result.exception(PATIENCE_S))]
        answers = [result.result() for result in streams.results if not result.exception()]
    assert answers == [TOKENS] * streams.begun
    assert all(isinstance(failure, NOT_TAKEN) for failure in failures), failures
    assert len(answers) + len(failures) == STREAMS
    assert moment != "all sent" or not failures
    assert server.process.wait(PATIENCE_S) == 0
    assert server.triton_processes() == []


def requests_of(server: FathomServe) -> int:
    """How many requests the engine has, by its own gauges."""
    lines = server.get("/metrics", server.metrics_port)[1].decode().splitlines()
    names = ("fathom_num_requests_running{", "fathom_num_requests_waiting{")
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(names)))


@pytest.mark.timeout(120, func_only=True)
def test_answers_that_are_too_long_end_with_a_status_on_which_to_try_again(
    serve: Callable[..., FathomServe], one_model: Path
) -> None:
    """At the deadline the server tells each caller UNAVAILABLE, whether its answer had begun or not, and says so."""
    server = serve(one_model, "--drain-s", "4")
    with Client(server.url, retry=None) as client, ThreadPoolExecutor(STREAMS) as threads:
        streams = Streams(client, 1900)
        streams.results += [threads.submit(streams.read) for _ in range(STREAMS)]
        wait_until(lambda: streams.begun > 0 and requests_of(server) == STREAMS, "the streams never ran")
        assert server.stop() == 1
        failures = [result.exception(PATIENCE_S) for result in streams.results]
    assert len(failures) == STREAMS
    for failure in failures:
        assert isinstance(failure, FathomError)
        assert failure.code == "UNAVAILABLE"
        assert "the server is shutting down" in str(failure)
    assert any(isinstance(failure, StreamBrokenError) for failure in failures)
    assert any(isinstance(failure, ServerUnavailableError) for failure in failures)
    assert "ended at the deadline (--drain-s 4): " in server.stderr()
    assert server.triton_processes() == []


@pytest.mark.timeout(120, func_only=True)
def test_open_http_answer_does_not_keep_the_door_open_for_grpc(
    serve: Callable[..., FathomServe], one_model: Path
) -> None:
    """While Triton waits for a stream over HTTP, the LLM itself refuses new gRPC requests; the stream ends whole."""
    server = serve(one_model, "--drain-s", "50")
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=PATIENCE_S)
    body = {"text_input": "hello", "stream": True, "max_tokens": 600, "return_num_output_tokens": True}
    body["sampling_parameters"] = json.dumps({"ignore_eos": True})
    connection.request("POST", "/v2/models/chat/generate_stream", json.dumps(body))
    answer = connection.getresponse()
    events = [json.loads(answer.readline().removeprefix(b"data: "))]
    with Client(server.url, retry=None) as client:
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "HTTP service connections" in server.stderr(), "Triton does not wait for the stream")
        assert server.get("/v2/health/ready")[0] != 200
        wait_until(lambda: refuses(client), "the LLM takes new work during a stop")
    lines = [line for line in answer.read().decode().splitlines() if line]
    events += [json.loads(line.removeprefix("data: ")) for line in lines]
    assert not any("error" in event for event in events)
    assert sum(event["num_output_tokens"] for event in events) == 600
    connection.close()
    assert server.process.wait(PATIENCE_S) == 0


def refuses(client: Client) -> bool:
    """Whether a new request is refused as one for another server."""
    try:
        client.generate("chat", "too late", max_tokens=1)
    except ServerUnavailableError as error:
        return "send the request to another" in str(error)
    return False


@pytest.mark.timeout(120, func_only=True)
def test_idle_streams_do_not_hold_up_a_stop(serve: Callable[..., FathomServe], one_model: Path) -> None:
    """SIGTERM under four streams and an idle one: each answer comes whole, and the server ends with status 0."""
    server = serve(one_model, "--drain-s", "50")
    with Client(server.url) as client, grpc.insecure_channel(server.url) as bystander:
        streams = [client.stream("chat", "hello", max_tokens=600, ignore_eos=True) for _ in range(4)]
        for stream in streams:
            next(iter(stream))
        idle = threading.Event()

        def silence():
            idle.wait()
            yield from ()

        held = service_pb2_grpc.GRPCInferenceServiceStub(bystander).ModelStreamInfer(silence())
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        answers = [stream.result() for stream in streams]
        assert [answer.num_output_tokens for answer in answers] == [600] * 4
        assert server.process.wait(PATIENCE_S) == 0
        assert "at the deadline" not in server.stderr()
        idle.set()
        held.cancel()
    assert server.triton_processes() == []
