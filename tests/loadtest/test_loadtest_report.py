"""The report holds every figure, needs nothing but itself, and fits a phone."""

import json
import random
import re
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.loadtest.scenarios import closed_loop

from fathom_loadtest.environment import RunEnvironment
from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.metrics import DISTRIBUTIONS, STATISTICS, TOTALS, statistics
from fathom_loadtest.outcome import Run, StageRun
from fathom_loadtest.recorder import Recorder, RequestRecord
from fathom_loadtest.report.document import Report, build_report
from fathom_loadtest.report.html import save_html
from fathom_loadtest.report.numbers import percent, short
from fathom_loadtest.scenario import Slo, Task

SECOND = 1_000_000_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def make_report(
    *users: int, task: Task = "generate", requests: int = 40, fail_every: int = 10, **ending: Any
) -> Report:
    """A run of random requests, every tenth of which failed with a message that tries to be markup."""
    slos = Slo.parse("ttft_ms=200,itl_ms=20") if task != "embed" else Slo.parse("request_latency_ms=200")
    rng, recorder, stages, now = random.Random(5), Recorder(slos=slos), [], 7 * SECOND
    for stage, number in enumerate(users):
        opened_ns = now
        for index in range(requests):
            start_ns = opened_ns + index // number * SECOND // 4
            at, times, tokens = start_ns + rng.randrange(SECOND // 10, SECOND // 4), [], []
            for _ in range(rng.randrange(1, 12) if task != "embed" else 1):
                times.append(at)
                tokens.append(rng.randrange(1, 3) if task != "embed" else 0)
                at += rng.randrange(SECOND // 200, SECOND // 50)
            kind = "ServerError" if fail_every and index % fail_every == 0 else None
            message = "<script>alert(1)</script> & 'quoted'" if kind else None
            recorder.add(
                RequestRecord(
                    stage,
                    index,
                    start_ns,
                    times[-1],
                    tuple(times),
                    tuple(tokens),
                    30 + index,
                    sum(tokens),
                    "stop" if task != "embed" else None,
                    kind,
                    message,
                )
            )
            now = max(now, times[-1])
        load = GeneratorLoad(0.25, 0.4, statistics([0.1, 0.2, 0.9]))
        stages.append(StageRun(stage, number, opened_ns, now, 0, load))
        now += SECOND
    scenario = closed_loop("chat", task, users, requests, slos=slos)
    run = Run(scenario, stages, recorder, **ending)
    return build_report(
        run,
        started_at="2026-11-02T09:05:00+00:00",
        command="fathom-load --model chat",
        target={"server": "triton 2.51.0", "model platform": "", "model versions": "1"},
        environment=RunEnvironment.here(),
    )


class Page(HTMLParser):
    """What a page holds: its text, its identifiers, its references, its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.references.append(value or "")

    def handle_data(self, text: str) -> None:
        self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def save(report: Report, folder: Path) -> Page:
    """Write the page and read it back."""
    save_html(report, folder / "report.html")
    return Page(folder / "report.html")


def test_the_page_holds_every_figure_and_its_formula(tmp_path: Path) -> None:
    """Each statistic of each stage is in the page, beside label and formula."""
    report = make_report(1, 4, 16)
    text = save(report, tmp_path).text
    for figure in report.shown_distributions:
        assert figure.label in text
        assert figure.formula in text
        for stage in report.stages:
            found = getattr(stage.figures, figure.name)
            row = " ".join(short(getattr(found, name)) for name in STATISTICS)
            assert f"{figure.unit} {row}" in text, figure.name
    for figure in TOTALS:
        assert figure.formula in text
        for stage in report.stages:
            value = getattr(stage.figures, figure.name)
            assert (percent(value) if figure.unit == "share" else short(value)) in text
    for name, version in report.environment.versions.items():
        assert f"{name} {version}" in text
    assert "ServerError" in text
    assert "2 November 2026, 09:05 UTC" in text


def test_json_holds_every_figure_at_full_precision(tmp_path: Path) -> None:
    """What is read back equals what was computed, with scenario, environment and definitions."""
    report = make_report(2, 8)
    report.save_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    for written, stage in zip(read["stages"], report.stages, strict=True):
        computed = asdict(stage.figures)
        assert tuple(computed.pop("warnings")) == stage.figures.warnings
        assert written["figures"] == computed
        assert written["generator"] == asdict(stage.generator)
        assert written["warnings"] == list(stage.warnings)
    assert read["schema"] == "fathom-loadtest/2"
    assert read["scenario"]["load"]["users"] == [2, 8]
    assert read["environment"]["versions"] == report.environment.versions
    assert set(read["definitions"]) == {figure.name for figure in (*DISTRIBUTIONS, *TOTALS)}


@pytest.mark.parametrize(
    "report",
    [
        make_report(1, 4, 16),
        make_report(8),
        make_report(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, requests=12),
        make_report(4, 8, task="embed"),
        make_report(2, requests=1, fail_every=0),
        make_report(2, fail_every=1),
        make_report(2, 4, fail_every=1, ending="server_lost", ending_message="the server was lost"),
        make_report(3, requests=2),
    ],
    ids=["stages", "one stage", "ten stages", "embed", "one request", "all failed", "lost", "two requests"],
)
def test_the_page_needs_nothing_but_itself(report: Report, tmp_path: Path) -> None:
    """No script, no file, no address; identifiers are unique; what came from a server is text."""
    page = save(report, tmp_path)
    assert "script" not in page.tags
    assert all(reference.startswith("#") for reference in page.references)
    assert len(page.ids) == len(set(page.ids))
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", source)
    assert "#0000" not in source, "a plot kept a stand-in colour"
    if any(stage.figures.failed for stage in report.stages):
        assert "<script>alert(1)</script> & 'quoted'" in page.text


def test_a_run_without_a_stage_has_a_page(tmp_path: Path) -> None:
    """Interrupted during the first warm-up, the report says that nothing was measured."""
    scenario = closed_loop()
    run = Run(scenario, ending="interrupted", ending_message="interrupted")
    report = build_report(
        run, started_at="2026-11-02T09:05:00+00:00", command="", target={}, environment=RunEnvironment.here()
    )
    text = save(report, tmp_path).text
    assert "The run ended early: interrupted" in text
    assert "No stage was measured" in text


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_window(width: int, tmp_path: Path) -> None:
    """In a real browser the page is no wider than a phone or a desktop, and every plot is drawn inside it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")
    save(make_report(1, 4, 16), tmp_path)
    probe = (
        "<script>const page = document.documentElement; const plots = [...document.querySelectorAll('figure svg')];"
        "parent.postMessage({wide: page.scrollWidth, plots: plots.map(p => p.getBoundingClientRect())"
        ".map(r => [r.left, r.right, r.height])}, '*')</script>"
    )
    framed = (tmp_path / "report.html").read_text(encoding="utf-8").replace("</body>", f"{probe}</body>")
    (tmp_path / "framed.html").write_text(framed, encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        "<p id=said></p><script>addEventListener('message', e => said.textContent = JSON.stringify(e.data))</script>"
        f"<iframe src=framed.html width={width} height=800 style='border:0'></iframe>",
        encoding="utf-8",
    )
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
    ]  # fmt: skip
    shown = subprocess.run(
        [browser, *flags, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    said = re.search(r"<p id=\"said\">(.+?)</p>", shown.stdout)
    assert said, shown.stderr[-2000:]
    seen = json.loads(said[1])
    assert seen["wide"] <= width
    assert len(seen["plots"]) == 9
    for left, right, height in seen["plots"]:
        assert 0 <= left < right <= width
        assert height > 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.01234, "0.0123"), (1.0, "1.00"), (1.005, "1.00"), (3.14159, "3.14"), (9.999, "10.0"),
     (99.96, "100"), (27.04, "27.0"), (1234.5, "1,234"), (12345678.0, "12,345,678")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    """Small ones keep their digits, large ones lose their fraction, none is written as a power."""
    assert short(value) == text


def test_a_small_share_is_not_written_as_nothing() -> None:
    """One failure in a million shows."""
    assert [percent(share) for share in (None, 0.0, 1e-6, 0.5, 1.0)] == ["–", "0 %", "0.0001 %", "50 %", "100 %"]
