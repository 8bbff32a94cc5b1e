"""An export of the cuda dialect where there is no GPU: whole, unjudged, and refused by the engine in one sentence."""

import json
from pathlib import Path

import onnxruntime as ort
import pytest

from fathom_export.cli import main
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.settings import GRAPH_FILE, SAMPLING_GRAPH_FILE, EngineSettings
from fathom_server.errors import SettingsError

SMALL = Path(__file__).parents[2] / "examples" / "models" / "small"

pytestmark = pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is here")


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_it_is_written_whole_and_says_that_nobody_judged_it(precision: str, tmp_path: Path) -> None:
    """Both graphs, settings and passport are there; the card says why nothing was measured."""
    flags = ["--name", "chat", "--task", "generate", "--dialect", "cuda", "--precision", precision]
    assert main([str(SMALL), *flags, "--max-context", "256", "--repository", str(tmp_path / "models")]) == 0
    version = tmp_path / "models" / "chat" / "1"
    settings = EngineSettings.load(version)
    assert (settings.graph.dialect, settings.graph.precision) == ("cuda", precision)
    passport = json.loads((version / "passport.json").read_text())
    assert {Path(name).name for name in passport["files"]} >= {GRAPH_FILE, SAMPLING_GRAPH_FILE, "model.onnx.data"}
    assert passport["check"] == {}
    (note,) = json.loads((version / "quality.json").read_text())["notes"]
    assert "CUDAExecutionProvider" in note
    with pytest.raises(SettingsError, match="CUDAExecutionProvider"):
        load_runner(version, settings)


def test_settings_that_have_no_effect_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calibration goes with the portable dialect's fp8, not with weights alone."""
    flags = ["--name", "chat", "--task", "generate", "--dialect", "cuda", "--precision", "fp8"]
    assert main([str(SMALL), *flags, "--calibration-method", "mse", "--repository", str(tmp_path / "models")]) != 0
    assert "precision fp8 of the portable dialect" in capsys.readouterr().err
