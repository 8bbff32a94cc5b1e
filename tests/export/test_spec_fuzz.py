"""Readers of what comes from elsewhere, fed with random and mutated files: an error of ours, or a result."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fathom_export.decoder import DecoderArchitecture, eos_token_ids
from fathom_export.decoder.checkpoint import Checkpoint
from fathom_export.errors import ExportError
from fathom_export.passport import Passport
from fathom_export.sources.folder import check_model_folder, read_json
from fathom_export.spec import read_bundle
from fathom_server.text.tokenizer import TextError, TextTokenizer

ROOT = Path(__file__).parents[2]
REFUSALS = (ExportError, TextError)

fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**9), st.just(-1), st.just(1 << 70),
    st.floats(), st.text(max_size=12), st.just("../../etc/passwd"), st.just(""),
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """A real file with some bytes replaced, removed, doubled, or its end cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(("replace", "remove", "insert", "cut")))
        if kind == "replace":
            changed[at : at + 1] = draw(st.binary(min_size=1, max_size=3))
        elif kind == "remove":
            del changed[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            changed[at:at] = draw(st.sampled_from((b"[" * 3000, b"{", b'"', b"-", b"9" * 5000, b"\xff", b"\x00")))
        elif draw(st.booleans()):
            del changed[at:]
    return bytes(changed)


@st.composite
def with_other_values(draw: st.DrawFn, config: dict[str, Any]) -> bytes:
    """A real JSON object some of whose values are others, or gone."""
    changed = dict(config)
    for key in draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        if draw(st.integers(0, 4)):
            changed[key] = draw(JSON)
        else:
            changed.pop(key, None)
    return json.dumps(changed).encode()


def refused_or_read(read: Callable[[], object]) -> None:
    """Read; whatever is raised must be a refusal that says something in one line."""
    message = "read"
    try:
        read()
    except REFUSALS as error:
        message = str(error)
    assert message.strip()


@pytest.fixture(scope="module")
def folder(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny LLM whose files are overwritten."""
    return Path(shutil.copytree(tiny_llm, tmp_path_factory.mktemp("fuzz") / "model"))


def try_config(folder: Path, content: bytes) -> None:
    """Read this as config.json, as every part of an export does."""
    (folder / "config.json").write_bytes(content)
    refused_or_read(lambda: check_model_folder(folder))
    refused_or_read(lambda: read_json(folder / "config.json"))
    refused_or_read(lambda: DecoderArchitecture.load(folder))
    refused_or_read(lambda: eos_token_ids(folder))


@fuzz
@given(data=st.data())
def test_config_json(folder: Path, tiny_llm: Path, data: st.DataObject) -> None:
    """Random bytes, mutated files and absurd values in config.json are refused or read."""
    real = (tiny_llm / "config.json").read_bytes()
    content = data.draw(st.binary(max_size=60) | mutated(real) | with_other_values(json.loads(real)))
    try_config(folder, content)


@fuzz
@given(data=st.data())
def test_safetensors(folder: Path, tiny_llm: Path, data: st.DataObject) -> None:
    """Headers that lie about lengths, offsets and shapes are refused or read, without the weights."""
    real = (tiny_llm / "model.safetensors").read_bytes()
    length = int.from_bytes(real[:8], "little")
    header = data.draw(mutated(real[8 : 8 + length]) | with_other_values(json.loads(real[8 : 8 + length])))
    size = data.draw(st.sampled_from((len(header), length, 0, max(0, len(header) - 1), 1 << 40, (1 << 64) - 1)))
    body = data.draw(st.binary(max_size=40) | st.just(real[8 + length :]))
    content = data.draw(st.sampled_from((b"", size.to_bytes(8, "little", signed=False)))) + header + body
    (folder / "model.safetensors").write_bytes(content)
    refused_or_read(lambda: Checkpoint.open(folder))


@fuzz
@given(data=st.data())
def test_index_of_shards(folder: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """An index that names what is not there, or what lies elsewhere, is refused or read."""
    shards = st.sampled_from(("a.safetensors", "../a.safetensors", "/etc/passwd", "", ".", "a\x00b", "a\\b")) | SCALARS
    index = {"weight_map": data.draw(JSON | st.dictionaries(st.text(max_size=5), shards, max_size=4))}
    target = folder.parent / "sharded"
    target.mkdir(exist_ok=True)
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    refused_or_read(lambda: Checkpoint.open(target))


@fuzz
@given(data=st.data())
def test_tokenizer_config(folder: Path, tiny_llm: Path, data: st.DataObject) -> None:
    """A tokenizer_config.json of any content gives a tokenizer that renders or refuses, or none."""
    real = (tiny_llm / "tokenizer_config.json").read_bytes()
    content = data.draw(st.binary(max_size=60) | mutated(real) | with_other_values(json.loads(real)))
    (folder / "tokenizer_config.json").write_bytes(content)
    refused_or_read(lambda: TextTokenizer.load(folder).render([{"role": "user", "content": "hello"}]))


@fuzz
@given(template=st.text(alphabet="{}%-+*~|()[]'\"ab1 ._=,forendisetmacro", max_size=40))
def test_chat_templates(folder: Path, tiny_llm: Path, template: str) -> None:
    """Any text as a template renders or is refused."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    shutil.copyfile(tiny_llm / "tokenizer_config.json", folder / "tokenizer_config.json")
    refused_or_read(lambda: TextTokenizer.load(folder).render([{"role": "user", "content": "hello"}]))


@fuzz
@given(data=st.data())
def test_bundle_toml(tmp_path_factory: pytest.TempPathFactory, folder: Path, data: st.DataObject) -> None:
    """Random bytes and mutated bundles are refused or read."""
    real = (ROOT / "bundle.toml").read_bytes()
    path = folder.parent / "bundle.toml"
    path.write_bytes(data.draw(st.binary(max_size=60) | mutated(real)))
    refused_or_read(lambda: read_bundle(path))


@fuzz
@given(value=JSON)
def test_passports(folder: Path, value: object) -> None:
    """A passport of any form is a passport or none."""
    keys = ("models", "version", "precision", "dialect", "opsets", "check", "created", "files")
    path = folder.parent / "passport.json"
    path.write_text(json.dumps({"origin": value, **dict.fromkeys(keys, value)}))
    passport = Passport.load(path)
    assert passport is None or isinstance(passport.files, dict)
