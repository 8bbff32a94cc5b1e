"""A machine with a played GPU and TensorRT, and repositories to build plans in."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.export.tensorrt.bindings import TENSORRT_VERSIONS, cuda_bindings_folders, describe_tensorrt
from tests.export.tensorrt.played_cuda import PlayedCuda
from tests.export.tensorrt.played_tensorrt import PlayedTensorRT

from fathom_export.cli import main


@pytest.fixture(params=TENSORRT_VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each version of TensorRT in turn."""
    return str(request.param)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., PlayedTensorRT]:
    """Put a played TensorRT and CUDA where ``import tensorrt`` and ``import cuda`` find them."""
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "cache"))
    for folder in cuda_bindings_folders():
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # stays: modules of compiled code cannot be loaded twice
    import cuda.bindings
    from cuda.bindings import runtime

    real = getattr(runtime, "_real", runtime)

    def start(version: str, **machine: Any) -> PlayedTensorRT:
        played = PlayedTensorRT(describe_tensorrt(version), PlayedCuda(real, **machine))
        monkeypatch.setitem(sys.modules, "tensorrt", played.trt)
        monkeypatch.setattr(cuda.bindings, "runtime", played.cuda)
        return played

    return start


@pytest.fixture
def played(install: Callable[..., PlayedTensorRT], version: str) -> PlayedTensorRT:
    """An H100 with each TensorRT."""
    return install(version)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Path:
    """A repository with an LLM in the portable dialect; tests copy it."""
    repository = tmp_path_factory.mktemp("exported") / "models"
    limits = ["--max-batch", "3", "--max-context", "64", "--prefill-chunk", "16"]
    flags = ["--name", "chat", "--task", "generate", "--dialect", "portable", *limits]
    assert main([str(tiny_llm), *flags, "--repository", str(repository)]) == 0
    return repository


@pytest.fixture(scope="session")
def exported_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A repository with a text encoder; tests copy it."""
    repository = tmp_path_factory.mktemp("exported_encoder") / "models"
    flags = ["--name", "minilm", "--task", "embed", "--max-batch", "4", "--accept-quality", "random weights"]
    assert main([str(tiny_bert), *flags, "--repository", str(repository)]) == 0
    return repository


@pytest.fixture(scope="session")
def exported_fp8(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Path:
    """A repository with an LLM whose graph quantises to fp8; tests copy it."""
    repository = tmp_path_factory.mktemp("exported_fp8") / "models"
    limits = ["--max-batch", "3", "--max-context", "64", "--prefill-chunk", "16", "--accept-quality", "random weights"]
    flags = ["--name", "chatfp8", "--task", "generate", "--dialect", "portable", "--precision", "fp8", *limits]
    assert main([str(tiny_llm), *flags, "--repository", str(repository)]) == 0
    return repository
