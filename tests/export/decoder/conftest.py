"""Checkpoints and graphs, each made once a session."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.export.decoder.checkpoints import VOCABULARY, write_checkpoint

from fathom_export.decoder import DecoderDialect, DecoderPrecision, build_decoder
from fathom_server.engine.settings import GraphDescription

BuiltGraph = tuple[Path, GraphDescription]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a checkpoint by its kind; tests must not change it."""
    folders: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = write_checkpoint(kind, tmp_path_factory.mktemp(kind))
        return folders[kind]

    return make


@pytest.fixture(scope="session")
def graph(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str, DecoderDialect, DecoderPrecision], BuiltGraph]:
    """Gives the folder and description of a checkpoint's graph."""
    graphs: dict[tuple[str, str, str], BuiltGraph] = {}

    def make(kind: str, dialect: DecoderDialect, precision: DecoderPrecision) -> BuiltGraph:
        key = (kind, dialect, precision)
        if key not in graphs:
            folder = tmp_path_factory.mktemp("-".join(key))
            graphs[key] = (folder, build_decoder(checkpoint(kind), folder, dialect=dialect, precision=precision))
        return graphs[key]

    return make


def prompt(length: int, seed: int) -> list[int]:
    """Random token ids."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCABULARY, length)]


@pytest.fixture
def prompts() -> list[list[int]]:
    """Six prompts of different lengths."""
    return [prompt(length, seed) for seed, length in enumerate((5, 1, 33, 17, 2, 48))]
