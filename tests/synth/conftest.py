"""Servers that a job asks: a real Triton over models whose answers are known."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client import triton

REPOSITORY = Path(__file__).parents[1] / "client" / "repository"


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Triton whose ``chat`` answers a prompt with itself, and whose ``moods`` counts plus and minus."""
    server = triton.start(REPOSITORY, tmp_path_factory.mktemp("synth-triton"))
    yield server.url
    server.stop()
