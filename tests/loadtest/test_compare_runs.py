"""Two runs compared: what became worse is found, what only looks so is not, and what cannot be compared is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.loadtest.recorded_runs import HOSTILE, save_run

from fathom_loadtest.cli import main
from fathom_loadtest.compare.comparison import Comparison, Tolerance, compare
from fathom_loadtest.compare.html import to_html
from fathom_loadtest.compare.markdown import to_markdown
from fathom_loadtest.errors import ComparisonError, ReportFileError
from fathom_loadtest.report.saved import SavedReport

VERSION_1 = Path(__file__).parent / "reports" / "version_1"


def compared(a: Path, b: Path, **settings: Any) -> Comparison:
    """Compare two folders."""
    return compare(SavedReport.read(a), SavedReport.read(b), Tolerance(), **settings)


def verdicts(comparison: Comparison, stage: int = 0) -> dict[str, str]:
    """Verdicts of a stage by measure."""
    return {one.measure.name: one.verdict for one in comparison.stages[stage].differences}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 4 and 8 users."""
    return save_run(tmp_path_factory.mktemp("base"), 4, 8, requests=300)


def test_a_run_is_no_different_from_itself(base: Path) -> None:
    """Every interval of every figure allows for no change, and nothing is better or worse."""
    found = compared(base, base)
    assert [stage.label for stage in found.stages] == ["4 users", "8 users"]
    assert found.verdict in ("no difference", "unclear")
    assert found.count("worse") == found.count("better") == 0
    for stage in found.stages:
        assert {one.measure.name for one in stage.differences} >= {"ttft_ms.p95", "goodput", "error_rate"}
        for one in stage.differences:
            assert one.change == 0
            assert one.low is not None
            assert one.high is not None
            assert one.low <= 0 <= one.high


def test_another_run_of_the_same_thing_is_not_worse(base: Path, tmp_path: Path) -> None:
    """With other random latencies of the same kind nothing is worse or better."""
    found = compared(base, save_run(tmp_path, 4, 8, requests=300, seed=6))
    assert found.count("worse") == found.count("better") == 0


@pytest.mark.parametrize(("slower", "verdict"), [(1.3, "worse"), (0.75, "better")])
def test_latencies_that_changed_are_found(base: Path, tmp_path: Path, slower: float, verdict: str) -> None:
    """All latencies a third longer, or a quarter shorter: their intervals hold the true change."""
    found = compared(base, save_run(tmp_path, 4, 8, requests=300, seed=6, slower=slower))
    assert found.verdict == verdict
    for place in range(2):
        by_measure = {one.measure.name: one for one in found.stages[place].differences}
        for name in ("ttft_ms.avg", "ttft_ms.p50", "itl_ms.p50", "request_latency_ms.p95"):
            one = by_measure[name]
            assert one.verdict == verdict, name
            assert one.low is not None
            assert one.high is not None
            assert one.low <= slower - 1 <= one.high
        assert by_measure["error_rate"].verdict in ("no difference", "unclear")


def test_failures_are_found(base: Path, tmp_path: Path) -> None:
    """Every second request failing is worse by 40 points; all of them failing is worse, too."""
    found = compared(base, save_run(tmp_path / "half", 4, 8, requests=300, fail_every=2))
    error_rate = found.stages[0].differences[-1]
    assert (error_rate.measure.name, error_rate.verdict) == ("error_rate", "worse")
    assert error_rate.change == pytest.approx(0.4)
    assert verdicts(compared(base, save_run(tmp_path / "all", 4, 8, requests=300, fail_every=1))) == {
        "error_rate": "worse"
    }


def test_a_small_change_is_no_difference_however_sure(base: Path, tmp_path: Path) -> None:
    """Two per cent on the very same latencies stay below the smallest effect that counts."""
    found = compared(base, save_run(tmp_path, 4, 8, requests=300, slower=1.02))
    assert found.count("worse") == found.count("better") == 0


