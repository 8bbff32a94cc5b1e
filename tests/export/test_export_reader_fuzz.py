"""More readers of what comes from elsewhere: settings, plans' passports, tokenizers, questions, encoders, texts."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.models import Dense, Normalize, Pooling
from tests.export.encoder_checkpoints import write_checkpoint, write_sentence_model
from tests.export.test_spec_fuzz import JSON, fuzz, mutated, refused_or_read, with_other_values

from fathom_export.encoder import EncoderForm
from fathom_export.errors import ExportError
from fathom_export.quality.held_out import read_held_out
from fathom_export.quality.text import read_text as read_evaluation_text
from fathom_export.quantise.calibration_text import read_text
from fathom_export.tensorrt.subject import find_subject
from fathom_server.engine.plan_passport import (
    PlanOptions,
    PlanPassport,
    PlanProfile,
    PlanRuntime,
    PlanUse,
    ShapeRange,
    plan_fault,
)
from fathom_server.engine.settings import EngineLimits, EngineSettings, GraphDescription
from fathom_server.errors import SettingsError
from fathom_server.text.tokenizer import MAX_TOKENIZER_BYTES, TextError, TextTokenizer

ROOT = Path(__file__).parents[2]
RUNTIME = PlanRuntime("11.4.0", "13.0", "13.0", (9, 0), "NVIDIA H100")
FORM = GraphDescription("portable", "fp16", 2, 1, 16, 300, 64, "float16")


@pytest.fixture(scope="module")
def llm(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny LLM whose files are overwritten."""
    return Path(shutil.copytree(tiny_llm, tmp_path_factory.mktemp("reader-fuzz") / "model"))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence model with every kind of module, and a classifier; their JSON files are overwritten."""
    folder = tmp_path_factory.mktemp("encoder-fuzz")
    plain = write_checkpoint(folder / "plain", "bert")
    write_sentence_model(folder / "embed", plain, [Pooling(32), Dense(32, 16), Normalize()])
    labels = {0: "glad", 1: "sad"}
    write_checkpoint(folder / "classify", "bert", "ForSequenceClassification", num_labels=2, id2label=labels)
    return folder


@fuzz
@given(data=st.data())
def test_engine_json(llm: Path, data: st.DataObject) -> None:
    """Any engine.json is settings or a SettingsError."""
    EngineSettings(FORM, EngineLimits(max_context=64), (1, 2)).save(llm)
    real = (llm / "engine.json").read_bytes()
    parts = json.loads(real)
    part = data.draw(st.sampled_from(("graph", "limits")))
    inner = data.draw(with_other_values(parts[part]))
    content = data.draw(
        st.binary(max_size=60)
        | mutated(real)
        | with_other_values(parts)
        | st.just(json.dumps({**parts, part: json.loads(inner)}).encode())
    )
    (llm / "engine.json").write_bytes(content)
    message = "read"
    try:
        EngineSettings.load(llm)
    except SettingsError as error:
        message = str(error)
    assert message.strip()


@fuzz
@given(data=st.data())
def test_plan_json(llm: Path, data: st.DataObject) -> None:
    """Any plan.json is a passport that can be held against this machine, or a SettingsError with the command."""
    profile = PlanProfile("decode", {"input_ids": ShapeRange((1, 1), (4, 1), (8, 1))})
    path = llm / "plan.json"
    PlanPassport(RUNTIME, PlanOptions(), "a" * 64, None, (profile,), 7, "2026-01-01").save(path)
    real = path.read_bytes()
    parts = json.loads(real)
    part = data.draw(st.sampled_from(("built_with", "options")))
    inner = data.draw(with_other_values(parts[part]))
    content = data.draw(
        st.binary(max_size=60)
        | mutated(real)
        | with_other_values(parts)
        | st.just(json.dumps({**parts, part: json.loads(inner)}).encode())
    )
    path.write_bytes(content)
    use = PlanUse(RUNTIME, needed_shapes=({"input_ids": (2, 1)},))
    try:
        message = plan_fault(PlanPassport.load(path), use, "fathom-export plan chat") or "fathom-export plan"
    except SettingsError as error:
        message = str(error)
    assert "fathom-export plan" in message


@fuzz
@given(data=st.data())
def test_tokenizer_json(llm: Path, tiny_llm: Path, data: st.DataObject) -> None:
    """A tokenizer.json of any content gives ids for a text, or is refused."""
    shutil.copyfile(tiny_llm / "tokenizer_config.json", llm / "tokenizer_config.json")
    real = (tiny_llm / "tokenizer.json").read_bytes()
    content = data.draw(st.binary(max_size=60) | mutated(real) | with_other_values(json.loads(real)))
    (llm / "tokenizer.json").write_bytes(content)
    refused_or_read(lambda: TextTokenizer.load(llm).encode("hello there"))


def test_bombs_are_refused_by_size_or_depth(llm: Path, tiny_llm: Path) -> None:
    """A tokenizer of gigabytes is refused unread; one nested without end is refused without a crash."""
    path = llm / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(TextError, match="at most"):
        TextTokenizer.load(llm)
    for bomb in (b"[" * 200_000, b'{"model":' * 100_000, b'{"version":"1.0","model":' + b"[" * 100_000):
        path.write_bytes(bomb)
        with pytest.raises(TextError, match="is not a tokenizer"):
            TextTokenizer.load(llm)
    shutil.copyfile(tiny_llm / "tokenizer.json", path)


@fuzz
@given(data=st.data())
def test_held_out_questions(llm: Path, data: st.DataObject) -> None:
    """Rows of any form are read or refused by their line."""
    row = {"id": "1", "task": "sum", "messages": [{"role": "user", "content": "1+1"}], "answer": "2", "checker": "text"}
    content = data.draw(st.binary(max_size=60) | mutated(json.dumps(row).encode()) | with_other_values(row))
    (llm / "held_out.jsonl").write_bytes(content)
    refused_or_read(lambda: read_held_out(llm / "held_out.jsonl"))


@fuzz
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.just(b"caf\xc3" * 40))
def test_texts_to_calibrate_and_judge_on(llm: Path, tiny_llm: Path, content: bytes) -> None:
    """Any file is text with enough tokens, or refused; characters may be cut at its end."""
    path = llm / "text.txt"
    path.write_bytes(content)
    refused_or_read(lambda: read_text(path, tiny_llm, 16))
    refused_or_read(lambda: read_evaluation_text(path))


@fuzz
@given(data=st.data())
def test_an_encoders_configs(encoders: Path, data: st.DataObject) -> None:
    """Configs, lists of modules and modules' configs of any form are a form of graph, or refused."""
    task = data.draw(st.sampled_from(("embed", "classify")))
    folder = encoders / task
    path = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*.json") if path.name != "tokenizer.json")))
    real = path.read_bytes()
    parsed = json.loads(real)
    others = (
        with_other_values(parsed) if isinstance(parsed, dict) and parsed else JSON.map(lambda v: json.dumps(v).encode())
    )
    path.write_bytes(data.draw(st.binary(max_size=60) | mutated(real) | others))
    try:
        refused_or_read(lambda: EncoderForm.load(folder, task))  # type: ignore[arg-type]
        refused_or_read(lambda: EncoderForm.load(folder, "rerank"))
    finally:
        path.write_bytes(real)


@fuzz
@given(content=st.binary(max_size=80) | st.text(alphabet='backend: "{}[]\n01_abc', max_size=80).map(str.encode))
def test_config_pbtxt_of_a_repository(tmp_path_factory: pytest.TempPathFactory, llm: Path, content: bytes) -> None:
    """A plan is refused in a sentence where a config.pbtxt is none."""
    repository = llm.parent / "repository"
    version = repository / "m_encoder" / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.onnx").write_bytes(b"")
    (repository / "m_encoder" / "config.pbtxt").write_bytes(content)
    with pytest.raises(ExportError):
        find_subject("m", repository, None)
