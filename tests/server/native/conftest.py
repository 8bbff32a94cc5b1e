"""Tests of the operators run on the library that the sources make; without a C++ compiler they are skipped."""

import shutil

import pytest

from fathom_server.native.build import BuildError, build


@pytest.fixture(scope="session", autouse=True)
def operators() -> None:
    """Build the library where it is missing or older than its sources (about a minute)."""
    try:
        build()
    except BuildError as error:
        if not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
            pytest.skip(str(error))
        raise
