"""One table says which precision goes with what, and refusals, flags and the documentation follow it."""

from pathlib import Path
from typing import Any, get_args

import pytest
from tests.export.quantise.conftest import ROOT

from fathom_export.cli import main
from fathom_export.decoder import build_decoder
from fathom_export.errors import InvalidPrecisionError, SpecError
from fathom_export.quantise.table import (
    DEVICE_TARGET,
    PRECISIONS,
    TABLE,
    TARGETS,
    VLLM_TARGET,
    Entry,
    markdown,
    refusal,
    valid_precisions,
)
from fathom_export.spec import GenerateSpec, Precision, read_model
from fathom_export.spec.model_spec import ENGINES, SPECS
from fathom_export.spec.quantisation import Quantisation
from fathom_server.engine.settings import Dialect

SERVED = [entry for entry in TABLE if entry.target != DEVICE_TARGET]
"""Those of a model's table; test_device.py has the others."""
INVALID = [entry for entry in SERVED if not entry.valid]


def form(entry: Entry) -> dict[str, str]:
    """What a spec says of a decoder's target: its dialect, or another engine than ours."""
    if entry.task != "generate":
        return {}
    return {"engine" if entry.target in ENGINES else "dialect": entry.target}


def test_the_table_has_every_cell() -> None:
    """Each task, each target of it and each precision stand in it once."""
    cells = [(entry.task, entry.target, entry.precision) for entry in TABLE]
    assert len(cells) == len(set(cells)) == len(TARGETS) * len(PRECISIONS)
    assert {task for task, _ in TARGETS} == set(SPECS)
    others = {VLLM_TARGET, DEVICE_TARGET}
    assert {target for task, target in TARGETS if task == "generate"} == {*get_args(Dialect), *others}
    assert get_args(Precision) == PRECISIONS


@pytest.mark.parametrize("entry", INVALID, ids=lambda entry: f"{entry.task}-{entry.target}-{entry.precision}")
def test_an_invalid_pair_is_refused_with_the_reason_and_the_valid_ones(entry) -> None:
    """A spec of it is refused, and the message says why and names every valid precision of the target."""
    table = {"name": "m", "source": "here", "task": entry.task, "precision": entry.precision}
    table |= form(entry)
    with pytest.raises(SpecError) as caught:
        read_model(table, "")
    message = str(caught.value)
    assert entry.text in message
    assert f"{entry.target}: {', '.join(valid_precisions(entry.task, entry.target))}" in message


def test_the_builder_refuses_what_the_spec_refuses(tmp_path: Path) -> None:
    """Called without a spec, it gives the same sentence, before it looks at the source."""
    with pytest.raises(InvalidPrecisionError) as caught:
        build_decoder(tmp_path, tmp_path, dialect="cpu", precision="fp8")
    assert str(caught.value) == refusal("generate", "cpu", "fp8")


@pytest.mark.parametrize("task", list(SPECS))
def test_a_valid_pair_is_taken(task: str) -> None:
    """A spec of every valid pair is read."""
    for entry in SERVED:
        if entry.task == task and entry.valid:
            table: dict[str, Any] = {"name": "m", "source": "here", "task": task, "precision": entry.precision}
            table |= form(entry)
            if task != "generate" and entry.precision == "fp8":
                table["quantisation"] = {"calibration_text": "text.txt"}  # an encoder writes none of its own
            assert read_model(table, "").precision == entry.precision


def test_the_documentation_shows_the_table() -> None:
    """docs/precisions.md holds the table as the code makes it."""
    assert markdown() in (ROOT / "docs" / "precisions.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"block_size": 64}, ["block_size is 64", "32, 128"]),
        ({"fp8_skip_budget": 1.5}, ["fp8_skip_budget is 1.5", "0 to 1"]),
        ({"fp8_skip_budget": -0.1}, ["fp8_skip_budget is -0.1"]),
    ],
)
def test_a_value_out_of_range_is_refused(settings, parts) -> None:
    """The key, the value and what would do are named."""
    with pytest.raises(SpecError) as caught:
        Quantisation(**settings)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("precision", "dialect", "settings", "part"),
    [
        ("int8", "cpu", {"block_size": 128}, "precision int4"),
        ("fp16", "portable", {"calibration_method": "mse"}, "precision fp8"),
        ("fp32", "portable", {"calibration_text": "a.txt"}, "precision fp8 or sparsity_method wanda"),
        ("int8", "cpu", {"sparsity": "2:4"}, "dialect portable"),
        ("fp16", "portable", {"sparsity_method": "wanda"}, "sparsity 2:4"),
    ],
)
def test_a_setting_without_effect_is_refused(precision, dialect, settings, part) -> None:
    """It is named with what it goes with."""
    with pytest.raises(SpecError, match=part):
        GenerateSpec("m", "here", precision, dialect, quantisation=Quantisation(**settings))


def test_the_command_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, one line, no traceback."""
    assert main(["here", "--name", "m", "--task", "generate", "--precision", "fp8", "--dialect", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "portable: fp32, fp16, fp8" in error


def test_a_calibration_text_is_sought_beside_the_bundle(tmp_path: Path) -> None:
    """Its path is relative to the file that names it, and the passport's settings hold its content's hash."""
    from fathom_export.spec import read_bundle, spec_settings

    (tmp_path / "bundle.toml").write_text(
        '[[models]]\nname = "m"\nsource = "s"\ntask = "generate"\nprecision = "fp8"\ndialect = "portable"\n'
        'quantisation = { calibration_text = "text.txt" }\n'
    )
    (tmp_path / "text.txt").write_text("some text")
    (spec,) = read_bundle(tmp_path / "bundle.toml").models
    assert isinstance(spec, GenerateSpec)
    assert spec.quantisation.calibration_text == str(tmp_path / "text.txt")
    before = spec_settings(spec)["quantisation"]["calibration_text"]
    (tmp_path / "text.txt").write_text("other text")
    after = spec_settings(spec)["quantisation"]["calibration_text"]
    assert before["file"] == after["file"] == "text.txt"
    assert before["sha256"] != after["sha256"]
