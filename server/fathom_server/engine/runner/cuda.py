"""The CUDA runtime as far as a runner needs it: memory, one stream, graphs; errors raised, never returned."""

import ctypes
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_server.engine.plan_passport import PlanRuntime
from fathom_server.errors import DeviceError, SettingsError

ALIGNMENT_BYTES: Final = 256
"""What TensorRT asks of every tensor's address."""

DEVICE: Final = 0
"""The first GPU that is visible; ``CUDA_VISIBLE_DEVICES`` chooses another."""


class CudaStream:
    """A stream on the first visible GPU, with the calls that go over it.

    Sizes are in bytes, addresses are integers. Every method raises DeviceError where CUDA refuses.
    """

    def __init__(self) -> None:
        self._cudart = import_cudart()
        self._device_memory: list[int] = []
        self._host_memory: list[int] = []
        self._graphs: list[Any] = []
        self._call("cudaSetDevice", DEVICE)
        self._stream = self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self._stream)

    def use_device(self) -> None:
        """Make the GPU the calling thread's own."""
        self._call("cudaSetDevice", DEVICE)

    def allocate(self, size: int) -> int:
        """Device memory, aligned as TensorRT asks; it is kept until ``close``."""
        address = int(self._call("cudaMalloc", max(size, ALIGNMENT_BYTES)))
        self._device_memory.append(address)
        return address

    def allocate_host(self, size: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Page-locked host memory, its address and itself as uint8 [size]; it is kept until ``close``."""
        size = max(size, ALIGNMENT_BYTES)
        address = int(self._call("cudaMallocHost", size))
        self._host_memory.append(address)
        return address, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def zero(self, address: int, size: int) -> None:
        """Set device memory to zeros."""
        self._call("cudaMemsetAsync", address, 0, size, self._stream)

    def copy_to_device(self, destination: int, source: int, size: int) -> None:
        """Copy page-locked host memory to the device."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", destination, source, size, kind, self._stream)

    def copy_to_host(self, destination: int, source: int, size: int) -> None:
        """Copy device memory to page-locked host memory."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", destination, source, size, kind, self._stream)

    def copy_rows(self, destination: int, source: int, pitch: int, width: int, rows: int) -> None:
        """Copy the first ``width`` bytes of each of ``rows`` rows, ``pitch`` bytes apart, within the device."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpy2DAsync", destination, pitch, source, pitch, width, rows, kind, self._stream)

    def begin_capture(self) -> None:
        """Record what comes over the stream instead of doing it, until ``end_capture``."""
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> Any:
        """What was recorded, ready for ``launch``."""
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        self._graphs.append(executable)
        return executable

    def abandon_capture(self) -> None:
        """End a capture that has failed, and forget its error."""
        self._cudart.cudaStreamEndCapture(self._stream)
        self._cudart.cudaGetLastError()

    def launch(self, graph: Any) -> None:
        """Do again what was captured."""
        self._call("cudaGraphLaunch", graph, self._stream)

    def synchronize(self) -> None:
        """Wait until all that was sent is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Wait, then give back everything that was allocated or captured."""
        self.synchronize()
        while self._graphs:
            self._call("cudaGraphExecDestroy", self._graphs.pop())
        while self._device_memory:
            self._call("cudaFree", self._device_memory.pop())
        while self._host_memory:
            self._call("cudaFreeHost", self._host_memory.pop())
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        return call(self._cudart, name, *arguments)


def call(cudart: Any, name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; returns its result, if any, and raises DeviceError unless it succeeded."""
    error, *results = getattr(cudart, name)(*arguments)
    if error != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(error)
        reason = text.decode() if isinstance(text, bytes) else str(text)
        raise DeviceError(f"{name} failed: {reason} ({error.name}); see nvidia-smi for the GPU's state and free memory")
    return results[0] if results else None


def import_cudart() -> Any:
    """The CUDA runtime's bindings; raises SettingsError where they are not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise SettingsError(
            "a TensorRT plan needs the package cuda-python, which cannot be imported "
            f"({error}); run where there is a GPU: pip install 'fathom-server[tensorrt]'"
        ) from error
    return runtime


def import_tensorrt() -> Any:
    """TensorRT's Python package; raises SettingsError where it is not installed."""
    try:
        import tensorrt
    except ImportError as error:
        raise SettingsError(
            f"a TensorRT plan needs the package tensorrt, which cannot be imported ({error}); run in NVIDIA's Triton "
            "or TensorRT container, or: pip install tensorrt"
        ) from error
    return tensorrt


def describe_runtime() -> PlanRuntime:
    """TensorRT, CUDA and the first visible GPU; raises SettingsError or DeviceError where one is missing."""
    tensorrt, cudart = import_tensorrt(), import_cudart()
    properties = call(cudart, "cudaGetDeviceProperties", DEVICE)
    return PlanRuntime(
        tensorrt=str(tensorrt.__version__),
        cuda=_cuda_version(call(cudart, "cudaRuntimeGetVersion")),
        driver_cuda=_cuda_version(call(cudart, "cudaDriverGetVersion")),
        compute_capability=(int(properties.major), int(properties.minor)),
        gpu=properties.name.split(b"\0")[0].decode(),
    )


def _cuda_version(number: int) -> str:
    """13020 → 13.2: thousands are the major version, tens the minor."""
    return f"{number // 1000}.{number % 1000 // 10}"
