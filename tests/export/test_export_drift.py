"""``fathom-export --check``: every way in which a repository can differ from its bundle."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fathom_export import passport as passport_module
from fathom_export.cli import main
from fathom_export.export_model import export_model
from fathom_export.repository.promotion import rollback
from fathom_export.spec import read_bundle

BUNDLE = '[[models]]\nname = "chat"\nsource = "source"\ntask = "generate"\nlimits = { max_queue = %d }\n'


class Quiet:
    """A reporter that shows nothing."""

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter``."""

    def advance(self, done: int, total: int) -> None:
        """See ``Reporter``."""


def export(bundle: Path) -> None:
    """Build what a bundle says."""
    read = read_bundle(bundle)
    for spec in read.models:
        export_model(spec, read.folder, read.repository, Quiet())


@pytest.fixture(scope="module")
def built(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, its source, and its repository of two versions; do not change it."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(tiny_llm, folder / "source")
    for queue in (1, 2):
        (folder / "bundle.toml").write_text(BUNDLE % queue)
        export(folder / "bundle.toml")
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """Such a folder to spoil."""
    return Path(shutil.copytree(built, tmp_path / "deployment"))


def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and differences, held against the text form."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    bundle = str(folder / "bundle.toml")
    status = main(["--check", bundle, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["clean"] is (status == 0) is not report["drifts"]
    assert main(["--check", bundle]) == status
    text = capsys.readouterr().out
    for drift in report["drifts"]:
        assert f"{drift['model']}: {drift['kind']} {drift['subject']}: {drift['detail']}" in text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before  # nothing is written
    return status, report["drifts"]


def test_a_repository_as_its_bundle_says_is_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right after an export there is no difference, and the status is 0."""
    status, drifts = check(folder, capsys)
    assert (status, drifts) == (0, [])


def change_source(folder: Path) -> None:
    """Another configuration of generation, and a file that was not there."""
    (folder / "source" / "generation_config.json").write_text('{"eos_token_id": 0}')
    (folder / "source" / "extra.json").write_text("{}")
    (folder / "source" / "chat_template.jinja").unlink()


def change_settings(folder: Path) -> None:
    """Another limit, and one more."""
    (folder / "bundle.toml").write_text((BUNDLE % 3).replace(" }", ", max_batch = 4 }"))


def edit_config(folder: Path) -> None:
    """A line by hand in config.pbtxt."""
    config = folder / "model_repository" / "chat" / "config.pbtxt"
    config.write_text(config.read_text() + "# by hand\n")


def spoil_config(folder: Path) -> None:
    """A config.pbtxt that Triton could not read."""
    (folder / "model_repository" / "chat" / "config.pbtxt").write_text("instance_group {")


def edit_files(folder: Path) -> None:
    """A changed file, and one that is lost."""
    (folder / "model_repository" / "chat" / "2" / "engine.json").write_text("{}")
    (folder / "model_repository" / "chat_tokenizer" / "2" / "tokenizer.json").unlink()


def remove_a_model(folder: Path) -> None:
    """Only two of the three models."""
    shutil.rmtree(folder / "model_repository" / "chat_ensemble")


def add_a_model(folder: Path) -> None:
    """A model that somebody put there."""
    (folder / "model_repository" / "other").mkdir()
    (folder / "model_repository" / "other" / "config.pbtxt").write_text('backend: "python"')


def roll_back(folder: Path) -> None:
    """The version before."""
    rollback(folder / "model_repository", "chat")


def remove_source(folder: Path) -> None:
    """A source that is no more."""
    shutil.rmtree(folder / "source")


def remove_repository(folder: Path) -> None:
    """No repository at all."""
    shutil.rmtree(folder / "model_repository")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            change_source,
            [
                ("source", "chat_template.jinja", "is gone"),
                ("source", "extra.json", "is new"),
                ("source", "generation_config.json", "its content has changed"),
            ],
        ),
        (
            change_settings,
            [("setting", "limits.max_batch", "is new: 4"), ("setting", "limits.max_queue", "2 → 3")],
        ),
        (edit_config, [("config", "chat/config.pbtxt", "was edited")]),
        (spoil_config, [("config", "config.pbtxt", "name no version")]),
        (
            edit_files,
            [
                ("file", "chat/2/engine.json", "was changed since"),
                ("file", "chat_tokenizer/2/tokenizer.json", "is missing"),
            ],
        ),
        (remove_a_model, [("missing", "chat_ensemble", "is not in the repository")]),
        (add_a_model, [("extra", "other", "no model of the bundle makes it")]),
        (roll_back, [("version", "1", "1 is served, but 2 was made")]),
        (remove_source, [("source", "source", "cannot be examined")]),
        (
            remove_repository,
            [("missing", name, "is not in") for name in ("chat", "chat_tokenizer", "chat_ensemble")],
        ),
    ],
)
def test_each_difference_is_found_and_named(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    expected: list[tuple[str, str, str]],
) -> None:
    """What was changed, and nothing else, is told with what it is, which one and how; the status is 1."""
    spoil(folder)
    status, drifts = check(folder, capsys)
    assert status == 1
    found = [(drift["kind"], drift["subject"]) for drift in drifts]
    assert found == [(kind, subject) for kind, subject, _ in expected]
    for drift, (_, _, part) in zip(drifts, expected, strict=True):
        assert part in drift["detail"]


def test_another_tool_version_is_a_difference(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer library or changed code of the export itself would make other models."""
    version = passport_module.importlib.metadata.version
    monkeypatch.setattr(
        passport_module.importlib.metadata, "version", lambda name: "99.0" if name == "numpy" else version(name)
    )
    monkeypatch.setattr(passport_module, "_hash_code", lambda: "0" * 64)
    status, drifts = check(folder, capsys)
    assert status == 1
    assert [(drift["kind"], drift["subject"]) for drift in drifts] == [("tool", "numpy"), ("tool", "fathom-export")]
    assert drifts[0]["detail"].endswith("→ '99.0'")


def test_a_check_downloads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sources that are not on this machine are named, without a look at any network."""
    repository = tmp_path / "model_repository"
    tables = [
        f'[[models]]\nname = "m{number}"\nsource = "{source}"\ntask = "embed"\n'
        for number, source in enumerate(["pypi:fathom-no-such-package==1.0", "nobody/nothing-at-all"])
    ]
    (tmp_path / "bundle.toml").write_text("".join(tables))
    for model in ("m0", "m1"):
        for part in ("", "_tokenizer", "_encoder"):
            (repository / (model + part) / "1").mkdir(parents=True)
            (repository / (model + part) / "config.pbtxt").write_text("version_policy { specific { versions: 1 } }")
        written = {
            "origin": {
                "source": {}, "source_files": {}, "settings": {"name": model}, "spec_sha256": "", "versions": {},
                "code_sha256": "",
            },
            "models": [model, f"{model}_tokenizer", f"{model}_encoder"], "version": 1, "precision": "fp32",
            "dialect": None, "opsets": {}, "check": {}, "created": "", "files": {},
        }  # fmt: skip
        (repository / f"{model}_encoder" / "1" / "passport.json").write_text(json.dumps(written))
    status, drifts = check(tmp_path, capsys)
    assert status == 1
    details = [drift["detail"] for drift in drifts if drift["kind"] == "source"]
    assert "neither installed nor in the cache" in details[0]
    assert "not whole in the hub's cache" in details[1]


def test_a_bundle_that_cannot_be_read_is_no_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in the bundle ends with status 2."""
    (tmp_path / "bundle.toml").write_text("models = 3")
    assert main(["--check", str(tmp_path / "bundle.toml")]) == 2
    assert "models is missing or empty" in capsys.readouterr().err
