"""Finding the operator library and giving it to ONNX Runtime."""

import ctypes
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

DOMAIN: Final = "fathom"
# 0 serves the stock graph even where the library is there
SWITCH: Final = "FATHOM_NATIVE"
# generic, avx2, avxvnni or avx512vnni: what kernels made from now on use; the processor's best if unset
ISA: Final = "FATHOM_NATIVE_ISA"

_LIBRARY: Final = Path(__file__).resolve().parent / "libfathom_ops.so"
_log = logging.getLogger(__name__)


def library_path() -> Path | None:
    """Where the operator library lies; None where it was not built or ``FATHOM_NATIVE=0`` turns it off."""
    if os.environ.get(SWITCH) == "0" or not _LIBRARY.is_file():
        return None
    return _LIBRARY


def register(options: "SessionOptions") -> bool:
    """Give the operators to the sessions that ``options`` will make; whether they have them now.

    A library that does not load here (built for another C library or processor) is logged and counts as none: the
    stock graph computes the same model.
    """
    path = library_path()
    if path is None:
        return False
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        _log.warning("%s does not load, so models run on ONNX Runtime's own operators: %s", path, error)
        return False
    options.register_custom_ops_library(str(path))
    return True
