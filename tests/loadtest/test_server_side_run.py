"""The server's side of whole runs: what the twin's own metrics say agrees with what the client counted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.loadtest.command import run

if TYPE_CHECKING:
    from tests.loadtest.twin_server import TwinServer


def metrics_url(twin: "TwinServer") -> str:
    """Where the twin's metrics are."""
    assert twin.ports is not None
    return f"http://127.0.0.1:{twin.ports['metrics']}/metrics"


def side(report: dict[str, Any], stage: int = 0) -> dict[str, Any]:
    """The server's side of a stage."""
    found: dict[str, Any] = report["stages"][stage]["server"]
    return found


def test_the_servers_counts_of_a_stage_are_the_clients(twin: "TwinServer", tmp_path: Path) -> None:
    """Requests, tokens and ends equal the report's, warm-up left out; the engine's TTFT is below the client's."""
    arguments = ["--model", "chat", "--users", "2,4", "--requests", 24, "--input-tokens", 30, "--output-tokens", 12]
    done = run(twin, tmp_path / "out", [*arguments, "--metrics-url", metrics_url(twin)])
    assert done.status == 0, done.stderr
    for stage in (0, 1):
        engine, figures = side(done.report, stage)["engines"]["chat"], done.figures(stage)
        assert engine["generation_tokens"] == figures["total_output_tokens"]
        assert engine["prompt_tokens"] == figures["total_input_tokens"]
        assert sum(engine["ends"].values()) == 24
        assert side(done.report, stage)["notes"] == []
        for each in side(done.report, stage)["reconciled"]:
            assert each["client_count"] == each["server_count"] == 24
            assert each["client_ms"] == figures[each["figure"]]["avg"]
        (ttft,) = (each for each in side(done.report, stage)["reconciled"] if each["figure"] == "ttft_ms")
        assert 0 < ttft["server_ms"] < ttft["client_ms"]
    processes = side(done.report)["processes"]
    assert processes["processes"] >= 2
    assert processes["rss_bytes"]["max"] > 10 << 20


def test_an_encoder_is_seen_by_tritons_counters(twin: "TwinServer", tmp_path: Path) -> None:
    """Its requests equal the client's, and their time at the server is a part of the client's latency."""
    arguments = ["--model", "minilm", "--task", "embed", "--users", 4, "--requests", 200, "--input-tokens", 8]
    done = run(twin, tmp_path / "out", [*arguments, "--metrics-url", metrics_url(twin)])
    assert done.status == 0, done.stderr
    model = side(done.report)["models"]["minilm"]
    assert (model["requests"], model["failures"]) == (200, 0)
    (latency,) = side(done.report)["reconciled"]
    assert (latency["figure"], latency["server_ms"]) == ("request_latency_ms", model["request_ms"])
    assert 0 < latency["outside_ms"] < latency["client_ms"]


def test_a_closed_metrics_port_is_a_note_and_off_is_none(twin: "TwinServer", tmp_path: Path) -> None:
    """A run goes on without the server's metrics, and says which address did not answer."""
    arguments = ["--model", "chat", "--requests", 4, "--input-tokens", 8]
    done = run(twin, tmp_path / "closed", [*arguments, "--metrics-url", "http://127.0.0.1:9/metrics"])
    assert done.status == 0, done.stderr
    assert side(done.report)["scrapes"] == 0
    assert any("http://127.0.0.1:9/metrics" in note for note in side(done.report)["notes"])
    without = run(twin, tmp_path / "off", [*arguments, "--metrics-url", "off"])
    assert without.report["stages"][0]["server"] is None
