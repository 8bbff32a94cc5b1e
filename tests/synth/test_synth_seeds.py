"""Seeds and prompts: rows of three kinds of files, and what becomes of those that are none."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.synth.synth_job import write_job

from fathom_synth.errors import JobError, SeedError, TemplateError
from fathom_synth.job_file import read_job
from fathom_synth.prompts import Prompt, PromptSource, Unusable
from fathom_synth.rows_file import FileRow, MalformedRow, read_rows

ROWS = [{"name": "Ada", "text": 'a, "b"\nc'}, {"name": "日本", "text": "ü"}]
TEACHER = {"model": "chat", "revision": "r1"}


def source(folder: Path, text: str, seeds: list[Any]) -> PromptSource:
    """The prompts of a job."""
    return PromptSource(read_job(write_job(folder, text, seeds).path), TEACHER)


def test_the_three_kinds_of_files_give_the_same_rows(tmp_path: Path) -> None:
    """JSONL, CSV with quotes and line breaks, and Parquet hold the same values."""
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    (tmp_path / "a.csv").write_text('name,text\nAda,"a, ""b""\nc"\n日本,ü\n', encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name, lines in (("a.jsonl", [1, 3]), ("a.csv", [3, 4]), ("a.parquet", [1, 2])):
        assert list(read_rows(tmp_path / name)) == [FileRow(*each) for each in zip(lines, ROWS, strict=True)]


def test_malformed_rows_come_with_line_reason_and_text(tmp_path: Path) -> None:
    """What is no row does not end the file; it says where it stands and what is wrong."""
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \n[1]\n"\xff"\n{"a": 2}\n' + b"[" * 100_000 + b"\n")
    found = list(read_rows(tmp_path / "a.jsonl"))
    assert [row.line for row in found] == [1, 2, 3, 4, 5, 6]
    reasons = [row.reason for row in found if isinstance(row, MalformedRow)]
    assert reasons[0].startswith("is not JSON (Expecting value")
    assert reasons[1:3] == ["is a JSON list, not an object", "is not UTF-8 (byte 1)"]
    assert reasons[3].startswith("is not JSON (")
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,2\n1\n\xff,2\n3,"4"x\n5,6\n')
    csv_rows = list(read_rows(tmp_path / "a.csv"))
    assert [(row.line, getattr(row, "reason", "")) for row in csv_rows] == [
        (2, ""),
        (3, "has 1 fields, and the first line names 2 columns"),
        (4, "is not UTF-8"),
        (5, "is not CSV (',' expected after '\"')"),
        (6, ""),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", "is of no known kind; name a file that ends in .jsonl"),
        ("a.parquet", b"PAR1 no", "is not Parquet, or damaged after row 0"),
        ("a.csv", b"a,a\n1,2\n", "its first line must name the columns, each once"),
    ],
)
def test_a_file_that_is_no_file_of_rows_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """The error names the file and what would do."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SeedError, match=message):
        list(read_rows(tmp_path / name))
    with pytest.raises(SeedError, match=r"none\.jsonl: cannot be read"):
        list(read_rows(tmp_path / "none.jsonl"))


def test_rows_that_fit_no_template_are_set_aside_and_the_others_asked(tmp_path: Path) -> None:
    """A missing column and a broken line give no prompt; each says its line."""
    text = '[[prompts]]\nname = "p"\ntemplate = "{{ a }}?"\nsystem = "{{ who or \'\' }}"\nseeds = "seeds.jsonl"\n'
    seeds = [{"a": 1, "who": "be brief"}, {"b": 2}, "no json", {"a": " ", "who": ""}, {"a": "x", "who": None}]
    found = list(source(tmp_path, text.replace("}}?", "}}"), seeds))
    prompts = [each for each in found if isinstance(each, Prompt)]
    assert [each.messages for each in prompts] == [
        ({"role": "system", "content": "be brief"}, {"role": "user", "content": "1"}),
        ({"role": "user", "content": "x"},),
    ]
    unusable = {each.line: each.reason for each in found if isinstance(each, Unusable)}
    assert list(unusable) == [2, 3, 4]
    assert "'a' is undefined" in unusable[2]
    assert "is not JSON" in unusable[3]
    assert "renders to nothing" in unusable[4]


def test_a_key_is_made_of_all_that_decides_an_answer(tmp_path: Path) -> None:
    """The same job gives the same keys; equal rows, another template, sampling, seed or teacher give others."""
    text = '[[prompts]]\nname = "p"\ntemplate = "{{ a }}?"\nseeds = "seeds.jsonl"\n'
    seeds = [{"a": 1}, {"a": 2}, {"a": 1}]

    def keys(text: str, teacher: dict[str, Any] = TEACHER, seeds: list[Any] = seeds) -> list[str]:
        job = read_job(write_job(tmp_path, text, seeds).path)
        return [each.key for each in PromptSource(job, teacher) if isinstance(each, Prompt)]

    first = keys(text)
    assert len(set(first)) == 3
    assert keys(text) == first
    assert keys(text, seeds=[{"a": 0}, *seeds])[1:] == first  # more seeds cost no answer that is there
    others = [
        keys(text.replace("?", "!")),
        keys(text + "[sampling]\ntemperature = 0.9\n"),
        keys(text, {**TEACHER, "revision": "r2"}),
    ]
    assert all(set(first).isdisjoint(other) for other in others)


def test_files_without_a_usable_row_are_refused_with_the_last_fault(tmp_path: Path) -> None:
    """A column's misspelt name is found before anything is asked."""
    text = '[[prompts]]\nname = "p"\ntemplate = "{{ question }}"\nseeds = "seeds.jsonl"\n'
    with pytest.raises(
        SeedError, match=r"seeds\.jsonl: gives no prompt at all; the last of them, line 2: .*'question'"
    ):
        list(source(tmp_path, text, [{"qestion": 1}, {"qestion": 2}]))
    with pytest.raises(SeedError, match=r"seeds\.jsonl: gives no prompt at all$"):
        list(source(tmp_path, text, []))


def test_a_template_that_reaches_out_ends_the_job_not_the_row(tmp_path: Path) -> None:
    """What the sandbox refuses is a fault of the template, whatever the row."""
    text = '[[prompts]]\nname = "p"\ntemplate = "{{ a.__class__.__mro__ }}"\nseeds = "seeds.jsonl"\n'
    with pytest.raises(TemplateError, match=r"prompts\[0\]\.template: reaches out of the sandbox"):
        list(source(tmp_path, text, [{"a": 1}]))


def test_a_schema_that_is_none_is_refused(tmp_path: Path) -> None:
    """A schema's file must hold a JSON schema."""
    text = '[[prompts]]\nname = "p"\ntemplate = "x"\njson_schema = "s.json"\n'
    for content, message in (
        ('{"type": "objekt"}', "is no JSON schema"),
        ("[]", "is a JSON list"),
        ("{", "is not JSON"),
    ):
        (tmp_path / "s.json").write_text(content)
        with pytest.raises(JobError, match=rf"s\.json: {message}"):
            source(tmp_path, text, [])
    (tmp_path / "s.json").unlink()
    with pytest.raises(JobError, match=r"s\.json: cannot be read"):
        source(tmp_path, text, [])
