"""Scenario files: read strictly, overridden by flags, described by a schema and a manual made from the same types."""

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fathom_loadtest.cli import main
from fathom_loadtest.commands.run import add_arguments, scenario_of
from fathom_loadtest.content.files import ScenarioFiles
from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario import (
    ClosedLoop,
    Fixed,
    Lognormal,
    Normal,
    OpenLoop,
    Scenario,
    Slo,
    Sweep,
    TraceReplay,
    read_scenario,
)
from fathom_loadtest.scenario.schema import scenario_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "loadtest" / "scenarios").glob("*.toml"))
CLOSED = """
[load]
shape = "closed"
users = [1, 8]
duration_s = 5

[[tasks]]
model = "chat"
input_tokens = 64
"""


def scenario(folder: Path, text: str, *arguments: object) -> Scenario:
    """Read a file with flags."""
    file = folder / "mine.toml"
    file.write_text(text)
    return flags(file, *arguments)


def flags(*arguments: object) -> Scenario:
    """Build a scenario as ``fathom-load run`` would."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return scenario_of(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_read_and_fits_the_schema(path: Path) -> None:
    """Reader and schema agree on the examples, whose files are there, and JSON holds all of them."""
    read = read_scenario(path)
    raw = tomllib.loads(path.read_text())
    jsonschema.Draft202012Validator(scenario_schema()).validate(raw)
    trace = ScenarioFiles.read(read).trace
    assert (trace is not None) == isinstance(read.load, TraceReplay)
    written = json.loads(json.dumps(read.to_json()))
    written["slos"] = {slo["name"]: slo["limit_ms"] for slo in written["slos"]}
    for task in written["tasks"]:
        if not task["name"]:
            del task["name"]
        if not task["sampling"]["stop"]:
            del task["sampling"]["stop"]
    assert read_scenario(None, written | {"load": load_of(read)}) == read


def load_of(read: Scenario) -> dict[str, Any]:
    """A scenario's load as JSON holds it, its file named from here."""
    load: dict[str, Any] = read.to_json()["load"]
    return load | {"file": Path(load["file"])} if "file" in load else load


