"""The folder of backends that Triton is started with: its own and Fathom's side by side."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fathom_server.launcher.tritonserver import BACKEND_LIBRARY, BACKEND_UTILITIES, STUB, Tritonserver

BACKENDS: Final = Path(__file__).parent.parent / "backends"
MODEL_FILE: Final = "model.py"


@dataclass(frozen=True, slots=True)
class BackendFolder:
    """An assembled folder; ``python_based`` names the backends in it that run through Triton's Python backend."""

    path: Path
    python_based: tuple[str, ...]


def assemble_backends(tritonserver: Tritonserver, folder: Path) -> BackendFolder:
    """Fill a new folder with Triton's backends and those of ours that Triton has not got itself.

    Files are copied: Triton refuses a backend library that is a link out of its folder. A whole backend may be a link,
    and those of an installation that brings its stub are.
    """
    folder.mkdir(parents=True)
    own_stub = tritonserver.stub.parent == tritonserver.backends / "python"
    for backend in sorted(tritonserver.backends.iterdir()):
        if backend.is_dir() and (own_stub or backend.name != "python"):
            (folder / backend.name).symlink_to(backend)
    if not own_stub:
        python = folder / "python"
        python.mkdir()
        for name in (BACKEND_LIBRARY, BACKEND_UTILITIES):
            shutil.copy2(tritonserver.backends / "python" / name, python / name)
        shutil.copy2(tritonserver.stub, python / STUB)
    for model in sorted(BACKENDS.glob(f"*/{MODEL_FILE}")):
        ours = folder / model.parent.name
        if not ours.exists():
            ours.mkdir()
            shutil.copy2(model, ours / MODEL_FILE)
    python_based = ["python", *(model.parent.name for model in sorted(folder.glob(f"*/{MODEL_FILE}")))]
    return BackendFolder(path=folder, python_based=tuple(python_based))


def python_folder(folder: Path) -> Path:
    """A folder whose ``python3`` is the interpreter that runs this code: the stub takes the first one on PATH.

    A virtual environment's own folder is one. Elsewhere ``python3`` may be another version, so a link is made in
    ``folder``.
    """
    beside = Path(sys.executable).parent
    python3 = beside / "python3"
    if python3.exists() and python3.resolve() == Path(sys.executable).resolve():
        return beside
    folder.mkdir(parents=True)
    (folder / "python3").symlink_to(sys.executable)
    return folder
