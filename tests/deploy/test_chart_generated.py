"""The chart's README and schema are made from values.yaml, which explains every value."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.chart.__main__ import CHART, generated, main
from deploy.chart.errors import ChartError
from deploy.chart.values_file import leaves, read_values


def test_readme_and_schema_are_up_to_date() -> None:
    """The files in the repository are what the command writes."""
    for file, text in generated(CHART).items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name}: run python -m deploy.chart"


def test_the_command_writes_what_it_then_finds_up_to_date(tmp_path: Path) -> None:
    """With --check it exits 1 before, 0 after, and writes nothing itself."""
    chart = tmp_path / "fathom"
    shutil.copytree(CHART, chart)
    (chart / "README.md").unlink()
    check = [sys.executable, "-m", "deploy.chart", "--chart", str(chart), "--check"]
    before = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (before.returncode, before.stdout) == (1, "README.md: not up to date; run python -m deploy.chart\n")
    assert not (chart / "README.md").exists()
    assert subprocess.run(check[:-1], check=True, capture_output=True, text=True).stdout == "README.md: written\n"
    assert subprocess.run(check, check=False, capture_output=True).returncode == 0


def test_every_value_is_used_by_a_template() -> None:
    """No value is dead: the last word of its path, or of the map that a template takes whole, stands in a template."""
    texts = "\n".join(file.read_text(encoding="utf-8") for file in (CHART / "templates").rglob("*.*"))
    for value in leaves(read_values(CHART / "values.yaml")):
        assert re.search(rf"\.{value.path[-1]}\b", texts), ".".join(value.path)


def test_every_value_of_a_template_is_in_the_values() -> None:
    """No template asks for a value that does not exist, which Helm would take for empty."""
    known = {value.path for value in leaves(read_values(CHART / "values.yaml"))}
    prefixes = {path[:length] for path in known for length in range(1, len(path) + 1)}
    for file in (CHART / "templates").rglob("*.*"):
        for asked in re.findall(r"\.Values\.([A-Za-z0-9.]+)", file.read_text(encoding="utf-8")):
            assert tuple(asked.rstrip(".").split(".")) in prefixes, f"{file.name}: {asked}"


def test_the_schema_knows_every_value_and_no_other() -> None:
    """Its properties are the values' names, level by level."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for value in leaves(read_values(CHART / "values.yaml")):
        level = schema
        for word in value.path:
            assert level["additionalProperties"] is False
            level = level["properties"][word]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\n", "nothing explains a; write its reason"),
        ("# why\na:\n  b: 1\n", "nothing explains a.b"),
        ("# why\n# @schema {no}\na: 1\n", "the @schema line of a is no JSON"),
        ("- 1\n", "is no map of values"),
    ],
)
def test_a_value_that_nothing_explains_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    """The command names the value and what to do, and exits 2."""
    file = tmp_path / "values.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ChartError, match=re.escape(fault)):
        read_values(file)


def test_a_chart_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong folder is an error of one line and exit status 2."""
    assert main(["--chart", str(tmp_path / "none")]) == 2
    assert re.fullmatch(r"error: .*values\.yaml'?\n", capsys.readouterr().err)
