"""Which runner a version's folder asks for."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fathom_server.engine.plan_passport import PLAN_FILE
from fathom_server.engine.runner.base import Runner
from fathom_server.engine.settings import GRAPH_FILE, NATIVE_GRAPH_FILE, EngineSettings
from fathom_server.native.library import library_path
from fathom_server.processor import has_avx2

logger: Final = logging.getLogger("fathom.engine")


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
        return _native_runner(folder, settings, session_entries)
    if settings.fast_lane:
        logger.warning(
            "%s has a lane in %s, which needs Fathom's operators; they are not built here or turned off, so %s answers "
            "alone",
            folder,
            settings.fast_lane,
            settings.graph.precision,
        )
    from fathom_server.engine.runner.slots import SlotRunnerAdapter

    if has_plan:
        from fathom_server.engine.runner.tensorrt import TensorRTRunner

        return SlotRunnerAdapter(TensorRTRunner(folder, settings), settings)
    from fathom_server.engine.runner.onnx import OnnxRunner

    return SlotRunnerAdapter(OnnxRunner(folder, settings, session_entries), settings)


def _native_runner(folder: Path, settings: EngineSettings, session_entries: Mapping[str, str] | None) -> Runner:
    """The native graph's runner, with its fast lane if it has one: two sets of weights over one cache."""
    from fathom_server.engine.runner.lanes import LaneRunner
    from fathom_server.engine.runner.native import NativeRunner

    main = NativeRunner(folder, settings, session_entries)
    if not settings.fast_lane:
        return main
    fast_folder = folder / settings.fast_lane
    graph = EngineSettings.load(fast_folder).graph
    fast = NativeRunner(fast_folder, replace(settings, graph=graph), session_entries, main.cache)
    return LaneRunner((main, fast), (settings.graph.precision, graph.precision))


def served_graph(folder: Path) -> str:
    """The graph's file that is served from a folder without a plan.

    It is the native one where the folder has one and Fathom's operators are built here and not turned off; without AVX2
    their plain form is right but slower than the stock graph.
    """
    has_native = (folder / NATIVE_GRAPH_FILE).is_file() and library_path() is not None and has_avx2()
    return NATIVE_GRAPH_FILE if has_native else GRAPH_FILE
