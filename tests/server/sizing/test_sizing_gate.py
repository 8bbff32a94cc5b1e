"""``fathom-serve`` refuses a repository that cannot fit, with the breakdown and what would."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fathom_server.cli import main
from fathom_server.engine.settings import EngineLimits, EngineSettings, GraphDescription
from fathom_server.errors import SettingsError
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.gate import SWITCH, check_memory, engine_memory, nearest_settings
from fathom_server.sizing.memory import EngineMemory
from fathom_server.sizing.shape import DecoderShape, StoredModel

MIB = 1 << 20
SHAPE = DecoderShape(hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49152)


def write_llm(model: Path, limits: EngineLimits, *, stored: StoredModel | None, precision: str = "fp32") -> Path:
    """A model's folder with all that the gate reads: its config, and the engine's settings in version 1."""
    version = model / "1"
    version.mkdir(parents=True)
    (model / "config.pbtxt").write_text('name: "chat"\nbackend: "fathom"\ninstance_group { count: 1 }\n')
    graph = GraphDescription("cpu", precision, SHAPE.layers, SHAPE.kv_heads, SHAPE.head_dim, SHAPE.vocabulary, 2048)
    EngineSettings(graph, limits, stored=stored).save(version)
    return version


def test_settings_keep_the_sizes(tmp_path: Path) -> None:
    """What export writes for the arithmetic comes back from engine.json, windows and all; older files have none."""
    stored = StoredModel(replace(SHAPE, windows=(512, 0)), 128, zero_points=True)
    version = write_llm(tmp_path / "chat", EngineLimits(), stored=stored)
    assert EngineSettings.load(version).stored == stored
    older = write_llm(tmp_path / "older", EngineLimits(), stored=None)
    assert EngineSettings.load(older).stored is None
    assert engine_memory(older) == []


def test_what_fits_is_let_through_and_what_does_not_is_refused_with_settings_that_do(tmp_path: Path) -> None:
    """The refusal names parts and a batch; with that batch the same repository is let through."""
    write_llm(tmp_path / "chat", EngineLimits(max_batch=16), stored=StoredModel(SHAPE))
    check_memory(tmp_path, ["chat"], limit=8 << 30)
    limit = 1500 * MIB
    with pytest.raises(SettingsError, match=r"take up to .* GiB, and there are 1.5 GiB of memory: chat") as refused:
        check_memory(tmp_path, ["chat"], limit=limit)
    said = str(refused.value)
    assert "weights 62" in said
    assert "KV cache 1.4 GiB" in said
    batch = int(re.findall(r"limits\.max_batch = (\d+) instead of 16", said)[0])
    for allowed, fits in ((batch, True), (batch + 1, False)):
        other = tmp_path / f"with-{allowed}"
        write_llm(other / "chat", EngineLimits(max_batch=allowed), stored=StoredModel(SHAPE))
        if fits:
            check_memory(other, ["chat"], limit=limit)
        else:
            with pytest.raises(SettingsError):
                check_memory(other, ["chat"], limit=limit)


def test_every_model_of_the_repository_counts(tmp_path: Path) -> None:
    """Two that fit alone do not fit together; an encoder counts by its file, an ensemble not at all."""
    for name in ("one", "two"):
        write_llm(tmp_path / name, EngineLimits(max_batch=1), stored=StoredModel(SHAPE))
    check_memory(tmp_path, ["one"], limit=1200 * MIB)
    with pytest.raises(SettingsError, match=r"one .*; two "):
        check_memory(tmp_path, ["one", "two"], limit=1200 * MIB)
    encoder, ensemble = tmp_path / "encoder", tmp_path / "ensemble"
    for folder, line in ((encoder, 'backend: "onnxruntime"'), (ensemble, 'platform: "ensemble"')):
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(line)
    with (encoder / "1" / "model.onnx").open("wb") as file:
        file.truncate(3 << 30)
    check_memory(tmp_path, ["ensemble"], limit=100 * MIB)
    with pytest.raises(SettingsError, match=r"encoder 3.0 GiB \(weights 3.0 GiB\)"):
        check_memory(tmp_path, ["ensemble", "encoder"], limit=2 << 30)


def test_the_version_that_is_served_counts(tmp_path: Path) -> None:
    """A version policy that names version 1 leaves a larger version 2 out."""
    write_llm(tmp_path / "chat", EngineLimits(max_batch=1), stored=StoredModel(SHAPE))
    later = EngineSettings.load(tmp_path / "chat" / "1")
    (tmp_path / "chat" / "2").mkdir()
    replace(later, limits=EngineLimits(max_batch=4096)).save(tmp_path / "chat" / "2")
    with pytest.raises(SettingsError):
        check_memory(tmp_path, ["chat"], limit=4 << 30)
    with (tmp_path / "chat" / "config.pbtxt").open("a") as file:
        file.write("version_policy { specific { versions: 1 } }\n")
    check_memory(tmp_path, ["chat"], limit=4 << 30)


def test_a_model_that_cannot_be_read_is_left_to_itself(tmp_path: Path) -> None:
    """The gate is no reader of broken models: those fail to load by themselves."""
    version = write_llm(tmp_path / "chat", EngineLimits(), stored=StoredModel(SHAPE))
    (version / "engine.json").write_text("{")
    check_memory(tmp_path, ["chat"], limit=1 << 30)


def test_the_command_refuses_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache larger than any machine: one line, exit status 2, and the switch lets it pass."""
    write_llm(tmp_path / "chat", EngineLimits(max_batch=1 << 24), stored=StoredModel(SHAPE))
    assert main([str(tmp_path), "--ports", "auto"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: the models of {tmp_path} take up to")
    assert "what fits: limits.max_batch = " in line
    monkeypatch.setenv(SWITCH, "0")
    check_memory(tmp_path, ["chat"], limit=1)


@pytest.mark.parametrize(
    ("kv_dtype", "room_mib", "said"),
    [
        ("float32", 1200, "limits.kv_cache_dtype = int8 instead of float32"),
        ("int8", 500, "limits.kv_cache_tokens = "),
        ("int8", 350, "limits.max_batch = 1 and limits.max_context = "),
        ("int8", 100, "no limit makes it fit, for without a cache it takes"),
    ],
)
def test_the_nearest_settings(kv_dtype: str, room_mib: int, said: str) -> None:
    """A smaller cache, a smaller batch, a smaller type, a shorter context; in the end nothing helps."""
    engine = EngineMemory(SHAPE, EngineForm("int8", "native", kv_dtype=kv_dtype), EngineLimits(), 2048)
    assert engine.full().total > room_mib * MIB
    assert said in nearest_settings(engine, room_mib * MIB)
