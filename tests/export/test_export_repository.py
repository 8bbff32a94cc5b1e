"""What export writes, when it writes, and that it never leaves half of it."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fathom_client import protocol
from fathom_export.errors import (
    CheckpointError,
    ExportError,
    InvalidContextError,
    RepositoryError,
    UnsupportedArchitectureError,
)
from fathom_export.export_model import Outcome, export_model
from fathom_export.repository import staging as staging_module
from fathom_export.repository.staging import STAGING_PREFIX, staged, swap_in
from fathom_export.spec import GenerateSpec
from fathom_server.engine.settings import EngineSettings

MODELS = ("chat", "chat_tokenizer", "chat_ensemble")


class Quiet:
    """A reporter that shows nothing."""

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter``."""

    def advance(self, done: int, total: int) -> None:
        """See ``Reporter``."""


def export(source: Path, repository: Path, *, force: bool = False, **settings: Any) -> Outcome:
    """Export an LLM named chat."""
    return export_model(GenerateSpec("chat", str(source), **settings), Path(), repository, Quiet(), force=force)


def read_config(repository: Path, model: str) -> Any:
    """A model's config.pbtxt, parsed as Triton parses it."""
    text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tiny_llm: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLM that a test may spoil."""
    return Path(shutil.copytree(tiny_llm, tmp_path / "source"))


def test_an_llm_becomes_three_models_whose_configs_parse_back(source: Path, tmp_path: Path) -> None:
    """Engine, tokenizer and ensemble carry the protocol's tensors, and the engine is decoupled with warm-up."""
    repository = tmp_path / "repository"
    outcome = export(source, repository, precision="int8", limits={"max_batch": 3, "max_context": 64})
    assert outcome.models == MODELS
    assert sorted(path.name for path in repository.iterdir()) == sorted(MODELS)
    configs = {model: read_config(repository, model) for model in MODELS}
    for model, config in configs.items():
        assert config.name == model
        assert config.max_batch_size == 0
        assert (repository / model / "1").is_dir()
    chat, tokenizer, ensemble = configs.values()
    assert (chat.backend, tokenizer.backend, ensemble.platform) == ("fathom", "python", "ensemble")
    assert chat.model_transaction_policy.decoupled
    for config in (chat, ensemble):
        assert [tensor.name for tensor in config.input] == [tensor.name for tensor in protocol.GENERATE_INPUTS]
        assert all(tensor.optional for tensor in config.input)
        assert [tensor.name for tensor in config.output] == [tensor.name for tensor in protocol.GENERATE_OUTPUTS]
    for warmup in chat.model_warmup:
        assert warmup.batch_size == 1  # Triton skips 0 silently
        for sent in warmup.inputs.values():
            file = repository / "chat" / "warmup" / sent.input_data_file
            assert file.stat().st_size == 4 * sent.dims[0]
    settings = EngineSettings.load(repository / "chat" / "1")
    assert (settings.limits.max_batch, settings.limits.max_context, settings.graph.max_context) == (3, 64, 64)
    assert settings.eos_token_ids == (1,)


def test_the_passport_tells_source_settings_and_result(source: Path, tmp_path: Path) -> None:
    """Hashes of the source's files, versions, operator sets, the check's figures and the files written are in it."""
    export(source, tmp_path / "repository", dialect="portable")
    passport = json.loads((tmp_path / "repository" / "chat" / "1" / "passport.json").read_text())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(passport["origin"]["source_files"])
    assert passport["origin"]["settings"]["dialect"] == "portable"
    assert passport["origin"]["versions"]["onnx-ir"]
    assert passport["opsets"]["ai.onnx"] == 24
    assert passport["check"]["largest_logit"] > 0
    assert {"chat/1/config.pbtxt", "chat_tokenizer/1/model.py", "chat_ensemble/1/config.pbtxt"} <= set(
        passport["files"]
    )


