"""How many requests wait for an encoder: no bound of Triton's, one of ours."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.export.encoder_checkpoints import write_checkpoint
from tests.export.test_export_repository import Quiet
from tests.serving import FathomServe

from fathom_client import Client, OverloadedError
from fathom_export.export_model import export_model
from fathom_export.spec import EmbedSpec
from fathom_server.backends.tokenizer.encoder_backlog import ADDRESS_VARIABLE, EncoderBacklog


def test_a_burst_beyond_the_bound_is_refused_and_the_rest_is_answered(
    tmp_path: Path, serve: Callable[..., FathomServe]
) -> None:
    """Of many requests at once some are UNAVAILABLE at a bound of two, all others get their embedding."""
    source = write_checkpoint(tmp_path / "source", "bert")
    limits = {"max_queue": 2, "max_batch": 1}
    export_model(EmbedSpec("embed", str(source), limits=limits), Path(), tmp_path / "repository", Quiet())
    config = (tmp_path / "repository" / "embed_encoder" / "config.pbtxt").read_text()
    assert "default_queue_policy" not in config
    server = serve(tmp_path / "repository")
    outcomes = []
    with Client(f"127.0.0.1:{server.grpc_port}") as client:

        def embed(number: int) -> str:
            try:
                return f"{client.embed('embed', [f'the cat sat {number}']).vectors.shape}"
            except OverloadedError as error:
                return str(error)

        with ThreadPoolExecutor(32) as pool:
            outcomes = list(pool.map(embed, range(320)))
        assert len({*outcomes}) == 2
        assert outcomes.count("(1, 32)") >= 2
        assert any("the queue of embed_encoder is full" in outcome for outcome in outcomes)
        while embed(0) != "(1, 32)":  # the gauge is looked at again, and there is room
            pass


def test_the_gauge_at_the_last_look_and_what_was_admitted_since_make_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests are refused while Triton's gauge says so, and admitted again when it falls."""
    gauge = {"value": 9.0}
    looked = threading.Semaphore(0)

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (
                'nv_inference_pending_request_count{model="other",version="1"} 1000\n'
                f'nv_inference_pending_request_count{{model="mini.encoder",version="1"}} {gauge["value"]:.6f}\n'
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            looked.release()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(ADDRESS_VARIABLE, f"127.0.0.1:{server.server_port}")
    backlog = EncoderBacklog("mini.encoder", 10)
    try:
        assert [backlog.admit() for _ in range(11)] == [True] * 10 + [False]
        assert looked.acquire(timeout=10)
        gauge["value"] = 0.0
        while not backlog.admit():
            assert looked.acquire(timeout=10)
    finally:
        backlog.close()
        server.shutdown()
        server.server_close()


def test_without_metrics_nothing_is_refused_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers, the count falls back to what was admitted since the last try."""
    monkeypatch.setenv(ADDRESS_VARIABLE, "127.0.0.1:9")
    backlog = EncoderBacklog("encoder", 4)
    try:
        admitted = 0
        while admitted < 20:
            admitted += backlog.admit()
    finally:
        backlog.close()
