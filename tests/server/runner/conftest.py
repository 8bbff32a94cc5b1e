"""Graphs of the `large` example model, each exported once a session."""

from pathlib import Path

import pytest

from fathom_export.decoder import build_decoder, eos_token_ids
from fathom_server.engine.settings import EngineLimits, EngineSettings

LARGE = Path("examples/models/large").resolve()


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a graph and its engine.json, by dialect and precision."""
    folders = {}
    for dialect, precision, context in (
        ("cpu", "fp32", 512),
        ("cpu", "int8", 512),
        ("cpu", "int4", 512),
        ("portable", "fp32", 512),
    ):
        folder = tmp_path_factory.mktemp(f"{dialect}-{precision}")
        graph = build_decoder(LARGE, folder, dialect=dialect, precision=precision, max_context=context)  # type: ignore[arg-type]
        EngineSettings(graph, EngineLimits(max_context=context), eos_token_ids(LARGE)).save(folder)
        folders[f"{dialect} {precision}"] = folder
    return folders