def test_the_context_is_the_models_own_unless_the_spec_says_less(source: Path, tmp_path: Path) -> None:
    """A model of 128 positions is not exported for the default of 2,048, nor for more than it has."""
    export(source, tmp_path / "repository")
    assert EngineSettings.load(tmp_path / "repository" / "chat" / "1").limits.max_context == 128
    with pytest.raises(InvalidContextError, match="max_context is 129"):
        export(source, tmp_path / "repository", limits={"max_context": 129})


def test_what_is_up_to_date_is_skipped(source: Path, tmp_path: Path) -> None:
    """The same source and settings write nothing; --force does."""
    repository = tmp_path / "repository"
    assert not export(source, repository).was_up_to_date
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    assert export(source, repository).was_up_to_date
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before
    assert not export(source, repository, force=True).was_up_to_date


def test_whatever_changes_the_result_makes_it_anew(source: Path, tmp_path: Path) -> None:
    """A source file's content, a setting, or a file written that was changed or lost since, each cause a new build."""
    repository = tmp_path / "repository"
    export(source, repository)
    config = json.loads((source / "generation_config.json").read_text())
    (source / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [1, 0]}))
    assert not export(source, repository).was_up_to_date
    assert EngineSettings.load(repository / "chat" / "2").eos_token_ids == (1, 0)
    assert not export(source, repository, limits={"max_queue": 7}).was_up_to_date
    (repository / "chat_ensemble" / "3" / "config.pbtxt").write_text("")
    assert not export(source, repository, limits={"max_queue": 7}).was_up_to_date
    shutil.rmtree(repository / "chat_tokenizer")
    assert not export(source, repository, limits={"max_queue": 7}).was_up_to_date
    assert export(source, repository, limits={"max_queue": 7}).was_up_to_date


def spoil_architecture(source: Path) -> None:
    """Name an architecture that there is no builder for."""
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "model_type": "mamba", "architectures": ["Mamba"]}))


def spoil_weights(source: Path) -> None:
    """Cut the weights short."""
    content = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(content[: len(content) // 2])


def leave_pickle_only(source: Path) -> None:
    """Leave weights in a pickle alone."""
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def spoil_tokenizer(source: Path) -> None:
    """Make the tokenizer unreadable."""
    (source / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (spoil_architecture, UnsupportedArchitectureError, "(?i)mamba"),
        (spoil_weights, CheckpointError, r"model\.safetensors is truncated"),
        (leave_pickle_only, CheckpointError, "only pickled weights"),
        (spoil_tokenizer, ExportError, "tokenizer"),
    ],
)
def test_a_source_that_cannot_be_exported_leaves_the_old_model(
    source: Path, tmp_path: Path, spoil: Any, kind: type[ExportError], message: str
) -> None:
    """A bad checkpoint is one clear error; the model that was there stays, and nothing else is left."""
    repository = tmp_path / "repository"
    export(source, repository)
    before = contents(repository)
    spoil(source)
    with pytest.raises(kind, match=message):
        export(source, repository)
    assert contents(repository) == before
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))


def test_a_failed_rename_puts_every_model_back(tmp_path: Path) -> None:
    """If the third of three models cannot be moved in, the first two are taken out and the old ones are back."""
    repository = tmp_path / "repository"
    for name in ("a", "b"):
        (repository / name).mkdir(parents=True)
        (repository / name / "file").write_text("old")
    with staged(repository, "a") as staging:
        for name in ("a", "b"):
            (staging / name).mkdir()
            (staging / name / "file").write_text("new")
        with pytest.raises(FileNotFoundError):
            swap_in(staging, repository, ("a", "b", "missing"))
    assert contents(repository) == {"a/file": b"old", "b/file": b"old"}
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))


