"""The report holds every figure in each of its forms, and needs nothing but itself."""

import csv
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.loadtest.recorded_runs import HOSTILE, SECOND, make_report
from tests.loadtest.scenarios import closed_loop

from fathom_loadtest.environment import RunEnvironment
from fathom_loadtest.metrics import DISTRIBUTIONS, STATISTICS, TOTALS, meets
from fathom_loadtest.outcome import Run
from fathom_loadtest.report.document import Report, build_report
from fathom_loadtest.report.figures_csv import COLUMNS, save_csv
from fathom_loadtest.report.html import save_html
from fathom_loadtest.report.markdown import to_markdown
from fathom_loadtest.report.numbers import percent, short, signed_percent


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
    ("users", "settings"),
    [
        ((1, 4, 16), {"served": True, "model": HOSTILE}),
        ((4, 8), {"rates": (2.0, 16.0), "served": True}),
        ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10), {"requests": 12}),
        ((4, 8), {"task": "embed"}),
        ((2,), {"requests": 1, "fail_every": 0}),
        ((2,), {"fail_every": 1}),
        ((2, 4), {"fail_every": 1, "ending": "server_lost", "ending_message": HOSTILE}),
        ((3,), {"requests": 2}),
    ],
    ids=["hostile", "open loop", "ten stages", "embed", "one request", "all failed", "lost", "two requests"],
)
def test_the_page_needs_nothing_but_itself(users: tuple[int, ...], settings: dict[str, Any], tmp_path: Path) -> None:
    """No script, no file, no address; identifiers are unique; what came from a server is text."""
    report = make_report(*users, **settings)
    page = save(report, tmp_path)
    assert "script" not in page.tags
    assert page.tags.count("title") == 1
    assert all(reference.startswith("#") for reference in page.references)
    assert len(page.ids) == len(set(page.ids))
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", source)
    assert "#0000" not in source, "a plot kept a stand-in colour"
    if any(stage.figures.failed for stage in report.stages):
        assert HOSTILE in page.text


def test_the_summary_holds_each_stage_against_its_slos(tmp_path: Path) -> None:
    """A TTFT within 250 ms breaks an SLO of 200 ms, an ITL within 20 ms keeps one of 20 ms, each with its margin."""
    report = make_report(2, 4, fail_every=0)
    text = save(report, tmp_path).text
    assert "2 of 2 stages broke an objective" in text
    for stage in report.stages:
        figures = stage.figures
        assert figures.ttft_ms is not None
        assert figures.itl_ms is not None
        assert figures.ttft_ms.p95 > 200 > figures.itl_ms.p95
        ttft, itl = figures.ttft_ms.p95, figures.itl_ms.p95
        assert f"{short(ttft)} ms ({signed_percent(1 - ttft / 200)})" in text
        assert f"{short(itl)} ms ({signed_percent(1 - itl / 20)})" in text
        good = sum(meets(record, report.scenario.slos) for record in stage.records)
        assert f"{stage.label} {percent(good / figures.requests)}" in text


def test_the_servers_side_and_its_reconciliation_are_in_the_page(tmp_path: Path) -> None:
    """What the server counted stands beside what the client saw, with notes, gauges, times and plots."""
    page = save(make_report(1, 4, served=True), tmp_path)
    for part in (
        "a note from chat", "Engine of chat", "prompt tokens found in the cache 25 %", "Triton's counters of chat",
        "Time to first token (TTFT) chat 20.0 12.5 7.50 37.5 % 40 / 41", "GPU GPU-1", "answers by their end stop 30",
        "Server: KV cache in use", "Server: requests running and waiting", "Server: memory",
    ):  # fmt: skip
        assert part in page.text, part
    assert "Server: requests pending" not in page.text, "a series without a value is not drawn"


def test_reports_of_long_runs_stay_small(tmp_path: Path) -> None:
    """A run of 16,000 requests over an hour, with a scrape every half second, makes a page under a megabyte."""
    report = make_report(1, 1, requests=8_000, served=True)
    save(report, tmp_path)
    assert report.stages[0].closed_ns - report.stages[0].opened_ns > 1_900 * SECOND
    assert len(report.stages[0].records) == 5_000
    assert (tmp_path / "report.html").stat().st_size < 1 << 20


def test_markdown_shows_foreign_text_and_does_nothing_with_it() -> None:
    """Objectives, stages, errors and remarks are tables and lists; a hostile name cannot leave its cell."""
    report = make_report(2, 4, model=f"{HOSTILE} | [x](y)")
    written = to_markdown(report)
    assert not re.search(r"(?<!\\)[<>]", written.replace("<=", ""))
    assert not re.search(r"(?<!\\)\[", written)
    tables = [line for line in written.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {5, 7, 12}
    for stage in report.stages:
        assert stage.figures.ttft_ms is not None
        assert f"{short(stage.figures.ttft_ms.p50)} / {short(stage.figures.ttft_ms.p95)}" in written
        assert f"| {stage.label} | TTFT" not in written


def test_csv_holds_every_figure_at_full_precision(tmp_path: Path) -> None:
    """One row a number, and the whole of report.json's figures in them."""
    report = make_report(2, 8, rates=(2.0, 8.0))
    save_csv(report, tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    found = {(int(row["stage"]), row["figure"], row["statistic"]): float(row["value"]) for row in rows}
    assert len(found) == len(rows)
    for stage in report.stages:
        assert found[stage.stage, "requests", ""] == stage.figures.requests
        for figure in report.shown_totals:
            assert found[stage.stage, figure.name, ""] == getattr(stage.figures, figure.name)
        for figure in report.shown_distributions:
            for statistic in STATISTICS:
                value = getattr(getattr(stage.figures, figure.name), statistic)
                assert found[stage.stage, figure.name, statistic] == value


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


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.01234, "0.0123"), (1.0, "1.00"), (1.005, "1.00"), (3.14159, "3.14"), (9.999, "10.0"),
     (99.96, "100"), (27.04, "27.0"), (1234.5, "1,234"), (12345678.0, "12,345,678"),
     (-0.13, "−0.13"), (-1234.5, "−1,234")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    """Small ones keep their digits, large ones lose their fraction, none is written as a power."""
    assert short(value) == text


def test_a_small_share_is_not_written_as_nothing() -> None:
    """One failure in a million shows."""
    assert [percent(share) for share in (None, 0.0, 1e-6, 0.5, 1.0, -0.02)] == [
        "–", "0 %", "0.0001 %", "50 %", "100 %", "−2 %",
    ]  # fmt: skip