def test_the_committed_schema_and_manual_are_those_of_the_types(capsys: pytest.CaptureFixture[str]) -> None:
    """``fathom-load schema`` prints, byte for byte, what docs/ holds."""
    jsonschema.Draft202012Validator.check_schema(scenario_schema())
    for arguments, file in ((["schema"], "scenario.schema.json"), (["schema", "--format", "markdown"], "scenario.md")):
        assert main(arguments) == 0
        assert capsys.readouterr().out == (ROOT / "docs" / file).read_text()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = [", "is not TOML"),
        ("[load]\nshape = 'closed'\nusers = 1\nrequests = 1\n", "tasks is missing; it is what is asked"),
        (CLOSED.replace("users", "user"), "load.user is not a known key; did you mean 'users'?"),
        (CLOSED.replace('"closed"', '"spiral"'), "load.shape is 'spiral'; valid values: closed, open, sweep, trace"),
        (CLOSED.replace('shape = "closed"\n', ""), "load.shape is missing; valid values: closed"),
        (CLOSED.replace("[1, 8]", "[1, 0]"), "load.users[1] is 0; it must be at least 1"),
        (CLOSED.replace("[1, 8]", "[]"), "load.users is empty; give at least one stage"),
        (CLOSED.replace("[1, 8]", "1.5"), "load.users[0] is 1.5; it must be a whole number"),
        (CLOSED.replace("duration_s = 5", ""), "load needs exactly one of duration_s and requests"),
        (CLOSED.replace("duration_s = 5", "duration_s = inf"), "load.duration_s is inf; it must be a number"),
        (CLOSED.replace("duration_s = 5", "duration_s = -1"), "load.duration_s is -1; it must be above 0"),
        (CLOSED.replace("64", "0"), "tasks[0].input_tokens is 0; it must be at least 1"),
        (CLOSED.replace("64", "'many'"), "tasks[0].input_tokens is 'many'; it must be a whole number"),
        (
            CLOSED.replace("64", '{ distribution = "zipf" }'),
            "tasks[0].input_tokens.distribution is 'zipf'; valid values: fixed, normal, uniform, lognormal, histogram",
        ),
        (
            CLOSED.replace("64", '{ distribution = "normal", mean = 5 }'),
            "tasks[0].input_tokens.stddev is missing; it is standard deviation",
        ),
        (
            CLOSED.replace("64", '{ distribution = "uniform", low = 5, high = 4 }'),
            "tasks[0].input_tokens.high is 4; it must not be below low (5)",
        ),
        (
            CLOSED.replace("64", '{ distribution = "histogram", edges = [1, 2], weights = [1, 1] }'),
            "tasks[0].input_tokens.edges has 2 values and weights has 2; give one edge more",
        ),
        (
            CLOSED.replace("64", '{ distribution = "histogram", edges = [1, 3, 2], weights = [1, 1] }'),
            "every edge must lie above the one before",
        ),
        (
            CLOSED.replace("64", '{ distribution = "histogram", edges = [1, 2], weights = [0] }'),
            "at least one weight must be above 0",
        ),
        (CLOSED + "task = 'sing'", "tasks[0].task is 'sing'; valid values: generate, chat, embed, rerank"),
        (CLOSED + "prompts = 'p.jsonl'", "tasks[0] needs exactly one of prompts and input_tokens"),
        (CLOSED + "weight = 0", "tasks[0].weight is 0; it must be above 0"),
        (CLOSED + "task = 'embed'\noutput_tokens = 4", "tasks[0].output_tokens is given, but task is 'embed'"),
        (CLOSED + "conversation = { turns = 3 }", "tasks[0].conversation is given, but task is 'generate'"),
        (CLOSED + "task = 'embed'\nsampling.temperature = 1", "tasks[0].sampling is given, but task is 'embed'"),
        (CLOSED + "sampling.top_p = 0", "tasks[0].sampling.top_p is 0; it must be above 0"),
        (CLOSED + "sampling.ignore_eos = true", "tasks[0].sampling.ignore_eos is true, but answers would not end"),
        (CLOSED + "cancellation = { share = 2, after_s = 1 }", "tasks[0].cancellation.share is 2; it must"),
        (CLOSED + "cancellation = { share = 1 }", "tasks[0].cancellation needs exactly one of after"),
        (CLOSED + "shared_prefix = { tokens = 64 }", "tasks[0].shared_prefix.tokens is 64; it must be below"),
        (CLOSED + "[[tasks]]\nmodel = 'm'\ninput_tokens = 1", "tasks[0].name is 'generate', as another task's"),
        (CLOSED + "[slos]\nttft = 5", "slos.ttft is no SLO; valid: ttft_ms, itl_ms, request_latency_ms"),
        (CLOSED + "[slos]\nttft_ms = true", "slos.ttft_ms is True; it must be a number of milliseconds"),
        (CLOSED + "task = 'embed'\n[slos]\nttft_ms = 5", "slos.ttft_ms needs a stream, which no task has"),
        (CLOSED + "[target]\ntimeout_s = 0", "target.timeout_s is 0; it must be above 0"),
        (CLOSED + "[target.tls]\nkey = 'k.pem'", "target.tls.certificate is missing; a certificate and its key"),
        (
            CLOSED.replace('shape = "closed"\nusers = [1, 8]', 'shape = "open"\nrates = [1]\narrivals.burstiness = 2'),
            "load.arrivals.burstiness is 2; it is for process = \"gamma\"",
        ),
        (
            CLOSED.replace('shape = "closed"\nusers = [1, 8]', 'shape = "sweep"\nover = "users"'),
            "slos is missing; a sweep needs an objective to break",
        ),
        (
            CLOSED.replace('shape = "closed"\nusers = [1, 8]', 'shape = "sweep"\nover = "users"\nstart = 1.5'),
            "load.start is 1.5; a number of users is whole",
        ),
        (
            CLOSED.replace('shape = "closed"\nusers = [1, 8]', 'shape = "trace"\nfile = "t.jsonl"'),
            "tasks[0].input_tokens is given; the trace decides it, leave it out",
        ),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_file_key_value_and_remedy(tmp_path: Path, text: str, complaint: str) -> None:
    """The message begins with the file and names the key's whole path."""
    with pytest.raises(ScenarioError) as caught:
        scenario(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.toml'}: ")
    assert complaint in str(caught.value)


def test_a_file_that_is_no_scenario_is_refused(tmp_path: Path) -> None:
    """A folder, a missing file, a huge one and one that is no text are each named."""
    (tmp_path / "huge.toml").write_bytes(b"#" * (1 << 21))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name, complaint in (
        ("absent.toml", "cannot be read"),
        (".", "cannot be read"),
        ("huge.toml", "is larger than"),
        ("binary.toml", "is not TOML"),
    ):
        with pytest.raises(ScenarioError, match=complaint):
            flags(tmp_path / name)


def test_flags_override_the_file(tmp_path: Path) -> None:
    """A flag takes the place of its key alone; another shape of load takes the place of the file's."""
    assert scenario(tmp_path, CLOSED, "--users", 4).load == ClosedLoop((4,), duration_s=5)
    assert scenario(tmp_path, CLOSED, "--requests", 9).load == ClosedLoop((1, 8), requests=9)
    assert scenario(tmp_path, CLOSED, "--rate", "0.5,2").load == OpenLoop((0.5, 2), duration_s=5)
    swept = scenario(tmp_path, CLOSED, "--sweep", "rate", "--slo", "ttft_ms=5")
    assert (swept.load, swept.slos) == (Sweep("rate", duration_s=5), (Slo("ttft_ms", 5.0),))
    lengths = ["--input-tokens", 9, "--input-tokens-stddev", 2]
    changed = scenario(tmp_path, CLOSED, "--model", "other", "--seed", 3, *lengths)
    assert (changed.model, changed.seed, changed.tasks[0].input_tokens) == ("other", 3, Normal(9, 2))


def test_any_key_can_be_set(tmp_path: Path) -> None:
    """``--set`` takes a path and a TOML value, a bare word as text; tables on the way are made."""
    read = scenario(
        tmp_path, CLOSED,
        "--set", "tasks[0].output_tokens={distribution='lognormal', mean=50, stddev=20}",
        "--set", "tasks[0].sampling.stop=['END', 'STOP']",
        "--set", "tasks[0].task=chat",
        "--set", "slos.itl_ms=20",
        "--set", "tasks[1].model=minilm", "--set", "tasks[1].task=embed", "--set", "tasks[1].input_tokens=8",
    )  # fmt: skip
    assert read.tasks[0].output_tokens == Lognormal(50, 20)
    assert (read.tasks[0].sampling.stop, read.tasks[0].task) == (("END", "STOP"), "chat")
    assert (read.slos, read.models) == ((Slo("itl_ms", 20.0),), ("chat", "minilm"))
    assert read.tasks[1].input_tokens == Fixed(8)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--set", "load.users"], "--set 'load.users' is not KEY=VALUE"),
        (["--set", "=5"], "--set '=5' is not KEY=VALUE"),
        (["--set", "load..users=5"], "is not KEY=VALUE"),
        (["--set", "load.users=0"], "--set load.users[0] is 0; it must be at least 1"),
        (["--set", "load.userz=1"], "--set load.userz is not a known key; did you mean 'users'?"),
        (["--set", "tasks[7].model=x"], "tasks[7].model has no such entry"),
        (["--set", "seed.x=1"], "seed is {'x': 1}; it must be a whole number"),
        (["--users", "0"], "--users[0] is 0; it must be at least 1"),
        (["--rate", "1", "--users", "1"], "--users and --rate are two shapes of load; give one of them"),
        (["--ramp-from", "1"], "--ramp-from is not a known key"),
        (["--rate", "5", "--ramp-from", "1", "--requests", "4"], "--ramp-from is 1.0; a ramp needs duration_s"),
        (["--output-tokens-stddev", "3"], "--output-tokens-stddev needs --output-tokens"),
        (["--warmup-s", "0"], "--warmup-s is 0.0; it must be above 0"),
    ],
)
def test_a_wrong_flag_is_named_as_it_was_given(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    """The message names the flag, not the key that it stands for."""
    with pytest.raises(ScenarioError) as caught:
        scenario(tmp_path, CLOSED, *arguments)
    assert complaint in str(caught.value)


def test_flags_of_the_one_task_are_refused_for_a_mix(tmp_path: Path) -> None:
    """Which of several tasks would --model mean? The message gives the way to say it."""
    mix = CLOSED + "[[tasks]]\nmodel = 'minilm'\ntask = 'embed'\ninput_tokens = 5\n"
    with pytest.raises(ScenarioError, match=r"--model is for a scenario of one task, and this one has 2; use --set"):
        scenario(tmp_path, mix, "--model", "x")
    assert scenario(tmp_path, mix, "--set", "tasks[1].model=x").models == ("chat", "x")


def test_a_wished_length_is_one_that_every_prompt_has(tmp_path: Path) -> None:
    """Tasks of different lengths have none in common, and a conversation's turns grow."""
    mix = CLOSED + "[[tasks]]\nname = 'other'\nmodel = 'm'\ninput_tokens = 5\n"
    assert scenario(tmp_path, CLOSED).input_tokens == Fixed(64)
    assert scenario(tmp_path, mix).input_tokens is None
    assert scenario(tmp_path, CLOSED, "--task", "chat", "--set", "tasks[0].conversation.turns=3").input_tokens is None


def test_paths_of_a_file_are_relative_to_it_and_those_of_flags_are_not(tmp_path: Path) -> None:
    """A scenario can be run from anywhere."""
    text = CLOSED.replace("input_tokens = 64", 'prompts = "sets/mine.jsonl"')
    assert scenario(tmp_path, text).tasks[0].prompts == tmp_path / "sets" / "mine.jsonl"
    assert scenario(tmp_path, text, "--prompts", "here.jsonl").tasks[0].prompts == Path("here.jsonl")