def test_staging_that_a_killed_export_left_is_cleared_and_its_swap_undone(tmp_path: Path) -> None:
    """After a kill in the middle of a swap, the next export puts the old model back and removes the rest."""
    repository = tmp_path / "repository"
    (repository / "a").mkdir(parents=True)
    (repository / "a" / "file").write_text("new")
    abandoned = tmp_path / f"{STAGING_PREFIX}a-x"
    abandoned.mkdir()
    (abandoned / ".repository").write_text(str(repository))
    for name, text in ((".retired/a", "old"), ("b", "new")):
        (abandoned / name).mkdir(parents=True)
        (abandoned / name / "file").write_text(text)
    with staged(repository, "a"), staged(repository, "a"):  # the second must leave the first alone
        assert len(list(tmp_path.glob(f"{STAGING_PREFIX}*"))) == 2
    assert contents(repository) == {"a/file": b"old"}
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))


def test_a_repository_that_is_a_mount_point_is_staged_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder beside the repository cannot be written, staging lies in the repository, and goes away."""
    monkeypatch.setattr(staging_module.os, "access", lambda path, mode: False)
    with staged(tmp_path / "repository", "a") as staging:
        assert staging.parent == tmp_path / "repository"
    assert not list((tmp_path / "repository").iterdir())


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from fathom_export.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_cli(*arguments: str | Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run fathom-export in a process of its own."""
    start = ["-c", code] if code else ["-m", "fathom_export.cli"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_disk_that_fills_is_one_line_and_leaves_the_old_model(source: Path, tmp_path: Path) -> None:
    """When no more can be written, the export says so, exits with 2, and the old model is as it was."""
    repository = tmp_path / "repository"
    export(source, repository)
    before = contents(repository)
    flags = ("--name", "chat", "--task", "generate", "--repository", repository, "--force")
    result = run_cli(source, *flags, code=LIMITED.format(limit=100_000))
    assert result.returncode == 2
    assert f"error: the disk of {repository} is full" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(repository) == before
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_small_file_system_that_fills_is_left_empty(source: Path, tmp_path: Path) -> None:
    """The same on a real file system without room: a clear error, and not one file of the model is left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        result = run_cli(source, "--name", "chat", "--task", "generate", "--repository", disk)
        assert result.returncode == 2
        assert f"error: the disk of {disk} is full" in result.stderr
        assert "Traceback" not in result.stderr
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_repository_that_cannot_be_made_is_named(source: Path, tmp_path: Path) -> None:
    """A repository path that runs through a file is an error naming it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="cannot be read or written"):
        export(source, tmp_path / "file" / "repository")


def test_errors_that_are_not_the_disks_come_through(tmp_path: Path) -> None:
    """An error of another kind is not taken for a full disk."""
    with pytest.raises(BlockingIOError), staged(tmp_path / "repository", "a"):
        raise BlockingIOError(errno.EAGAIN, "busy")


INTERRUPTED = """
import os, signal, sys
from fathom_export.cli import main
from fathom_server.engine.settings import EngineSettings
save = EngineSettings.save
def save_and_interrupt(self, folder):
    save(self, folder)
    os.kill(os.getpid(), signal.{name})
EngineSettings.save = save_and_interrupt
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_export_leaves_the_old_model(source: Path, tmp_path: Path, name: str, status: int) -> None:
    """Ctrl-C or SIGTERM in the middle of a build ends with the signal's status and nothing half-written."""
    assert hasattr(signal, name)
    repository = tmp_path / "repository"
    export(source, repository)
    before = contents(repository)
    flags = ("--name", "chat", "--task", "generate", "--repository", repository, "--force")
    result = run_cli(source, *flags, code=INTERRUPTED.format(name=name))
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert contents(repository) == before
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))


def test_a_name_makes_all_the_names(source: Path, tmp_path: Path) -> None:
    """Two LLMs lie beside each other in one repository."""
    repository = tmp_path / "repository"
    spec = GenerateSpec("chat", str(source))
    for each in (spec, replace(spec, name="chat_small")):
        export_model(each, Path(), repository, Quiet())
    assert len(list(repository.iterdir())) == 6
    assert read_config(repository, "chat_small_ensemble").ensemble_scheduling.step[1].model_name == "chat_small"
