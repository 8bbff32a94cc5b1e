"""An fp8 plan: built from a graph that quantises itself, and run."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from tests.export.tensorrt.played_tensorrt import PlayedTensorRT

from fathom_export.cli import main
from fathom_server.engine.plan_passport import PlanPassport
from fathom_server.engine.runner.base import StepRow
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.runner.slots import SlotRunnerAdapter
from fathom_server.engine.runner.tensorrt import TensorRTRunner
from fathom_server.engine.settings import EngineSettings


def test_an_fp8_graph_becomes_an_fp8_plan(played: PlayedTensorRT, exported_fp8: Path, tmp_path: Path) -> None:
    """Without a flag the plan takes the graph's precision; it is built of the graph itself and gives finite logits."""
    repository = Path(shutil.copytree(exported_fp8, tmp_path / "models"))
    folder = repository / "chatfp8" / "1"
    weights = onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer
    assert any(weight.data_type == onnx.TensorProto.FLOAT8E4M3FN for weight in weights)
    assert main(["plan", "chatfp8", "--repository", str(repository)]) == 0
    assert PlanPassport.load(folder / "plan.json").options.precision == "fp8"
    runner = load_runner(folder, EngineSettings.load(folder))
    assert isinstance(runner, SlotRunnerAdapter)
    assert isinstance(runner.runner, TensorRTRunner)
    logits = runner.step([StepRow([0], 0, [5, 6, 7, 8], 1)])
    assert np.isfinite(logits).all()
    assert logits.std() > 0
    runner.close()
