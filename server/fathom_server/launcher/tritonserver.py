"""Where the ``tritonserver`` program is, and what it needs to run."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

from fathom_server.errors import LaunchError

CONTAINER_BINARY: Final = Path("/opt/tritonserver/bin/tritonserver")
BACKEND_LIBRARY: Final = "libtriton_python.so"
BACKEND_UTILITIES: Final = "triton_python_backend_utils.py"
STUB: Final = "triton_python_backend_stub"
PYTHON_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Tritonserver:
    """A Triton installation.

    ``backends`` is its own folder of backends, ``stub`` the Python backend's helper program for the Python that runs
    this code, ``libraries`` folders that the loader must search.
    """

    binary: Path
    backends: Path
    stub: Path
    libraries: tuple[Path, ...]

    @classmethod
    def at(cls, binary: Path) -> Self:
        """The installation around a program, laid out as in NVIDIA's container or in its wheel.

        Raises LaunchError saying what is missing.
        """
        if not (binary.is_file() and os.access(binary, os.X_OK)):
            raise LaunchError(f"{binary} is not a program")
        root = binary.resolve().parent.parent
        backends = root / "backends"
        python_backend = backends / "python"
        for name in (BACKEND_LIBRARY, BACKEND_UTILITIES):
            if not (python_backend / name).is_file():
                raise LaunchError(f"{binary} has no Python backend ({python_backend / name} is missing)")
        wheel_libraries = root.parent.parent / "nvidia_pytriton.libs"
        return cls(
            binary=binary,
            backends=backends,
            stub=_stub(root, python_backend),
            libraries=(wheel_libraries,) if wheel_libraries.is_dir() else (),
        )

    @property
    def caches(self) -> Path:
        """Its own folder of response caches."""
        return self.backends.parent / "caches"

    def environment(self, python_folder: Path) -> dict[str, str]:
        """Environment variables for Triton: the loader's folders, and first on PATH the one whose python3 runs us."""
        folders = [*map(str, self.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        library_folder = sysconfig.get_config_var("LIBDIR")
        if library_folder and (Path(library_folder) / f"libpython{PYTHON_VERSION}.so.1.0").is_file():
            folders.append(library_folder)
        return {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders)),
            "PATH": os.pathsep.join([str(python_folder), os.environ.get("PATH", os.defpath)]),
        }

    def check_stub(self, environment: dict[str, str]) -> None:
        """Run the stub without arguments, which it refuses; raises LaunchError if it cannot even be loaded."""
        result = subprocess.run([self.stub], env=environment, capture_output=True, text=True, check=False)
        if "error while loading shared libraries" in result.stderr:
            raise LaunchError(
                f"Triton's Python backend cannot start: {result.stderr.strip().removeprefix(str(self.stub) + ': ')}; "
                f"install it (Debian and Ubuntu: apt-get install libpython{PYTHON_VERSION})"
            )


def find_tritonserver(given: Path | None = None) -> Tritonserver:
    """The given installation, else the first of: on PATH, NVIDIA's container, the ``nvidia-pytriton`` wheel.

    Raises LaunchError naming what was tried and how to get one.
    """
    if given is not None:
        try:
            return Tritonserver.at(given)
        except LaunchError as error:
            raise LaunchError(f"--tritonserver {given}: {error}") from error
    tried: list[str] = []
    for place, binary in _candidates():
        if binary is None:
            tried.append(place)
            continue
        try:
            return Tritonserver.at(binary)
        except LaunchError as error:
            tried.append(f"{place} ({error})")
    raise LaunchError(
        f"no tritonserver was found; tried {', '.join(tried)}. Install one with pip install 'fathom-server[embedded]', "
        "run inside NVIDIA's container (nvcr.io/nvidia/tritonserver), or name one with --tritonserver"
    )


def _candidates() -> list[tuple[str, Path | None]]:
    on_path = shutil.which("tritonserver")
    wheel = find_spec("pytriton")
    in_wheel = None
    if wheel is not None and wheel.submodule_search_locations:
        in_wheel = Path(wheel.submodule_search_locations[0]) / "tritonserver" / "bin" / "tritonserver"
    return [
        ("tritonserver on PATH", Path(on_path) if on_path else None),
        (str(CONTAINER_BINARY), CONTAINER_BINARY if CONTAINER_BINARY.exists() else None),
        ("the Python package nvidia-pytriton", in_wheel),
    ]


def _stub(root: Path, python_backend: Path) -> Path:
    """The stub for this Python: one of the wheel's, or the one that the container's Python backend was built with."""
    stubs = root / "python_backend_stubs"
    if stubs.is_dir():
        stub = stubs / PYTHON_VERSION / STUB
        if not stub.is_file():
            versions = ", ".join(sorted((folder.name for folder in stubs.iterdir()), key=_version_key))
            raise LaunchError(f"{root} has no Python backend for Python {PYTHON_VERSION}, only for {versions}")
        return stub
    stub = python_backend / STUB
    if not stub.is_file():
        raise LaunchError(f"the Python backend in {python_backend} has no {STUB}")
    linked = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
    if linked and linked[1].decode() != PYTHON_VERSION:
        raise LaunchError(
            f"the Python backend in {python_backend} is for Python {linked[1].decode()}, but fathom-serve runs on "
            f"Python {PYTHON_VERSION}; install fathom-server for Python {linked[1].decode()}"
        )
    return stub


def _version_key(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", name))
