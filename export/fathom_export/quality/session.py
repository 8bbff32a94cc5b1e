"""Sessions of ONNX Runtime's CPU provider in which a graph is judged."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fathom_export.errors import ParityError
from fathom_export.onnxruntime_options import FLOAT8_OPTION, WEIGHTS_FOLDER_OPTION
from fathom_server.engine.settings import NATIVE_GRAPH_FILE

if TYPE_CHECKING:
    import onnxruntime


def session_options(precision: str) -> dict[str, str]:
    """Options without which ONNX Runtime's CPU provider does not execute a graph of this precision."""
    return {FLOAT8_OPTION: "1"} if precision == "fp8" else {}


def open_session(
    graph: Path | bytes, weights: Path, options: Mapping[str, str], threads: int = 0
) -> "onnxruntime.InferenceSession":
    """A session over a graph's file, or over a changed graph whose weights lie in the folder ``weights``.

    ``threads`` 0 is every core. Raises ParityError where ONNX Runtime refuses the graph.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    settings.log_severity_level = 3
    # without VNNI instructions, products of u8 and s8 could overflow their 16-bit sums
    # and several models take turns here: threads that spin between runs would keep the others' from their cores
    entries = {"session.x64quantprecision": "1", "session.intra_op.allow_spinning": "0", **options}
    if isinstance(graph, bytes):
        entries[WEIGHTS_FOLDER_OPTION] = str(weights)
    for name, value in entries.items():
        settings.add_session_config_entry(name, value)
    if isinstance(graph, Path) and graph.name == NATIVE_GRAPH_FILE:
        from fathom_server.native.library import register

        register(settings)
    try:
        content = graph if isinstance(graph, bytes) else str(graph)
        return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises types of its own
        raise ParityError(
            f"the graph in {weights} cannot be judged, for ONNX Runtime {onnxruntime.__version__} does not load it: "
            f"{error}"
        ) from error
