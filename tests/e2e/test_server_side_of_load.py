"""The server's side of a load test of the real engine: its own counters agree with what the client recorded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.serving import FathomServe


def run(server: FathomServe, output: Path, *arguments: object) -> dict[str, Any]:
    """Run a load test of the deployment; gives its report."""
    command = [sys.executable, "-m", "fathom_loadtest", "run", "--url", server.url, "--output", str(output)]
    command += ["--metrics-url", f"http://127.0.0.1:{server.metrics_port}/metrics", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def test_the_engine_and_the_client_count_the_same(server: FathomServe, tmp_path: Path) -> None:
    """Tokens, ends, prefix hits and steps of the stage are there, and TTFT, ITL and latency are reconciled."""
    load = ["--model", "chat_int8", "--users", 4, "--requests", 24, "--input-tokens", 60, "--output-tokens", 600]
    report = run(server, tmp_path / "out", *load, "--ignore-eos", "--set", "target.metrics_interval_s=0.2")
    (stage,) = report["stages"]
    side, figures = stage["server"], stage["figures"]
    engine = side["engines"]["chat_int8"]
    assert side["notes"] == []
    assert engine["generation_tokens"] == figures["total_output_tokens"] == 24 * 600
    assert engine["prompt_tokens"] == figures["total_input_tokens"]
    assert engine["ends"] == {"length": 24}
    assert engine["steps"]["decode"]["count"] > 0
    assert engine["steps"]["decode"]["avg_ms"] > 0
    assert 0 < engine["kv_cache_usage"]["max"] <= 1
    assert 0 < engine["running"]["max"] <= 4
    assert 0 <= engine["prefix_hit_share"] <= 1
    reconciled = {each["figure"]: each for each in side["reconciled"]}
    assert set(reconciled) == {"ttft_ms", "itl_ms", "request_latency_ms"}
    for name, each in reconciled.items():
        assert each["client_count"] == each["server_count"] == 24
        assert each["client_ms"] == pytest.approx(figures[name]["avg"])
    for name in ("ttft_ms", "request_latency_ms"):
        assert 0 < reconciled[name]["server_ms"] < reconciled[name]["client_ms"]
    assert side["processes"]["processes"] > 2
    assert side["processes"]["rss_bytes"]["min"] > 1 << 20
    assert sum(value or 0 for value in side["series"]["generation_tokens_per_s"]) > 0


def test_an_encoder_ensemble_has_figures_of_its_parts(server: FathomServe, tmp_path: Path) -> None:
    """The ensemble, its tokenizer and its encoder each have their requests; the encoder's batches are known."""
    load = ["--model", "minilm_int8", "--task", "embed", "--users", 8, "--requests", 64, "--input-tokens", 16]
    report = run(server, tmp_path / "out", *load)
    side = report["stages"][0]["server"]
    assert {"minilm_int8", "minilm_int8_tokenizer", "minilm_int8_encoder"} <= set(side["models"])
    assert {model["requests"] for model in side["models"].values()} == {64}
    assert 1 <= side["models"]["minilm_int8_encoder"]["batch_size"] <= 8
    (latency,) = side["reconciled"]
    assert (latency["model"], latency["figure"]) == ("minilm_int8", "request_latency_ms")
    assert 0 < latency["server_ms"] < latency["client_ms"]
