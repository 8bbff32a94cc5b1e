"""Repositories of small models whose behaviour under a stop is known."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

MODELS = Path(__file__).parent / "models"


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Path]:
    """Make a repository of the named test models."""

    def make(*names: str, gauges: bool = False) -> Path:
        folder = tmp_path / "repository"
        for name in names:
            shutil.copytree(MODELS / name, folder / name)
            config = folder / name / "config.pbtxt"
            if gauges:
                config.write_text(config.read_text().replace('string_value: "no"', 'string_value: "yes"'))
        return folder

    return make
