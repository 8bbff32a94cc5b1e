"""How long a stop may take follows from models and measurement, for compose as for the chart."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.compose.stop import DEFAULT_MAX_CONTEXT, measured_itl_ms, stop_times
from tests.deploy.chart.rendering import render

BUNDLE = """
[[models]]
name = "chat"
source = "somewhere"
task = "generate"
limits = {{ max_context = {context} }}
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command."""
    command = [sys.executable, "-m", "deploy.compose", "stop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def chart(values: dict[str, Any]) -> tuple[int, int]:
    """Drain and grace in seconds that the chart gives its server, without its pause before the stop."""
    pod = render(values).server()["spec"]
    [flag] = [word for word in pod["containers"][0]["command"] if word.startswith("--drain-s=")]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    return int(flag.partition("=")[2]), pod["terminationGracePeriodSeconds"] - pause


@pytest.mark.parametrize(("context", "itl_ms"), [(512, 3.0), (2048, 50.0), (4096, 12.34), (32768, 101.5)])
def test_chart_and_compose_stop_alike(tmp_path: Path, context: int, itl_ms: float) -> None:
    """For any bundle and latency the command's lines for .env and the chart's own computation agree."""
    bundle = tmp_path / "bundle.toml"
    bundle.write_text(BUNDLE.format(context=context))
    result = run("--bundle", str(bundle), "--itl-ms", str(itl_ms))
    lines = dict(line.split("=") for line in result.stdout.splitlines())
    drain_s, grace_s = int(lines["FATHOM_DRAIN_S"]), int(lines["FATHOM_STOP_GRACE_S"])
    assert drain_s * 1000 >= context * itl_ms, "the longest answer would be cut off"
    assert grace_s > drain_s
    values = {"bundle": bundle.read_text(), "drain": {"interTokenLatencyMs": itl_ms}}
    assert chart(values) == (drain_s, grace_s)


def test_measured_latency_goes_into_both(tmp_path: Path) -> None:
    """The slowest stage's p99 of a report counts, for .env and as values that the chart takes."""
    stages = [{"figures": {"itl_ms": itl}} for itl in ({"p99": 20.5}, None, {"p99": 61.25})]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"stages": stages}))
    assert measured_itl_ms(report) == 61.25
    expected = stop_times(DEFAULT_MAX_CONTEXT, 61.25)
    flags = ("--max-tokens", str(DEFAULT_MAX_CONTEXT), "--report", str(report))
    assert run(*flags).stdout == f"FATHOM_DRAIN_S={expected.drain_s}\nFATHOM_STOP_GRACE_S={expected.grace_s}\n"
    values = yaml.safe_load(run(*flags, "--format", "helm").stdout)
    assert chart(values) == (expected.drain_s, expected.grace_s)


def test_reports_latency_stands_where_the_schema_says() -> None:
    """The path into report.json is that of its schema."""
    schema = json.loads(Path("docs/report.schema.json").read_text())
    figures = schema["properties"]["stages"]["items"]["properties"]["figures"]["properties"]
    assert {"$ref": "#/$defs/Statistics"} in figures["itl_ms"]["anyOf"]
    assert "p99" in schema["$defs"]["Statistics"]["properties"]


def test_reports_without_a_latency_are_refused(tmp_path: Path) -> None:
    """What is no report, and a report of encoders alone, end in one line."""
    report = tmp_path / "report.json"
    for text, words in (("{}", "cannot be read as a report"), ('{"stages": []}', "has no stage")):
        report.write_text(text)
        result = run("--report", str(report))
        assert (result.returncode, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert words in line