def test_the_seed_decides_the_intervals(base: Path, tmp_path: Path) -> None:
    """The same seed gives the same comparison, another one other bounds and the same values."""
    other = save_run(tmp_path, 4, 8, requests=300, slower=1.1, seed=9)
    first, again, seeded = (compared(base, other, seed=seed).to_json() for seed in (0, 0, 1))
    assert first == again
    assert first["stages"][0]["figures"][0]["low"] != seeded["stages"][0]["figures"][0]["low"]
    assert first["stages"][0]["figures"][0]["change"] == seeded["stages"][0]["figures"][0]["change"]


def test_runs_with_other_requests_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    """The setting and both its values are named; on demand they are compared all the same, and it is said."""
    other = save_run(tmp_path, 4, 8, requests=300, input_tokens=90)
    with pytest.raises(ComparisonError, match=r"tasks\[0\]\.input_tokens\.length: 50 in A, 90 in B"):
        compared(base, other)
    found = compared(base, other, any_workload=True)
    assert [str(one) for one in found.mismatches if one.kind == "workload"] == [
        "tasks[0].input_tokens.length: 50 in A, 90 in B"
    ]


def test_other_models_machines_objectives_and_endings_are_named(base: Path, tmp_path: Path) -> None:
    """What does not forbid a comparison stands beside it, and goodput by other objectives is left out."""
    other = save_run(tmp_path, 8, 16, requests=300, model="chat-int4", ending="interrupted", ending_message="by hand")
    changed = json.loads((other / "report.json").read_text())
    changed["environment"]["cpu"] = "another CPU"
    changed["environment"]["versions"]["grpcio"] = "0.1"
    changed["scenario"]["slos"][0]["limit_ms"] = 500
    (other / "report.json").write_text(json.dumps(changed))
    found = compared(base, other)
    kinds = {one.kind: str(one) for one in found.mismatches}
    assert kinds["model"] == "tasks[0].model: chat in A, chat-int4 in B"
    assert "another CPU in B" in kinds["machine"]
    assert kinds["objectives"] == "slos.ttft_ms: 200 in A, 500 in B"
    assert kinds["ending"] == "how the run ended: completed in A, interrupted in B"
    assert "0.1 in B" in kinds["version"]
    assert [stage.label for stage in found.stages] == ["8 users"]
    assert found.unpaired == ("4 users in A only", "16 users in B only")
    assert "goodput" not in verdicts(found)
    for text in (to_markdown(found), to_html(found)):
        for part in ("4 users in A only", "goodput is not compared", "another CPU"):
            assert part in text


def test_a_run_that_is_too_short_says_so(tmp_path: Path) -> None:
    """Three requests make few slices: intervals are called rough, or there are none, and nothing is judged."""
    found = compared(*(save_run(tmp_path / str(seed), 2, requests=3, fail_every=0, seed=seed) for seed in (1, 2)))
    assert found.stages[0].rough
    assert "intervals are rough" in to_markdown(found)


def test_reports_of_version_1_are_read(base: Path, tmp_path: Path) -> None:
    """A closed loop of the first version is compared with one of today, by the settings that both know."""
    today = save_run(tmp_path, 4, requests=24, input_tokens=50)
    found = compared(VERSION_1, today)
    assert [stage.label for stage in found.stages] == ["4 users"]
    assert not [one for one in found.mismatches if one.kind in ("workload", "objectives")]
    with pytest.raises(ComparisonError, match="input_tokens"):
        compared(VERSION_1, save_run(tmp_path / "other", 4, requests=24, input_tokens=51))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda folder: (folder / "report.json").unlink(), r"report\.json: cannot be read \(No such file"),
        (lambda folder: (folder / "report.json").write_text("{"), r"report\.json: is not JSON"),
        (lambda folder: (folder / "report.json").write_text("[" * 100_000), r"report\.json: is not JSON"),
        (lambda folder: (folder / "report.json").write_text("[]"), "is no report of fathom-load"),
        (lambda folder: edit(folder, schema="fathom-loadtest/3"), "'fathom-loadtest/3', which this version does not"),
        (lambda folder: edit(folder, stages={}), "'stages' is missing or damaged"),
        (lambda folder: edit(folder, stages=[{"stage": 0}]), "is damaged"),
        (lambda folder: edit(folder, scenario={"slos": [{"name": "ttft_ms", "limit_ms": -1}]}), "its SLOs are damaged"),
        (lambda folder: (folder / "requests.jsonl").unlink(), r"requests\.jsonl: cannot be read .* keep it beside"),
        (lambda folder: (folder / "requests.jsonl").write_text("\n{}\n"), r"requests\.jsonl:1: is no request"),
        (lambda folder: (folder / "requests.jsonl").write_bytes(b"\xff\n"), r"requests\.jsonl:1: is no request"),
        (lambda folder: edit_request(folder, start_ns="now"), r"requests\.jsonl:1: is no request"),
        (lambda folder: edit_request(folder, response_tokens=[]), r"requests\.jsonl:1: is no request .\d+ responses"),
        (lambda folder: edit_figures(folder, requests="many"), "is damaged .*requests is 'many'"),
        (lambda folder: edit_figures(folder, ttft_ms={"p50": "?"}), "is damaged .*ttft_ms is"),
        (lambda folder: edit_figures(folder, succeeded=None), "is damaged"),
    ],
)
def test_damaged_files_are_refused_by_name(base: Path, tmp_path: Path, change: Any, complaint: str) -> None:
    """The file, what is wrong with it, and for records the line."""
    folder = save_run(tmp_path, 4, 8, requests=20)
    change(folder)
    with pytest.raises(ReportFileError, match=complaint):
        compared(base, folder, any_workload=True)


