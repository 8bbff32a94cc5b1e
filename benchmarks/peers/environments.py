"""Peers made ready: a virtual environment from a pinned list, and the model in the form that each of them reads.

All of it lies in the cache folder and is made once; a changed list or shape makes it anew. The work runs at the lowest
priority. What cannot be made is an ``UnavailableError``, and the benchmark says so in place of figures.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
REQUIREMENTS: Final = HERE / "requirements"
PRIORITY: Final = 15
INT4_GROUPS: Final = ("--group-size", "128", "--group-size-fallback", "adjust", "--ratio", "1.0")
LLAMA_CPP_OPTIONS: Final = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF"),
    *("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"),
)

Command = list[str | Path]


class UnavailableError(Exception):
    """A peer cannot be measured here; the message says why."""


def pinned_versions(name: str, packages: Sequence[str]) -> dict[str, str]:
    """The versions that a list pins for some of its packages."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==", 1) for line in lines if "==" in line)
    return {package: pins[package] for package in packages}


def environment(cache: Path, name: str) -> Path:
    """The Python of a peer's environment."""
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = cache / "environments" / name
    python = folder / "bin" / "python"
    with _made_once(folder, _digest(requirements.read_bytes())) as is_needed:
        if is_needed:
            venv.create(folder, with_pip=True)
            pip: Command = [python, "-m", "pip", "install", "--quiet"]
            # the list is whole; optimum-intel would add a torchvision that need not fit this torch
            _work([*pip, "--no-deps", "--requirement", requirements], folder / "pip.log")
            _work([*pip, "--constraint", requirements, "torch"], folder / "pip.log")  # what its build needs besides
    return python


def genai_model(cache: Path, checkpoint: Path) -> Path:
    """onnxruntime-genai's own builder: int4, blocks of 128, 8-bit activations (accuracy level 4)."""
    python, folder = environment(cache, "onnxruntime-genai"), cache / "models" / f"genai-{checkpoint.name}"
    command: Command = [python, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", folder, "-p", "int4"]
    command += ["-e", "cpu", "-c", folder / "cache"]
    command += ["--extra_options", "int4_accuracy_level=4", "int4_block_size=128"]
    return _converted(folder, checkpoint, command)


def openvino_model(cache: Path, checkpoint: Path, precision: str) -> Path:
    """optimum-intel's export; int4 is symmetric, which decodes faster, in groups of 128, or of 64 where they must."""
    python = environment(cache, "openvino-genai")
    folder = cache / "models" / f"openvino-{precision}-{checkpoint.name}"
    command: Command = [python.parent / "optimum-cli", "export", "openvino", "--model", checkpoint]
    command += ["--task", "text-generation-with-past", "--weight-format", precision]
    command += [*INT4_GROUPS, "--sym"] if precision == "int4" else []
    return _converted(folder, checkpoint, [*command, folder])


def llama_cpp_server(cache: Path) -> Path:
    """llama.cpp's server and quantiser, compiled for this machine from the sources in llama-cpp-python."""
    requirements = REQUIREMENTS / "llama.cpp.txt"
    folder = cache / "llama.cpp"
    program = folder / "build" / "bin" / "llama-server"
    for tool in ("cmake", "c++", "make"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"llama.cpp needs {tool} to be compiled")
    with _made_once(folder, _digest(requirements.read_bytes())) as is_needed:
        if is_needed:
            folder.mkdir(parents=True)
            log = folder / "build.log"
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
            _work([*pip, "--dest", folder, "--requirement", requirements], log)
            with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
                archive.extractall(folder, filter="data")
            sources = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
            sources.rename(folder / "sources")
            build = folder / "build"
            _work(["cmake", "-S", folder / "sources", "-B", build, *LLAMA_CPP_OPTIONS], log)
            _work(["cmake", "--build", build, "-j1", "--target", "llama-server", "llama-quantize"], log)
    return program


def llama_cpp_model(cache: Path, checkpoint: Path, precision: str) -> Path:
    """llama.cpp's own converter and quantiser."""
    program = llama_cpp_server(cache)
    whole = cache / "models" / f"llama.cpp-BF16-{checkpoint.name}" / "model.gguf"
    python = environment(cache, "onnxruntime-genai")  # which has what the converter needs
    convert: Command = [python, HERE / "workers" / "llama_cpp_convert.py", cache / "llama.cpp" / "sources"]
    _converted(whole.parent, checkpoint, [*convert, checkpoint, whole])
    folder = cache / "models" / f"llama.cpp-{precision}-{checkpoint.name}"
    quantise: Command = [program.with_name("llama-quantize"), "--pure", whole, folder / "model.gguf", precision, "2"]
    return _converted(folder, checkpoint, quantise) / "model.gguf"


def _converted(folder: Path, checkpoint: Path, command: Sequence[str | Path]) -> Path:
    digest = _digest((checkpoint / "shape.json").read_bytes(), *(str(part).encode() for part in command))
    with _made_once(folder, digest) as is_needed:
        if is_needed:
            folder.mkdir(parents=True)
            _work(command, folder / "convert.log")
    return folder


@contextlib.contextmanager
def _made_once(folder: Path, digest: str) -> Iterator[bool]:
    """Whether a folder must be made; it is empty then, and marked as made when the block ends well."""
    mark = folder / ".made"
    if mark.is_file() and mark.read_text(encoding="utf-8") == digest:
        yield False
        return
    shutil.rmtree(folder, ignore_errors=True)
    yield True
    mark.write_text(digest, encoding="utf-8")


def _work(command: Sequence[str | Path], log: Path) -> None:
    """Run a command at the lowest priority; raises UnavailableError with the end of what it said."""
    print(f"   {' '.join(Path(str(part)).name for part in command[:6])} ...", flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["nice", "-n", str(PRIORITY), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        with contextlib.suppress(
            OSError
        ):  # where sessions are scheduled as groups, a process's own niceness says little
            Path(f"/proc/{process.pid}/autogroup").write_text(str(PRIORITY), encoding="ascii")
        try:
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if status:
        end = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise UnavailableError(f"{Path(str(command[0])).name} failed ({''.join(end)}); see {log}")


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
