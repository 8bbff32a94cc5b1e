"""Ctrl-C at any moment of an export or a switch: the repository is as before, or as after, never between."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fathom_export.export_model import export_model
from fathom_export.repository.staging import STAGING_PREFIX
from fathom_export.repository.versions import edited_configs, kept_versions, served_version
from fathom_export.spec import GenerateSpec

MODELS = ("chat", "chat_tokenizer", "chat_ensemble")

INTERRUPTED = """
import importlib, os, signal, sys
from pathlib import Path
from fathom_export.cli import main
place, count = sys.argv[1], int(sys.argv[2])
module, _, path = place.partition(":")
owner = importlib.import_module(module)
*outer, name = path.split(".")
for part in outer:
    owner = getattr(owner, part)
function = getattr(owner, name)
calls = 0
def interrupted(*arguments, **values):
    global calls
    calls += 1
    result = function(*arguments, **values)
    if calls == count:
        print("interrupting", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGINT)
    return result
setattr(owner, name, interrupted)
sys.exit(main(sys.argv[3:]))
"""


class Quiet:
    """A reporter that shows nothing."""

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter``."""

    def advance(self, done: int, total: int) -> None:
        """See ``Reporter``."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two versions of chat; do not change it."""
    repository = tmp_path_factory.mktemp("built") / "repository"
    for queue in (1, 2):
        export_model(GenerateSpec("chat", str(tiny_llm), limits={"max_queue": queue}), Path(), repository, Quiet())
    return repository


@pytest.fixture
def repository(built: Path, tmp_path: Path) -> Path:
    """Such a repository to change."""
    return Path(shutil.copytree(built, tmp_path / "repository"))


def run(place: str, count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run fathom-export and interrupt it right after the n-th call of a function."""
    command = [sys.executable, "-c", INTERRUPTED, place, str(count), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


PLACES = [
    ("fathom_export.sources:resolve_source", 1),
    ("fathom_export.sources.folder:hash_file", 3),
    ("fathom_server.text.tokenizer:TextTokenizer.load", 1),
    ("fathom_export.decoder.architecture:DecoderArchitecture.load", 1),
    ("fathom_server.engine.settings:EngineSettings.save", 1),
    ("fathom_export.repository.model_config:write_config", 2),
    ("fathom_export.repository.versions:number_models", 1),
    ("fathom_export.passport:Passport.save", 1),
    ("fathom_export.repository.versions:arrange", 1),
    ("shutil:rmtree", 1),
    *(("pathlib:Path.rename", count) for count in (1, 3, 6, 7, 8, 9, 10, 11)),  # 5 number the models, 6 move them
]


@pytest.mark.parametrize(("place", "count"), PLACES)
def test_an_interrupted_export_is_before_or_after(repository: Path, tiny_llm: Path, place: str, count: int) -> None:
    """Wherever the signal comes, every model has the same whole versions, one is served, and nothing lies about."""
    before = contents(repository)
    flags = ("--name", "chat", "--task", "generate", "--max-queue", "3", "--keep-versions", "3")
    result = run(place, count, str(tiny_llm), *flags, "--repository", str(repository))
    assert "interrupting" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 130
    kept, served = kept_versions(repository, MODELS), served_version(repository, MODELS)
    assert (kept, served) in (((1, 2), 2), ((1, 2, 3), 3))
    assert served is not None
    assert not edited_configs(repository, MODELS, served)
    if served == 2:
        assert contents(repository) == before
    assert not list(repository.parent.glob(f"{STAGING_PREFIX}*"))


@pytest.mark.parametrize("count", range(1, 7))
def test_an_interrupted_switch_is_before_or_after(repository: Path, count: int) -> None:
    """The same of a rollback, at each of its renames."""
    before = contents(repository)
    result = run("pathlib:Path.rename", count, "--rollback", "chat", "--repository", str(repository))
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
    served = served_version(repository, MODELS)
    assert served in (1, 2)
    assert not edited_configs(repository, MODELS, served)
    if served == 2:
        assert contents(repository) == before
    assert not list(repository.parent.glob(f"{STAGING_PREFIX}*"))
