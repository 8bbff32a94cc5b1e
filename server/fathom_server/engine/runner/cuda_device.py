"""Whether a GPU is here that the cuda dialect's graph runs on, asked before ONNX Runtime fails in many words."""

import ctypes
from typing import Any, Final

from fathom_server.errors import SettingsError

PROVIDER: Final = "CUDAExecutionProvider"
LEAST_CAPABILITY: Final = (8, 0)
"""FlashAttention over a paged cache, and the product with fp8 weights, need it."""

_DRIVER: Final = "libcuda.so.1"
_CAPABILITY_MAJOR: Final = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
_CAPABILITY_MINOR: Final = 76


def require_cuda(precision: str) -> None:
    """Raise SettingsError, with the remedy, unless ONNX Runtime and a GPU for this precision are here."""
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        raise SettingsError(
            f"a graph of the cuda dialect needs ONNX Runtime's {PROVIDER}, which onnxruntime {onnxruntime.__version__} "
            "here lacks; pip uninstall onnxruntime, then pip install 'fathom-server[gpu]', or export with dialect cpu"
        )
    capability = compute_capability()
    if capability is None:
        raise SettingsError(
            "a graph of the cuda dialect needs an NVIDIA GPU, and its driver finds none here; see nvidia-smi, or "
            "export with dialect cpu"
        )
    if capability < LEAST_CAPABILITY:
        found, least = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
        raise SettingsError(
            f"precision {precision} of the cuda dialect needs a GPU of compute capability {least} (Ampere) or later, "
            f"and this one has {found}; export with dialect portable and build a TensorRT plan"
        )


def cuda_fault(precision: str) -> str | None:
    """What ``require_cuda`` would say, None if nothing."""
    try:
        require_cuda(precision)
    except SettingsError as error:
        return str(error)
    return None


def compute_capability() -> tuple[int, int] | None:
    """Major and minor of the first visible GPU, from its driver; None where there is no driver or no GPU."""
    try:
        driver: Any = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    answers = (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
    )
    return None if any(answers) else (major.value, minor.value)
