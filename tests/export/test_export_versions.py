"""Versions of the models of one spec: written, kept, switched and pruned together."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fathom_export.cli import main
from fathom_export.errors import RepositoryError
from fathom_export.export_model import Outcome, export_model
from fathom_export.repository.promotion import promote, rollback
from fathom_export.repository.staging import STAGING_PREFIX
from fathom_export.repository.versions import kept_versions, served_version
from fathom_export.spec import EmbedSpec, GenerateSpec, Serving

MODELS = ("chat", "chat_tokenizer", "chat_ensemble")


class Quiet:
    """A reporter that shows nothing."""

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter``."""

    def advance(self, done: int, total: int) -> None:
        """See ``Reporter``."""


def export(source: Path, repository: Path, *, keep: int = 3, promote: bool = True, **limits: Any) -> Outcome:
    """Export an LLM named chat with these limits."""
    spec = GenerateSpec("chat", str(source), limits=limits, serving=Serving(keep_versions=keep))
    return export_model(spec, Path(), repository, Quiet(), promote=promote)


def read_config(repository: Path, model: str) -> Any:
    """A model's config.pbtxt, parsed as Triton parses it."""
    text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two versions of chat; do not change it."""
    repository = tmp_path_factory.mktemp("built") / "repository"
    for queue in (1, 2):
        export(tiny_llm, repository, max_queue=queue)
    return repository


@pytest.fixture
def repository(built: Path, tmp_path: Path) -> Path:
    """A repository with two versions of chat, the second of which is served."""
    return Path(shutil.copytree(built, tmp_path / "repository"))


def test_a_new_export_is_the_next_version_of_all_its_models(repository: Path, built: Path) -> None:
    """Both versions lie in each model, one is served, and the ensemble's steps name that very version."""
    assert kept_versions(repository, MODELS) == (1, 2)
    for model in MODELS:
        assert list(read_config(repository, model).version_policy.specific.versions) == [2]
    steps = read_config(repository, "chat_ensemble").ensemble_scheduling.step
    assert [(step.model_name, step.model_version) for step in steps] == [("chat_tokenizer", 2), ("chat", 2)]
    for warmup in read_config(repository, "chat").model_warmup:
        for sent in warmup.inputs.values():
            assert sent.input_data_file.startswith("2/")
            assert (repository / "chat" / "warmup" / sent.input_data_file).is_file()
    inodes = [(built / "chat" / number / "model.onnx").stat().st_nlink for number in "12"]
    assert inodes == [1, 1]  # linked only while they were moved


def test_promote_and_rollback_switch_all_models_at_once(repository: Path) -> None:
    """Whichever version is served, config.pbtxt of each model is that version's own, and the files stay."""
    before = contents(repository)
    switch = promote(repository, "chat", 1)
    assert (switch.models, switch.before, switch.after) == (MODELS, 2, 1)
    for model in MODELS:
        assert before[f"{model}/1/config.pbtxt"] == (repository / model / "config.pbtxt").read_bytes()
    assert promote(repository, "chat", 2).before == 1
    assert contents(repository) == before
    assert rollback(repository, "chat").after == served_version(repository, MODELS) == 1
    with pytest.raises(RepositoryError, match="no version before 1 to go back to; kept: 1, 2"):
        rollback(repository, "chat")
    assert not list(repository.parent.glob(f"{STAGING_PREFIX}*"))


def test_a_rollback_outlives_the_next_export_of_the_same(repository: Path, tiny_llm: Path) -> None:
    """An export that has nothing new to write leaves the choice of the version to whoever made it."""
    rollback(repository, "chat")
    outcome = export(tiny_llm, repository, max_queue=2)
    assert (outcome.was_up_to_date, outcome.version, outcome.served) == (True, 2, 1)
    outcome = export(tiny_llm, repository, max_queue=3)
    assert (outcome.was_up_to_date, outcome.version, outcome.served) == (False, 3, 3)


def test_a_version_that_is_not_promoted_waits(repository: Path, tiny_llm: Path) -> None:
    """Without promotion the new version lies ready while the old one is served."""
    outcome = export(tiny_llm, repository, max_queue=3, promote=False)
    assert (outcome.version, outcome.served) == (3, 2)
    assert kept_versions(repository, MODELS) == (1, 2, 3)
    assert promote(repository, "chat", 3).before == 2


