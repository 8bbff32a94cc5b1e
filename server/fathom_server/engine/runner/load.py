"""Which runner a version's folder asks for."""

from collections.abc import Mapping
from pathlib import Path

from fathom_server.engine.plan_passport import PLAN_FILE
from fathom_server.engine.runner.base import Runner
from fathom_server.engine.settings import GRAPH_FILE, NATIVE_GRAPH_FILE, EngineSettings
from fathom_server.native.library import library_path
from fathom_server.processor import has_avx2


def load_runner(folder: Path, settings: EngineSettings, session_entries: Mapping[str, str] | None = None) -> Runner:
    """The runner of ``model.plan`` if the folder holds one, else of the graph that ``served_graph`` names.

    A graph of the cuda dialect runs on the first visible GPU, others on the CPU.

    ``session_entries`` are further session options of ONNX Runtime by name. Raises SettingsError or DeviceError where
    the model cannot be loaded.
    """
    has_plan = (folder / PLAN_FILE).is_file()
    if not has_plan and settings.graph.dialect == "cuda":
        from fathom_server.engine.runner.cuda_onnx import CudaOnnxRunner

        return CudaOnnxRunner(folder, settings, session_entries)
    if not has_plan and served_graph(folder) == NATIVE_GRAPH_FILE:
        from fathom_server.engine.runner.native import NativeRunner

        return NativeRunner(folder, settings, session_entries)
    from fathom_server.engine.runner.slots import SlotRunnerAdapter

    if has_plan:
        from fathom_server.engine.runner.tensorrt import TensorRTRunner

        return SlotRunnerAdapter(TensorRTRunner(folder, settings), settings)
    from fathom_server.engine.runner.onnx import OnnxRunner

    return SlotRunnerAdapter(OnnxRunner(folder, settings, session_entries), settings)


def served_graph(folder: Path) -> str:
    """The graph's file that is served from a folder without a plan.

    It is the native one where the folder has one and Fathom's operators are built here and not turned off; without AVX2
    their plain form is right but slower than the stock graph.
    """
    has_native = (folder / NATIVE_GRAPH_FILE).is_file() and library_path() is not None and has_avx2()
    return NATIVE_GRAPH_FILE if has_native else GRAPH_FILE
