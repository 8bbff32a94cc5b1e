"""A Triton installation with the vLLM backend's stand-in: the embedded one, its files linked, and a folder more."""

import shutil
from importlib.util import find_spec
from pathlib import Path

STAND_IN = Path(__file__).parent / "vllm_backend"


def tritonserver_with_vllm(folder: Path) -> Path:
    """Lay an installation out as the wheel does; returns its program."""
    spec = find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent
    root = folder / "pytriton" / "tritonserver"
    (root / "bin").mkdir(parents=True)
    (root / "backends").mkdir()
    shutil.copy2(wheel / "tritonserver" / "bin" / "tritonserver", root / "bin")  # a link would lead back to the wheel
    for name in ("python_backend_stubs", "caches"):
        (root / name).symlink_to(wheel / "tritonserver" / name)
    (root / "backends" / "python").symlink_to(wheel / "tritonserver" / "backends" / "python")
    (root / "backends" / "vllm").symlink_to(STAND_IN)
    (folder / "nvidia_pytriton.libs").symlink_to(wheel.parent / "nvidia_pytriton.libs")
    return root / "bin" / "tritonserver"
