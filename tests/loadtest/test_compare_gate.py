"""Gates: a report held against objectives, and a run that is held against them at its end."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.loadtest.command import run
from tests.loadtest.recorded_runs import make_report, save_run

from fathom_loadtest.cli import main
from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.gate.file import Objectives
from fathom_loadtest.gate.objective import Objective
from fathom_loadtest.metrics import meets

if TYPE_CHECKING:
    from conftest import Triton

VERSION_1 = Path(__file__).parent / "reports" / "version_1"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 4 and 8 users, a tenth of whose requests failed."""
    return save_run(tmp_path_factory.mktemp("gate"), 4, 8, requests=80)


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("ttft_ms.p95<=200", Objective("ttft_ms", "p95", "<=", 200)),
        (" output_token_throughput >= 1.5e2 ", Objective("output_token_throughput", None, ">=", 150)),
        ("good_share>=0.99", Objective("good_share", None, ">=", 0.99)),
    ],
)
def test_objectives_are_read(text: str, objective: Objective) -> None:
    """What is read is written so that it can be read again."""
    assert Objective.parse(text) == objective
    assert Objective.parse(objective.text) == objective


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ttft_ms=200", "is not FIGURE.STATISTIC<=LIMIT"),
        ("ttft_ms.p95<=fast", "is not FIGURE.STATISTIC<=LIMIT"),
        ("", "is not FIGURE.STATISTIC<=LIMIT"),
        ("ttft_ms<=200", "needs a statistic of ttft_ms: one of avg, min"),
        ("ttft_ms.p97<=200", "needs a statistic of ttft_ms"),
        ("ttft.p95<=200", "names no figure; valid: ttft_ms"),
        ("goodput.p95>=2", "goodput is one number; leave .p95 out"),
        ("error_rate<=nan", "is out of range"),
        ("error_rate<=-1", "must not be negative"),
    ],
)
def test_wrong_objectives_are_refused_by_name(text: str, complaint: str) -> None:
    """The message repeats the objective and says what is wrong with it."""
    with pytest.raises(ScenarioError, match="objective") as caught:
        Objective.parse(text)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "holds no objective"),
        (b"objectives = [", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b'objective = ["x"]', "'objective' is not a known key; valid: objectives, stages"),
        (b'objectives = "error_rate<=1"', "must be a list of texts"),
        (b'objectives = ["error_rate"]', "slo.toml: objective 'error_rate' is not"),
        (b"stages = 3", "stages must be tables"),
        (b'[stages."8 users"]\nlimits = []', "must hold objectives and nothing else"),
        (b'[stages."8 users"]\nobjectives = ["x<=1"]', "stages.'8 users': objective 'x <= 1' names no figure"),
    ],
)
def test_wrong_files_are_refused_by_name(content: bytes, complaint: str, tmp_path: Path) -> None:
    """The message names the file, the key and the remedy."""
    path = tmp_path / "slo.toml"
    path.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        Objectives.read(path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)


def test_a_report_is_held_against_its_own_slos(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without objectives the run's SLOs count; shares and margins are exact, and the status is 3."""
    assert main(["gate", str(report), "--json"]) == 3
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["schema"], verdict["kept"]) == ("fathom-gate/1", False)
    whole = make_report(4, 8, requests=80)
    for stage in whole.stages:
        found = {one["objective"]: one for one in verdict["objectives"] if one["stage"] == stage.label}
        good = sum(meets(record, whole.scenario.slos) for record in stage.records)
        assert found["good_share >= 0.95"]["value"] == good / 80
        assert stage.figures.itl_ms is not None
        itl = found["itl_ms.p95 <= 20"]
        assert itl["value"] == stage.figures.itl_ms.p95
        assert itl["margin"] == pytest.approx(1 - stage.figures.itl_ms.p95 / 20)
        assert itl["kept"] == (stage.figures.itl_ms.p95 <= 20)
    assert main(["gate", str(report), "--attainment", "0.001"]) == 0, "medians keep their limits"


