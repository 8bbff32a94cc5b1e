"""Which runner a version's folder asks for."""

from pathlib import Path

from fathom_server.engine.plan_passport import PLAN_FILE
from fathom_server.engine.runner.base import Runner
from fathom_server.engine.settings import EngineSettings


def load_runner(folder: Path, settings: EngineSettings) -> Runner:
    """The runner of ``model.plan`` if the folder holds one, else that of ``model.onnx``.

    Raises SettingsError or DeviceError where it cannot be loaded.
    """
    from fathom_server.engine.runner.slots import SlotRunnerAdapter

    if (folder / PLAN_FILE).is_file():
        from fathom_server.engine.runner.tensorrt import TensorRTRunner

        return SlotRunnerAdapter(TensorRTRunner(folder, settings), settings)
    from fathom_server.engine.runner.onnx import OnnxRunner

    return SlotRunnerAdapter(OnnxRunner(folder, settings), settings)
