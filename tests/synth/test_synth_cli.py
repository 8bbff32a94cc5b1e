"""The command line: help, check, card, and what goes where."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.synth.synth_job import write_job

from fathom_synth.cli import main

PROMPT = '[[prompts]]\nname = "p"\ntemplate = "{{ a }}?"\nseeds = "seeds.jsonl"\n'


def test_help_imports_nothing_heavy() -> None:
    """--help loads neither pydantic, Arrow, gRPC nor numpy."""
    code = (
        "import sys; from fathom_synth.cli import build_parser; build_parser().format_help()\n"
        "print([name for name in ('pydantic', 'pyarrow', 'grpc', 'numpy', 'rich', 'jinja2') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_check_shows_prompts_and_counts_and_asks_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any server: the first prompt and the malformed rows on stderr, one JSON object on stdout."""
    job = write_job(tmp_path, PROMPT, [{"a": 1}, {"b": 2}, {"a": 3}])
    assert main(["check", str(job.path)]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert (summary["prompts"], summary["answers"], summary["malformed"]) == ({"p": 2}, 2, 1)
    assert summary["licence"]["training"] == "allowed"
    assert said.err.splitlines()[0] == "p:1 user: 1?"
    assert said.err.splitlines()[1].startswith("malformed: seeds.jsonl:2: ")
    assert not job.output.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'filter = "judge"\nmodel = "m"\ntemplate = "{{ answer"\nlabel = "x"\nmin_score = 1\n',
            "error: judge judge: template:",
        ),
        ('filter = "decontamination"\nheld_out = ["none.jsonl"]\n', "none.jsonl: cannot be read (No such file or"),
        ('filter = "agreement"\npattern = "("\n', "error: agreement: pattern is '(', no regular expression"),
    ],
)
def test_check_finds_what_filters_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    """A judge's template, held-out files and patterns are looked at before anything is asked."""
    job = write_job(tmp_path, f"{PROMPT}sampling = {{ samples = 2 }}\n[[filters]]\n{text}", [{"a": 1}])
    assert main(["check", str(job.path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "error: the following arguments are required: JOB.toml"),
        (["run", "none.toml"], "error: none.toml: cannot be read (No such file or directory); name a job's TOML file"),
        (["card", "none"], "error: none/card.json: cannot be read (No such file or directory); name the output of"),
        (["check", "x", "--show", "-1"], "error: argument --show: '-1' is no number; give 0 or more"),
        (["teach"], "error: argument COMMAND: invalid choice: 'teach'"),
    ],
)
def test_a_users_fault_is_one_line_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    """No traceback, nothing on stdout."""
    command = [sys.executable, "-m", "fathom_synth", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_a_card_is_held_against_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], stand_in: str) -> None:
    """`card` prints a finished output's card, and refuses data that was changed since, or a card that is none."""
    job = write_job(tmp_path, PROMPT, [{"a": 1}], url=stand_in)
    assert main(["run", str(job.path)]) == 0
    capsys.readouterr()
    assert main(["card", str(job.output)]) == 0
    assert capsys.readouterr().out == (job.output / "README.md").read_text(encoding="utf-8") + "\n"
    assert main(["card", "--json", str(job.output)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1
    rows = job.output / "rows.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("1?", "2?"), encoding="utf-8")
    assert main(["card", str(job.output)]) == 2
    assert "is not the file that its card describes; run the job again" in capsys.readouterr().err
    (job.output / "card.json").write_text("{}")
    assert main(["card", str(job.output)]) == 2
    assert "is no data card" in capsys.readouterr().err
