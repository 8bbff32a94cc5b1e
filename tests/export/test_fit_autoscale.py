"""``fathom-fit autoscale``: a sweep's report and SLOs in, values that the chart takes out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.chart.rendering import render
from tests.loadtest.recorded_runs import make_report

from fathom_export.fit.cli import main
from fathom_export.fit.service import HEADROOM


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A real report of three stages, the server's side with it; more users wait longer and complete more."""
    path = tmp_path / "report.json"
    make_report(1, 4, 16, served=True, fail_every=0).save_json(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    for stage, (ttft, rate, waiting, queue_ms) in zip(
        raw["stages"], ((90.0, 2.0, 0.2, 1.0), (180.0, 7.0, 1.5, 60.0), (900.0, 8.0, 9.5, 840.0)), strict=True
    ):
        figures = stage["figures"]
        figures["ttft_ms"]["p95"], figures["request_throughput"] = ttft, rate
        (engine,) = stage["server"]["engines"].values()
        engine["waiting"]["avg"], engine["queue"]["avg_ms"] = waiting, queue_ms
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def values_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    status = main(["autoscale", *arguments])
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    found: dict[str, Any] = yaml.safe_load(captured.out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["autoscale", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("kind", "flags", "target"),
    [
        ("hpa", (), (1.5 + 9.5) / 2),
        ("keda", ("--prometheus-url", "http://prometheus:9090"), (0.06 + 0.84) / 2),
    ],
)
def test_the_target_lies_between_what_held_and_what_broke_and_the_chart_takes_it(
    capsys: pytest.CaptureFixture[str], sweep: Path, kind: str, flags: tuple[str, ...], target: float
) -> None:
    """Four users kept 200 ms and sixteen did not; Helm's own schema and templates take the values."""
    values = values_of(capsys, str(sweep), "--slo", "ttft_ms=200", "--kind", kind, *flags, "--peak-rate", "40")
    scaling = values["autoscaling"]
    assert scaling["kind"] == kind
    assert scaling["target"] == pytest.approx(target)
    capacity = 7.0 * HEADROOM
    assert (scaling["maxReplicas"] - 1) * capacity < 40 <= scaling["maxReplicas"] * capacity
    kinds = ("HorizontalPodAutoscaler", "ScaledObject")
    (scaler,) = [each for each in render(values).objects if each["kind"] in kinds]
    assert scaler["kind"] == {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}[kind]
    assert f'"{scaling["target"]:g}"' in json.dumps(scaler)
    assert scaler["spec"]["maxReplicas" if kind == "hpa" else "maxReplicaCount"] == scaling["maxReplicas"]


def test_a_sweep_that_never_broke_takes_the_last_stage(capsys: pytest.CaptureFixture[str], sweep: Path) -> None:
    """Without a stage that broke the SLOs the target is what waited at the highest one."""
    scaling = values_of(capsys, str(sweep), "--slo", "ttft_ms=2000", "--low-rate", "13")["autoscaling"]
    assert scaling["target"] == 9.5
    assert scaling["minReplicas"] == 3
    assert scaling["maxReplicas"] >= scaling["minReplicas"]


def test_slos_that_no_stage_kept_say_what_came_nearest(capsys: pytest.CaptureFixture[str], sweep: Path) -> None:
    """The stage and its figure are named."""
    assert "nearest is stage 0 (1 users): ttft_ms 90 (asked: 5)" in refused(capsys, str(sweep), "--slo", "ttft_ms=5")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--slo", "speed=3"), "names no figure"),
        (("--slo", "ttft_ms=200", "--peak-rate", "-1"), "--peak-rate is -1"),
        (("--slo", "ttft_ms=200", "--kind", "keda"), "--prometheus-url is missing"),
    ],
)
def test_flags_that_make_no_sense(
    capsys: pytest.CaptureFixture[str], sweep: Path, flags: tuple[str, ...], said: str
) -> None:
    """Each is refused by name."""
    assert said in refused(capsys, str(sweep), *flags)


def test_reports_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, sweep: Path) -> None:
    """No file, no JSON, another schema, no stages, no server's side."""
    slo = ("--slo", "ttft_ms=200")
    assert "that can be read" in refused(capsys, str(tmp_path / "none.json"), *slo)
    other = tmp_path / "other.json"
    raw = json.loads(sweep.read_text(encoding="utf-8"))
    for content, said in (
        ("[", "that can be read"),
        ("[]", "that can be read"),
        (json.dumps({**raw, "schema": "else"}), "is of schema 'else'"),
        (json.dumps({**raw, "stages": []}), "holds no stage"),
        (json.dumps({**raw, "stages": [{**raw["stages"][0], "server": None}]}), "says nothing of the server's queue"),
    ):
        other.write_text(content, encoding="utf-8")
        assert said in refused(capsys, str(other), *slo)
