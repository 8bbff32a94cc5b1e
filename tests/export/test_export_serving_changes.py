"""What a change of serving alone costs, and what lies in a version that no export wrote."""

import json
import shutil
from pathlib import Path

import pytest
from tests.export.test_export_repository import Quiet
from tests.export.test_export_versions import read_config

from fathom_export.cli import main
from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.errors import CheckpointError, SourceError
from fathom_export.export_model import export_model
from fathom_export.repository import encoder_models, generate_models
from fathom_export.sources.folder import MAX_JSON_BYTES, read_json
from fathom_export.spec import EmbedSpec, EncoderServing, GenerateSpec, ModelSpec, Serving


def refuse(*_: object, **__: object) -> None:
    """Nothing is to be built."""
    raise AssertionError("a graph is built")


@pytest.mark.parametrize("task", ["generate", "embed"])
def test_a_change_of_serving_alone_takes_the_graph_that_is_there(
    task: str, tiny_llm: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next version has the same graph and card, without building or judging, and another config.pbtxt."""

    def spec(priority: int, precision: str = "fp32") -> ModelSpec:
        if task == "generate":
            serving = Serving(rate_limit_priority=priority)
            return GenerateSpec("model", str(tiny_llm), precision=precision, serving=serving)  # type: ignore[arg-type]
        encoder = EncoderServing(rate_limit_priority=priority)
        return EmbedSpec("model", str(tiny_bert), precision=precision, serving=encoder)  # type: ignore[arg-type]

    repository = tmp_path / "repository"
    export_model(spec(1), Path(), repository, Quiet(), accept_quality="random weights")
    monkeypatch.setattr(generate_models, "build_decoder", refuse)
    monkeypatch.setattr(encoder_models, "build_encoder", refuse)
    outcome = export_model(spec(2), Path(), repository, Quiet())
    assert (outcome.version, outcome.was_up_to_date) == (2, False)
    model = "model" if task == "generate" else "model_encoder"
    for name in ("model.onnx", "quality.json"):
        assert (repository / model / "1" / name).samefile(repository / model / "2" / name)
    assert read_config(repository, model).instance_group[0].rate_limiter.priority == 2
    assert json.loads((repository / model / "2" / "passport.json").read_text())["version"] == 2
    assert export_model(spec(2), Path(), repository, Quiet()).was_up_to_date
    with pytest.raises(AssertionError, match="a graph is built"):
        export_model(spec(2, "int8"), Path(), repository, Quiet())
    (repository / model / "2" / "model.onnx").unlink()
    (repository / model / "1" / "model.onnx").unlink()
    with pytest.raises(AssertionError, match="a graph is built"):
        export_model(spec(1), Path(), repository, Quiet())


def test_files_that_no_export_wrote_are_told(
    tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stray file in a served version is a difference; what Python compiled and a plan are none."""
    shutil.copytree(tiny_llm, tmp_path / "source")
    bundle = tmp_path / "bundle.toml"
    bundle.write_text('[[models]]\nname = "chat"\nsource = "source"\ntask = "generate"\nquality = { effort = "off" }\n')
    assert main([str(bundle)]) == 0
    version = tmp_path / "model_repository" / "chat" / "1"
    for name in ("model.plan", "plan.json", "__pycache__/model.cpython-311.pyc"):
        (version / name).parent.mkdir(exist_ok=True)
        (version / name).write_bytes(b"0")
    capsys.readouterr()
    assert main(["--check", str(bundle)]) == 0, capsys.readouterr().out
    (version / "notes.txt").write_text("mine")
    assert main(["--check", str(bundle)]) == 1
    assert "chat: file chat/1/notes.txt: was not written by the export" in capsys.readouterr().out


def test_json_of_a_checkpoint_is_bounded(tiny_llm: Path, tmp_path: Path) -> None:
    """A config or an index of gigabytes is refused by its size, unread."""
    folder = Path(shutil.copytree(tiny_llm, tmp_path / "source"))
    with (folder / "config.json").open("r+b") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(SourceError, match="at most 67108864 are read"):
        read_json(folder / "config.json")
    with pytest.raises(CheckpointError, match="at most 67108864 are read"):
        DecoderArchitecture.load(folder)
