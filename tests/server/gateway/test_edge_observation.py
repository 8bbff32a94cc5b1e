"""What is seen of requests: ids, metrics, the log, trace context, and no text of a caller's unless asked for."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from tests.gateway_process import GatewayProcess
from tritonclient.grpc import service_pb2, service_pb2_grpc

SECRET = "my grandmother's recipe"
BODY = {"model": "minilm", "input": SECRET}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_callers_request_id_comes_back(gateway: GatewayProcess) -> None:
    """In the answer and in the log, on success and on failure, so that both sides speak of the same request."""
    for body, status in ((BODY, 200), ({"model": "minilm"}, 400)):
        answer = gateway.ask("POST", "/v1/embeddings", body, {"X-Request-ID": f"order-{status}"})
        assert (answer.status, answer.headers["x-request-id"]) == (status, f"order-{status}")
    served, refused = gateway.logged("order-200"), gateway.logged("order-400")
    assert (served["status"], served["model"], served["input_tokens"]) == (200, "minilm", len(SECRET))
    assert refused["status"] == 400


@pytest.mark.parametrize(
    "given", ["", "a b", "x" * 129, 'a"b', "\\", "é".encode().decode("latin-1"), "a\tb", "<script>"]
)
def test_an_id_that_could_spoil_logs_is_replaced(gateway: GatewayProcess, given: str) -> None:
    """What is no plain name of up to 128 characters gives way to a random one."""
    answer = gateway.ask("GET", "/health/live", headers={"X-Request-ID": given})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_every_request_has_an_id_of_its_own(gateway: GatewayProcess) -> None:
    """Without a caller's, the gateway makes one."""
    ids = {gateway.ask("GET", path).headers["x-request-id"] for path in ("/health/live", "/health/live", "/nowhere")}
    assert len(ids) == 3