def test_old_versions_are_pruned_but_never_the_one_that_is_served(repository: Path, tiny_llm: Path) -> None:
    """Of every version that goes, the warm-up goes too; a smaller number in the spec holds without a new build."""
    rollback(repository, "chat")
    assert export(tiny_llm, repository, max_queue=3, keep=2, promote=False).served == 1
    assert kept_versions(repository, MODELS) == (1, 3)
    assert sorted(path.name for path in (repository / "chat" / "warmup").iterdir()) == ["1", "3"]
    promote(repository, "chat", 3)
    assert export(tiny_llm, repository, max_queue=3, keep=1).was_up_to_date
    assert kept_versions(repository, MODELS) == (3,)


def test_numbers_are_never_given_twice_while_any_is_left(repository: Path, tiny_llm: Path) -> None:
    """A version that is there only in part counts for the next number, and is not kept."""
    shutil.rmtree(repository / "chat_ensemble")
    outcome = export(tiny_llm, repository, max_queue=2)
    assert (outcome.was_up_to_date, outcome.version) == (False, 3)
    assert kept_versions(repository, MODELS) == (3,)
    assert not (repository / "chat" / "2").exists()


def test_an_edited_config_is_mended_without_a_build(repository: Path, tiny_llm: Path) -> None:
    """The served version's own config.pbtxt replaces one that was written by hand."""
    before = contents(repository)
    (repository / "chat" / "config.pbtxt").write_text('backend: "fathom"')
    assert export(tiny_llm, repository, max_queue=2).was_up_to_date
    assert contents(repository) == before


def test_models_that_a_spec_makes_no_more_leave_with_the_next_version(
    repository: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a name's task changes, the ensemble of the old one, whose steps would be gone, goes with it."""
    export_model(EmbedSpec("chat", str(tiny_bert)), Path(), repository, Quiet())
    assert sorted(path.name for path in repository.iterdir()) == ["chat", "chat_encoder", "chat_tokenizer"]
    assert kept_versions(repository, ("chat", "chat_encoder", "chat_tokenizer")) == (3,)


def test_a_damaged_version_is_not_promoted(repository: Path) -> None:
    """A version one of whose files was changed is refused by name, and nothing moves."""
    (repository / "chat" / "1" / "engine.json").write_text("{}")
    before = contents(repository)
    with pytest.raises(RepositoryError, match=r"version 1 of chat is not as it was written \(chat/1/engine.json"):
        promote(repository, "chat", 1)
    assert contents(repository) == before


def test_a_failed_switch_leaves_everything(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a rename fails between two models, all of them serve what they served."""
    before = contents(repository)
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        is_new = STAGING_PREFIX in str(self.parent) and ".retired" not in str(self)
        if is_new and self.name == "chat_ensemble" and Path(target).parent == repository:
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(RepositoryError, match="is full"):
        promote(repository, "chat", 1)
    monkeypatch.undo()
    assert contents(repository) == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--promote", "chat", "7"], "chat has no version 7; kept: 1, 2"),
        (["--promote", "chat", "latest"], "'latest' is no version"),
        (["--promote", "talk", "1"], "holds no model that was exported as 'talk'"),
        (["--rollback", "chat_tokenizer"], "holds no model that was exported as 'chat_tokenizer'"),
    ],
)
def test_a_version_that_is_not_there_is_one_line(
    repository: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    """A wrong name or number ends with status 2 and says what there is."""
    assert main([*arguments, "--repository", str(repository)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error


def test_the_command_switches(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--rollback`` and ``--promote`` say what is served now and what was."""
    assert main(["--rollback", "chat", "--repository", str(repository)]) == 0
    assert "chat, chat_tokenizer, chat_ensemble: version 1 instead of 2" in capsys.readouterr().out
    assert main(["--promote", "chat", "2", "--repository", str(repository)]) == 0
    assert served_version(repository, MODELS) == 2


def test_exports_of_one_name_at_once_each_get_a_version(tiny_llm: Path, tmp_path: Path) -> None:
    """Two processes that export different settings under one name end with two whole versions."""
    import sys

    flags = [str(tiny_llm), "--name", "chat", "--task", "generate", "--repository", str(tmp_path / "repository")]
    commands = [[sys.executable, "-m", "fathom_export.cli", *flags, "--max-queue", str(queue)] for queue in (11, 12)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert kept_versions(tmp_path / "repository", MODELS) == (1, 2)
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))