def edit_request(folder: Path, **fields: Any) -> None:
    """Change fields of a run's first request."""
    path = folder / "requests.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | fields), *others]) + "\n")


def edit_figures(folder: Path, **figures: Any) -> None:
    """Change figures of a report's first stage."""
    stages = json.loads((folder / "report.json").read_text())["stages"]
    stages[0]["figures"] |= figures
    edit(folder, stages=stages)


def edit(folder: Path, **fields: Any) -> None:
    """Change fields of a report."""
    path = folder / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_command_gates_and_writes_every_form(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 0 without a regression and 4 with one; tables on the terminal, or a form, or files of each form."""
    slower = save_run(tmp_path / "slower", 4, 8, requests=300, slower=1.4, seed=6)
    assert main(["compare", str(base), str(base)]) == 0
    assert "4 users" in capsys.readouterr().out
    files = [tmp_path / f"found.{form}" for form in ("html", "json", "md")]
    arguments = [part for path in files for part in ("--output", str(path))]
    assert main(["compare", str(base), str(slower / "report.json"), *arguments, "--output", "json"]) == 4
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(files[1].read_text())
    assert printed["schema"] == "fathom-comparison/1"
    assert printed["verdict"] == "worse"
    assert "**B is worse than A" in files[2].read_text()
    assert "B is worse than A" in files[0].read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["absent", "absent"], "absent: cannot be read"),
        (["BASE", "BASE", "--confidence", "1"], "--confidence 1.0 is out of range"),
        (["BASE", "BASE", "--min-effect", "-1"], "--min-effect -1.0 is out of range"),
        (["BASE", "BASE", "--output", "found.pdf"], "'found.pdf' is neither html, json, md nor a file that ends so"),
        (["BASE", "BASE", "--output", "absent/found.md"], "--output absent/found.md: cannot be written"),
        (["BASE"], "the following arguments are required: B"),
        (["BASE", "OTHER"], "the runs have no stage in common (A: 4 users, 8 users; B: 3 users)"),
    ],
)
def test_faults_of_the_command_are_one_line_and_exit_2(
    arguments: list[str], complaint: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says what was wrong and what to do."""
    places = {"BASE": str(base), "OTHER": str(tmp_path)}
    if "OTHER" in arguments:
        save_run(tmp_path, 3, requests=10)
    try:
        status = main(["compare", *(places.get(argument, argument) for argument in arguments)])
    except SystemExit as ended:
        status = ended.code
    shown = capsys.readouterr()
    assert status == 2
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert complaint in shown.err


def test_a_comparison_shows_foreign_text_and_does_nothing_with_it(base: Path, tmp_path: Path) -> None:
    """A model's name that is markup stays text in the page and in Markdown."""
    found = compared(base, save_run(tmp_path, 4, requests=40, model=HOSTILE))
    found = replace(found, stages=tuple(replace(stage, label=HOSTILE) for stage in found.stages))
    page, written = to_html(found), to_markdown(found)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"(?<!\\)[<>]", written)