def test_flags_and_files_add_up(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Objectives of flags and file hold for every stage, those under a stage's name for it alone."""
    slos = tmp_path / "slo.toml"
    slos.write_text(
        'objectives = ["request_latency_ms.p99 <= 2000"]\n'
        '[stages."8 users"]\nobjectives = ["request_throughput >= 1e6", "cancelled_things.p50 <= 1"]\n'
    )
    assert main(["gate", str(report), "--slo-file", str(slos)]) == 2
    assert "names no figure" in capsys.readouterr().err
    slos.write_text(slos.read_text().replace(', "cancelled_things.p50 <= 1"', ""))
    assert main(["gate", str(report), "--slo", "error_rate<=0.1, ttft_ms.p50<=250", "--slo-file", str(slos)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("BROKEN  8 users: request_throughput >= 1e+06, reached ")
    assert [line.split()[0] for line in lines] == ["BROKEN", *["kept"] * 6]
    assert main(["gate", str(report), "--slo-file", str(slos), "--stage", "4 users"]) == 0


def test_a_figure_that_is_missing_breaks_its_objective(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where all requests failed there is no latency, and the gate stays shut."""
    folder = save_run(tmp_path, 2, requests=10, fail_every=1)
    assert main(["gate", str(folder), "--slo", "ttft_ms.p95<=1e9"]) == 3
    assert "but the stage has no such figure" in capsys.readouterr().out
    assert main(["gate", str(folder)]) == 3


def test_a_run_that_ended_early_is_not_let_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its figures are, it has not shown what it was to show."""
    folder = save_run(tmp_path, 2, fail_every=0, ending="server_lost", ending_message="gone")
    assert main(["gate", str(folder), "--slo", "error_rate<=0"]) == 3
    assert capsys.readouterr().out.startswith("BROKEN  the run ended early (server_lost); run it again\nkept")


def test_a_sweep_is_judged_by_its_knee(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes on until an SLO breaks, so the highest load that kept them counts; without one the gate stays shut."""
    path = save_run(tmp_path, 1, 2, 4, fail_every=0) / "report.json"
    fields = json.loads(path.read_text())
    fields["scenario"]["load"] = {"shape": "sweep", "over": "users", "attainment": 0.9}
    for knee, status in ((1, 0), (None, 3)):
        path.write_text(json.dumps(fields | {"knee": knee}))
        assert main(["gate", str(path), "--slo", "error_rate<=0"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("kept    2 users: error_rate <= 0, reached 0 %")
    assert lines[1:] == ["BROKEN  no load of the sweep kept the SLOs"]
    path.write_text(json.dumps(fields | {"knee": 0}))
    main(["gate", str(path)])
    assert "good_share >= 0.9," in capsys.readouterr().out


def test_reports_of_version_1_are_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """The first version's SLOs, a list then, count as today's do."""
    assert main(["gate", str(VERSION_1)]) == 3
    assert "ttft_ms.p95 <= 200" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["absent"], "absent: cannot be read"),
        (["REPORT", "--attainment", "2"], "--attainment 2.0 is out of range"),
        (["REPORT", "--stage", "5 users"], "--stage: '5 users' is no stage of the report; it has 4 users, 8 users"),
        (["REPORT", "--slo-file", "absent.toml"], "absent.toml: cannot be read"),
        (["REPORT", "--slo", "ttft<=1"], "objective 'ttft <= 1' names no figure"),
        (["NO_SLOS"], "nothing to judge by: the run has no SLOs"),
        (["NO_STAGE"], "has no stage, so there is nothing to judge"),
    ],
)
def test_faults_of_the_gate_are_one_line_and_exit_2(
    arguments: list[str], complaint: str, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says what was wrong and what to do."""
    fields = json.loads((report / "report.json").read_text())
    places = {"REPORT": report}
    for name, change in (("NO_SLOS", {"scenario": {}}), ("NO_STAGE", {"stages": []})):
        places[name] = tmp_path / f"{name}.json"
        places[name].write_text(json.dumps(fields | change))
    status = main(["gate", *(str(places.get(argument, argument)) for argument in arguments)])
    shown = capsys.readouterr()
    assert status == 2
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert complaint in shown.err


def test_a_run_gates_itself(triton: "Triton", tmp_path: Path) -> None:
    """Against a real server: SLOs that cannot be kept end in 3, objectives that can in 0, each said in a line."""
    base = ["--model", "paced", "--users", 2, "--requests", 8, "--input-tokens", 8, "--output-tokens", 4]
    broken = run(triton, tmp_path / "broken", [*base, "--slo", "ttft_ms=1", "--gate"])
    assert broken.status == 3
    assert "BROKEN  2 users: ttft_ms.p95 <= 1, reached " in broken.stdout
    kept = run(triton, tmp_path / "kept", [*base, "--gate-slo", "error_rate<=0,ttft_ms.min>=30"])
    assert kept.status == 0, kept.stdout
    assert kept.stdout.count("kept    2 users: ") == 2
    for name in ("report.md", "figures.csv"):
        assert (tmp_path / "kept" / name).read_text(encoding="utf-8")
    assert main(["compare", str(tmp_path / "broken"), str(tmp_path / "kept"), "--output", "md"]) in (0, 4)