def test_requests_are_counted_by_route_status_and_key(start_gateway: Callable[..., GatewayProcess]) -> None:
    """Requests, seconds and tokens add up; paths that callers make up are one route."""
    gateway = start_gateway()
    for _ in range(3):
        gateway.ask("POST", "/v1/embeddings", {"model": "minilm", "input": "four"})
    gateway.ask("POST", "/v1/embeddings", {"model": "nobody", "input": "four"})
    for number in range(5):
        assert gateway.ask("GET", f"/made/up/{number}").status == 404
    requests = "fathom_gateway_requests_total"
    assert gateway.metric(requests, route="/v1/embeddings", status="200", key="anonymous") == 3
    assert gateway.metric(requests, route="/v1/embeddings", status="404") == 1
    assert gateway.metric(requests, route="none", status="404") == 5
    assert gateway.metric("fathom_gateway_request_duration_seconds_count", route="/v1/embeddings") == 4
    assert gateway.metric("fathom_gateway_input_tokens_total", route="/v1/embeddings") == 12
    assert gateway.metric("fathom_gateway_requests_in_flight", route="/v1/embeddings") == 0
    text = gateway.ask("GET", "/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"/made/up" not in text.body
    assert b"process_resident_memory_bytes" in text.body


def test_the_log_has_no_text_of_a_callers(gateway: GatewayProcess) -> None:
    """Neither what succeeds nor what fails leaves a caller's words in the log."""
    gateway.ask("POST", "/v1/embeddings", BODY)
    gateway.ask("POST", "/v1/embeddings", {**BODY, "dimensions": SECRET})
    gateway.ask("POST", "/v1/embeddings", {"model": SECRET, "input": SECRET})
    gateway.ask("POST", "/v1/embeddings", {**BODY, "truncate": SECRET, SECRET: SECRET})
    gateway.ask("POST", "/v1/embeddings", (SECRET * 3).encode(), {"Content-Type": "application/json"})
    gateway.ask("GET", f"/{quote(SECRET)}", headers={"X-Request-ID": "last"})
    gateway.logged("last")
    assert SECRET not in json.dumps(gateway.log(), ensure_ascii=False)


def test_texts_are_logged_where_that_was_asked_for(start_gateway: Callable[..., GatewayProcess]) -> None:
    """The request's body stands in its line, and the line is one line whatever it holds."""
    gateway = start_gateway(log_prompts=True)
    gateway.ask(
        "POST", "/v1/embeddings", {"model": "minilm", "input": SECRET + '\n"}\r\n\u2028🍚'}, {"X-Request-ID": "r1"}
    )
    assert json.loads(gateway.logged("r1")["prompt"])["input"].startswith(SECRET)


def test_probes_do_not_fill_the_log(gateway: GatewayProcess) -> None:
    """A probe that is answered as it should be leaves no line."""
    gateway.ask("GET", "/health/live", headers={"X-Request-ID": "probe"})
    gateway.ask("GET", "/metrics", headers={"X-Request-ID": "probe"})
    gateway.ask("GET", "/nowhere", headers={"X-Request-ID": "after-probes"})
    gateway.logged("after-probes")
    assert "probe" not in {line.get("request_id") for line in gateway.log()}


def test_trace_context_stands_in_the_log(gateway: GatewayProcess) -> None:
    """A W3C traceparent ties the line to the caller's trace."""
    gateway.ask("POST", "/v1/embeddings", BODY, {"X-Request-ID": "traced", "traceparent": TRACE})
    assert gateway.logged("traced")["traceparent"] == TRACE


class Listener(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Stands where Triton stands, and keeps the metadata of what it is asked."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []

    def ServerReady(self, request: Any, context: Any) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        return service_pb2.ServerReadyResponse(ready=True)


def test_trace_context_is_passed_on_to_triton(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each call carries its own caller's trace; what is no trace context is left out and refuses nobody."""
    server, listener = grpc.server(ThreadPoolExecutor(2)), Listener()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(listener, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with GatewayProcess(f"127.0.0.1:{port}", tmp_path_factory.mktemp("traced")) as gateway:
            for headers in ({"traceparent": TRACE, "tracestate": "vendor=1"}, {"traceparent": "nonsense"}, {}):
                assert gateway.ask("GET", "/health/ready", headers=headers).status == 200
    finally:
        server.stop(None)
    seen = [(each.get("traceparent"), each.get("tracestate")) for each in listener.metadata]
    assert seen == [(TRACE, "vendor=1"), (None, None), (None, None)]


def test_pages_of_other_origins_may_call_only_where_they_are_named(
    gateway: GatewayProcess, start_gateway: Callable[..., GatewayProcess], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """CORS is off; where it is on, the named origins get their preflight without a key, and no other does."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("alice:sk-alice-0123456789\n")
    wanted = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    page, other = {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}
    assert "access-control-allow-origin" not in gateway.ask("OPTIONS", "/v1/embeddings", headers=wanted | page).headers
    open_one = start_gateway(cors_origins=["https://app.example"], keys=str(keys))
    allowed = open_one.ask("OPTIONS", "/v1/embeddings", headers=wanted | page)
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert (
        "access-control-allow-origin" not in open_one.ask("OPTIONS", "/v1/embeddings", headers=wanted | other).headers
    )
    answer = open_one.ask("POST", "/v1/embeddings", BODY, page, key="sk-alice-0123456789")
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    assert open_one.ask("POST", "/v1/embeddings", BODY, page).status == 401


def test_ready_says_when_triton_is_not_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a Triton the gateway lives and is not ready, and a request is told to come again."""
    with GatewayProcess("127.0.0.1:1", tmp_path_factory.mktemp("alone")) as gateway:
        assert gateway.ask("GET", "/health/live").json() == {"status": "live"}
        ready = gateway.ask("GET", "/health/ready")
        assert (ready.status, ready.error["code"]) == (503, "not_ready")
        assert int(ready.headers["retry-after"]) > 0
        answer = gateway.ask("POST", "/v1/embeddings", BODY)
        assert answer.status == 503
        assert "127.0.0.1:1" not in answer.error["message"]
