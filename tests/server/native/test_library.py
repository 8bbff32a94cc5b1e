"""The operator library: built whole or not at all, rebuilt when its sources change, found or done without."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from tests.server.native.linear_case import Case, model, session

from fathom_server.native import build as builder
from fathom_server.native import library

SOURCE = 'extern "C" const char mark[] = "fathom-ops-sources:" FATHOM_SOURCE_DIGEST;\n'


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one small source, in a folder of its own."""
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "library.cpp").write_text(SOURCE)
    monkeypatch.setattr(builder, "FOLDER", tmp_path)
    monkeypatch.setattr(builder, "SOURCES", folder)
    monkeypatch.setattr(builder, "LIBRARY", tmp_path / "libfathom_ops.so")
    builder.build()
    return folder


def test_a_library_is_built_again_only_when_its_sources_change(sources: Path) -> None:
    """A second build is free; a changed or added source, a header too, makes another library."""
    made = builder.LIBRARY.stat().st_ino
    assert builder.build() == builder.LIBRARY
    assert builder.LIBRARY.stat().st_ino == made
    for name, content in (("library.cpp", SOURCE + "int added;\n"), ("header.h", "#pragma once\n")):
        before = builder.built_digest()
        (sources / name).write_text(content)
        builder.build()
        assert builder.built_digest() == builder.source_digest() != before


def test_a_build_that_fails_says_why_and_leaves_the_old_library(sources: Path) -> None:
    """The compiler's words reach the reader, and nothing is left half written."""
    before = builder.LIBRARY.read_bytes()
    (sources / "library.cpp").write_text("this is no C++;\n")
    with pytest.raises(builder.BuildError, match=r"library\.cpp"):
        builder.build()
    assert builder.LIBRARY.read_bytes() == before
    assert sorted(path.name for path in builder.FOLDER.iterdir()) == ["libfathom_ops.so", "src"]


def test_without_a_compiler_the_build_says_what_to_install(
    sources: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody is left with an empty traceback."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(builder.BuildError, match=r"install one .* or set CXX"):
        builder.build(force=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(builder.BuildError, match="no-such-compiler cannot be started"):
        builder.build(force=True)


def test_the_switch_turns_the_library_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """``FATHOM_NATIVE=0`` serves the stock graph."""
    assert library.library_path() is not None
    monkeypatch.setenv(library.SWITCH, "0")
    assert library.library_path() is None
    assert not library.register(ort.SessionOptions())


def test_a_library_that_does_not_load_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One for another platform is reported, and the server goes on without."""
    broken = tmp_path / "libfathom_ops.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "_LIBRARY", broken)
    assert not library.register(ort.SessionOptions())
    assert str(broken) in caplog.text


def test_an_instruction_set_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped level does not silently become the best one."""
    monkeypatch.setenv(library.ISA, "avx1024")
    with pytest.raises(Exception, match="FATHOM_NATIVE_ISA is avx1024"):
        session(model(Case(16, 16)))


def test_two_sessions_and_their_options_may_end_in_any_order() -> None:
    """The operators outlive the options that brought them, and one session's weights another session's end."""
    first = session(model(Case(64, 32)))
    second = session(model(Case(64, 32, seed=1)))
    rows = np.ones((1, 64), np.float32)
    before = second.run(None, {"x": rows})[0]
    del first
    third = session(model(Case(64, 32)))
    np.testing.assert_array_equal(second.run(None, {"x": rows})[0], before)
    assert third.run(None, {"x": rows})[0].shape == (1, 32)
