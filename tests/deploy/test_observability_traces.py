"""Traces from the caller's span through gateway and Triton to the engine, and logs with the requests' ids."""

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.deploy.observability.deployment import deployment, export_small
from tests.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.serving import FathomServe

from fathom_client import Client, TraceContext
from fathom_client.errors import DeadlineExceededError, FathomError

PARENT = "b7ad6b7169203331"
PHASES = ["queue", "prefill", "decode"]


def traceparent(trace: int, *, kept: bool = True) -> tuple[str, str]:
    """A trace id of a test's own, and the header of a caller in it."""
    name = f"{trace:032x}"
    return name, f"00-{name}-{PARENT}-{int(kept):02x}"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def server(receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """A deployment that traces, logs JSON, and sends its spans five times a second."""
    flags = ("--otlp-endpoint", receiver.endpoint, "--log-format", "json")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with deployment(tmp_path_factory.mktemp("traced"), *flags) as running:
            yield running


def ask(server: FathomServe, headers: dict[str, str], **further: Any) -> tuple[int, dict[str, str]]:
    """A chat through the gateway; returns status and headers, in lower case."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "Add 1 and 2."}], "max_tokens": 8, **further}
    connection = http.client.HTTPConnection("127.0.0.1", server.openai_port, timeout=60)
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json", **headers}
        )
        response = connection.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def of_engine(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    return [span for span in spans if span.service == "fathom-engine"]


def is_whole(spans: list[ReceivedSpan]) -> bool:
    """Whether all three services have sent theirs, the outermost last."""
    return len(of_engine(spans)) == 4 and {"fathom-gateway", "fathom-triton"} <= {span.service for span in spans}


def ancestors(span: ReceivedSpan, spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    """From the span's parent outwards, as far as it was sent."""
    by_id = {each.id: each for each in spans}
    found = []
    while span.parent in by_id:
        span = by_id[span.parent]
        found.append(span)
    return found


def log_lines(server: FathomServe) -> list[dict[str, Any]]:
    """Every line of its log so far, each of which must be JSON."""
    whole, _, _ = server.stderr().rpartition("\n")
    return [json.loads(line) for line in whole.split("\n") if line]


def logged(server: FathomServe, logger: str, request_id: str) -> dict[str, Any]:
    """The line of a request from one of the loggers."""
    deadline = time.monotonic() + 20
    while True:
        for line in log_lines(server):
            if line["logger"] == logger and line.get("request_id") == request_id:
                return line
        assert time.monotonic() < deadline, f"no line of {request_id} by {logger}"
        time.sleep(0.05)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_trace_from_caller_to_engine(
    server: FathomServe, receiver: OtlpReceiver, stream: bool
) -> None:
    """The gateway's span is the caller's child, Triton's the gateway's, the engine's Triton's; its phases join."""
    trace, header = traceparent(0xA0 + stream)
    status, answered = ask(server, {"traceparent": header, "x-request-id": f"traced-{stream}"}, stream=stream)
    assert status == 200
    spans = receiver.wait_for(trace, is_whole)
    (gateway,) = [span for span in spans if span.service == "fathom-gateway"]
    assert gateway.parent == PARENT
    assert gateway.name == "POST /v1/chat/completions"
    assert gateway.events == (("first output",) if stream else ())
    assert gateway.attributes["http.response.status_code"] == 200
    engine, *phases = sorted(
        of_engine(spans), key=lambda span: (span.parent in {one.id for one in of_engine(spans)}, span.begun_ns)
    )
    path = ancestors(engine, spans)
    assert [span.service for span in path] == ["fathom-triton"] * (len(path) - 1) + ["fathom-gateway"]
    assert len(path) >= 2
    assert [span.name for span in phases] == PHASES
    assert {span.parent for span in phases} == {engine.id}
    assert [span.begun_ns for span in phases] == [engine.begun_ns, *(span.ended_ns for span in phases[:-1])]
    assert phases[-1].ended_ns == engine.ended_ns
    for span in (gateway, engine):
        assert span.attributes["fathom.request_id"] == answered["x-request-id"] == f"traced-{stream}"
        assert span.attributes["gen_ai.request.model"] == "chat"
        assert span.attributes["gen_ai.usage.output_tokens"] == gateway.attributes["gen_ai.usage.output_tokens"] > 0
    assert not any(span.is_error for span in spans)


def test_a_gateway_begins_a_trace_where_the_caller_has_none(server: FathomServe, receiver: OtlpReceiver) -> None:
    """Its log says which: the whole trace is found by it, and its first span has no parent."""
    _, answered = ask(server, {"x-request-id": "begins"})
    line = logged(server, "fathom.gateway.access", answered["x-request-id"])
    _, trace, span_id, _ = line["traceparent"].split("-")
    spans = receiver.wait_for(trace, is_whole)
    assert [span.id for span in spans if not span.parent] == [span_id]


def test_a_trace_that_its_caller_does_not_keep_leaves_no_span(server: FathomServe, receiver: OtlpReceiver) -> None:
    """Neither gateway nor Triton nor engine sends one, though the request goes through all of them."""
    trace, header = traceparent(0xB0, kept=False)
    assert ask(server, {"traceparent": header})[0] == 200
    later, header = traceparent(0xB1)
    ask(server, {"traceparent": header})
    receiver.wait_for(later, is_whole)
    assert receiver.trace(trace) == []


def test_callers_of_triton_itself_are_traced_by_their_own_context(server: FathomServe, receiver: OtlpReceiver) -> None:
    """A client's trace goes on in Triton and the engine; without one nothing is traced."""
    trace, header = traceparent(0xC0)
    before = {span.trace for span in receiver.spans}
    with Client(server.url) as client:
        client.generate("chat", "Add 1 and 2.", max_tokens=4)
        with TraceContext(header).use():
            client.generate("chat", "Add 1 and 2.", max_tokens=4)
    spans = receiver.wait_for(trace, lambda spans: len(of_engine(spans)) == 4)
    assert "fathom-gateway" not in {span.service for span in spans}
    assert {span.trace for span in receiver.spans} - before == {trace}


def test_a_late_request_is_an_error_with_what_it_got_to(server: FathomServe, receiver: OtlpReceiver) -> None:
    """Its span has the status error, its tokens so far, and ends with the phase in which its time was up."""
    trace, header = traceparent(0xD0)
    with Client(server.url) as client, TraceContext(header).use(), pytest.raises(DeadlineExceededError):
        client.generate("chat", "Add 1 and 2.", max_tokens=400, ignore_eos=True, timeout_s=0.05)
    spans = of_engine(receiver.wait_for(trace, lambda spans: any(span.name == "engine" for span in of_engine(spans))))
    (engine,) = [span for span in spans if span.name == "engine"]
    assert engine.is_error
    assert 0 <= engine.attributes["gen_ai.usage.output_tokens"] < 400
    assert "gen_ai.response.finish_reasons" not in engine.attributes


def test_probes_are_not_traced(server: FathomServe, receiver: OtlpReceiver) -> None:
    """Health checks and scrapes of the gateway would drown everything else."""
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert server.get(path, server.openai_port)[0] == 200
    trace, header = traceparent(0xE0)
    ask(server, {"traceparent": header})
    receiver.wait_for(trace, is_whole)
    names = {span.name for span in receiver.spans if span.service == "fathom-gateway"}
    assert names == {"POST /v1/chat/completions"}


def test_every_line_of_the_log_is_json_and_requests_are_found_by_id(server: FathomServe) -> None:
    """Launcher, Triton, gateway and engine write objects; the engine's has its times and the caller's id."""
    ask(server, {"x-request-id": "order-7"})
    line = logged(server, "fathom.requests", "order-7")
    assert line["model"] == "chat"
    assert line["finish_reasons"] in (["stop"], ["length"])
    assert line["output_tokens"] > 0
    assert line["queue_ms"] + line["prefill_ms"] + line["decode_ms"] == pytest.approx(line["duration_ms"], abs=0.01)
    assert logged(server, "fathom.gateway.access", "order-7")["status"] == 200
    assert {"triton", "fathom.serve", "fathom.requests", "fathom.gateway.access"} <= {
        each["logger"] for each in log_lines(server)
    }


def test_a_refused_request_is_logged_with_its_id_and_reason(server: FathomServe) -> None:
    """What never ran is found by its id as well."""
    with Client(server.url) as client, pytest.raises(FathomError):
        client.generate("chat", "Add 1 and 2.", max_tokens=100_000, request_id="too-long")
    line = logged(server, "fathom.requests", "too-long")
    assert line["message"] == "refused"
    assert "max_tokens is 100000" in line["error"]


def test_a_collector_that_is_away_costs_no_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Requests are answered, and a stop is complete in time, when nobody takes the spans; warnings alone are logged."""
    folder = tmp_path_factory.mktemp("alone")
    flags = ("--otlp-endpoint", "http://127.0.0.1:9", "--log-format", "json", "--log-level", "warning")
    with FathomServe(export_small(folder), folder / "serve", ("--openai-port", *flags)) as running:
        _, header = traceparent(0xF0)
        assert ask(running, {"traceparent": header, "x-request-id": "alone"})[0] == 200
        assert running.stop() == 0
        assert "fathom.requests" not in {line["logger"] for line in log_lines(running)}
