"""Whoever leaves frees what they held: by cancelling, by hanging up, by being late."""

import http.client
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tests.serving import FathomServe, wait_until
from tritonclient.grpc import service_pb2

from fathom_client import Client, DeadlineExceededError, OverloadedError, protocol
from fathom_client import metric_names as names

LONG = {"max_tokens": 2000, "ignore_eos": True}
PROMPT = "hello"


def load(server: FathomServe, model: str = "tight") -> tuple[int, int]:
    """Running and waiting requests of a model, from Triton's metrics."""
    status, body = server.get("/metrics", server.metrics_port)
    assert status == 200
    found = dict(re.findall(rf'fathom_num_requests_(\w+){{model="{model}"}} (\d+)', body.decode()))
    return int(found["running"]), int(found["waiting"])


def wait_for(server: FathomServe, expected: tuple[int, int]) -> None:
    """Wait until the engine is as busy as expected; the test's time limit ends a wait in vain."""
    while load(server) != expected:
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def idle_before_and_after(server: FathomServe, client: Client):
    """Each test begins and ends with an engine that nobody uses and that answers."""
    wait_for(server, (0, 0))
    yield
    wait_for(server, (0, 0))
    assert client.generate("tight", PROMPT, max_tokens=3, ignore_eos=True).num_output_tokens == 3


@pytest.mark.timeout(60)
def test_closed_stream_frees_its_slot(server: FathomServe, client: Client) -> None:
    """Closing a stream frees the only slot: the next request runs."""
    stream = client.stream("tight", PROMPT, **LONG)
    next(iter(stream))
    wait_for(server, (1, 0))
    stream.close()


@pytest.mark.timeout(120)
def test_crowds_of_leavers_crash_nothing(server: FathomServe, client: Client) -> None:
    """Eight callers at a time leave, a hundred times each, early and late in their answers: the same Triton goes on."""
    before = set(server.triton_processes())

    def leave(times: int) -> None:
        for each in range(times):
            with client.stream("small", PROMPT, **LONG) as stream:
                for _ in range(each % 5 + 1):
                    next(stream)

    with ThreadPoolExecutor(8) as leavers:
        for one in [leavers.submit(leave, 100) for _ in range(8)]:
            one.result()
    assert set(server.triton_processes()) == before
    assert "started again" not in server.stderr()


@pytest.mark.timeout(60)
def test_client_that_hangs_up_frees_its_slot(server: FathomServe) -> None:
    """A client whose connection goes away mid-answer is not waited for."""
    other = Client(server.url)
    stream = other.stream("tight", PROMPT, **LONG)
    next(iter(stream))
    wait_for(server, (1, 0))
    other.close()


@pytest.mark.timeout(60)
def test_http_disconnect_frees_its_slot(server: FathomServe) -> None:
    """An HTTP client that drops its connection in the middle of an event stream frees the slot."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    sampling = json.dumps({"max_tokens": 2000, "ignore_eos": True})
    body = json.dumps({"text_input": PROMPT, "stream": True, "sampling_parameters": sampling})
    connection.request("POST", "/v2/models/tight/generate_stream", body)
    assert connection.getresponse().readline().startswith(b"data: ")
    wait_for(server, (1, 0))
    connection.close()


@pytest.mark.timeout(120)
def test_readers_who_stop_reading_hold_nobody_up(server: FathomServe, client: Client) -> None:
    """Answers that nobody reads are computed and freed all the same, others are served, and no memory runs away."""
    request = service_pb2.ModelInferRequest(model_name="chat_int8")
    request.inputs.add(name=protocol.TEXT_INPUT, datatype="BYTES", shape=[1])
    request.inputs.add(name=protocol.SAMPLING_PARAMETERS, datatype="BYTES", shape=[1])
    request.inputs.add(name=protocol.STREAM, datatype="BOOL", shape=[1])
    texts = [PROMPT.encode(), json.dumps(LONG | {"max_tokens": 1900, "logprobs": 5}).encode()]
    request.raw_input_contents.extend([len(text).to_bytes(4, "little") + text for text in texts] + [b"\x01"])
    ended = server.metric(names.DECODE_TIME + "_count", "chat_int8")
    before = sum(map(resident_kib, server.triton_processes()))
    with grpc.insecure_channel(server.url) as channel:
        open_stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        unread = [open_stream(iter([request])) for _ in range(8)]
        wait_until(lambda: load(server, "chat_int8")[0] == 8)
        assert client.generate("chat_int8", PROMPT, max_tokens=20, ignore_eos=True).num_output_tokens == 20
        wait_until(lambda: server.metric(names.DECODE_TIME + "_count", "chat_int8") == ended + 9)
        assert load(server, "chat_int8") == (0, 0)
        grown = sum(map(resident_kib, server.triton_processes())) - before
        for stream in unread:
            stream.cancel()
    assert grown < 128 << 10, f"{grown} KiB for 15,200 tokens that nobody read"


def resident_kib(process: int) -> int:
    """A process's resident memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) if found else 0


@pytest.mark.timeout(60)
def test_waiting_request_can_leave(server: FathomServe, client: Client) -> None:
    """A request that waits in the queue is dropped when its caller leaves."""
    running = client.stream("tight", PROMPT, **LONG)
    next(iter(running))
    waiting = client.stream("tight", PROMPT, **LONG)
    wait_for(server, (1, 1))
    waiting.close()
    wait_for(server, (1, 0))
    running.close()


@pytest.mark.timeout(60)
def test_late_request_ends_by_its_deadline(client: Client) -> None:
    """A request's own deadline ends it, told as such; what was ready came before."""
    stream = client.stream("tight", PROMPT, timeout_s=0.4, **LONG)
    with pytest.raises(DeadlineExceededError):
        for _ in stream:
            pass


@pytest.mark.timeout(60)
def test_behind_the_ensemble_the_deadline_frees_the_slot(server: FathomServe, client: Client) -> None:
    """Triton tells an ensemble's step nothing of a caller who left; the deployment's own deadline (5 s) ends it."""
    stream = client.stream("tight_ensemble", PROMPT, **LONG)
    next(iter(stream))
    wait_for(server, (1, 0))
    stream.close()


@pytest.mark.timeout(60)
def test_full_queue_answers_at_once(server: FathomServe, client: Client) -> None:
    """One request more than slot and queue hold is refused as overloaded, and the others are not disturbed."""
    running = client.stream("tight", PROMPT, **LONG)
    next(iter(running))
    waiting = client.stream("tight", PROMPT, max_tokens=2, ignore_eos=True)
    wait_for(server, (1, 1))
    with pytest.raises(OverloadedError, match="the queue is full"):
        client.generate("tight", PROMPT, max_tokens=1)
    running.close()
    assert waiting.result().num_output_tokens == 2
