"""A report says what the served model was made from, where its repository can be read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.loadtest.command import run

from fathom_loadtest.passport import passport_rows

if TYPE_CHECKING:
    from conftest import Triton


def write_passport(repository: Path, model: str, version: int, **fields: Any) -> Path:
    """Write what fathom-export writes of a model, as far as reports read it."""
    path = repository / model / str(version) / "passport.json"
    path.parent.mkdir(parents=True)
    passport = {
        "origin": {"source": {"given": "org/model", "kind": "hub", "revision": "abc"}},
        "models": ["paced", "paced_tokenizer"], "version": version, "precision": "int8", "dialect": "cpu",
        "created": "2026-11-02T09:05:00+00:00", "files": {"paced/1/model.onnx": "00ff"},
    }  # fmt: skip
    path.write_text(json.dumps(passport | fields))
    return path


def test_the_newest_loaded_version_counts(tmp_path: Path) -> None:
    """Passports of versions that the server has not loaded, and of other models, say nothing."""
    write_passport(tmp_path, "paced", 1)
    write_passport(tmp_path, "paced", 2, precision="int4", files={"paced/2/model.onnx": "00fe"})
    write_passport(tmp_path, "paced", 3, precision="fp32")
    write_passport(tmp_path, "other", 2, models=["other"], precision="fp16")
    rows = passport_rows(tmp_path, "paced", ["1", "2"])
    assert rows["precision"] == "int4"
    assert (rows["source"], rows["revision"]) == ("org/model", "abc")
    assert len(rows["build"]) == 12
    assert passport_rows(tmp_path, "paced", ["1"])["build"] != rows["build"]
    assert passport_rows(tmp_path, "paced_tokenizer", ["1"])["precision"] == "int8"


def test_a_damaged_or_missing_passport_is_said(tmp_path: Path) -> None:
    """One row names the model and the folder; nothing fails for it."""
    path = write_passport(tmp_path, "paced", 1)
    for content in ("{", "[]", "{}", json.dumps(json.loads(path.read_text()) | {"files": 3})):
        path.write_text(content)
        assert passport_rows(tmp_path, "paced", ["1"]) == {"passport": f"none of paced in {tmp_path}"}
    assert passport_rows(tmp_path / "absent", "paced", ["1"])["passport"].startswith("none of paced")


def test_a_run_reports_the_passport_of_its_model(triton: "Triton", tmp_path: Path) -> None:
    """With the repository named, precision and source stand in the report."""
    write_passport(tmp_path / "repository", "paced", 1)
    arguments = ["--model", "paced", "--requests", 2, "--input-tokens", 4, "--output-tokens", 2, "--warmup-requests", 0]
    done = run(triton, tmp_path / "out", [*arguments, "--repository", tmp_path / "repository"])
    assert done.status == 0, done.stderr
    assert done.report["target"]["precision"] == "int8"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">source</th><td>org/model</td>' in page
