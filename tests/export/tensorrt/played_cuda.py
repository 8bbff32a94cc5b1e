"""A CUDA runtime whose device is host memory, behind the real bindings' names and signatures.

Work on a stream is done when the stream is synchronised, not before, so what forgets to wait reads old bytes; memory
begins as NaNs; every copy must stay within one allocation.
"""

import ctypes
import inspect
import types
from collections.abc import Callable
from typing import Any

import numpy as np

ALIGNMENT = 256


class PlayedCuda:
    """What stands in for ``cuda.bindings.runtime``; ``calls`` names all calls in order."""

    def __init__(self, real: types.ModuleType, capability: tuple[int, int] = (9, 0), gpu: str = "NVIDIA H100") -> None:
        self._real = real
        self._memory: dict[int, np.ndarray[Any, Any]] = {}
        self._queue: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self.calls: list[str] = []
        self.launches = 0
        self.refuse_capture = False
        self.capability, self.gpu = capability, gpu

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._real, name)  # what the real module lacks is an AttributeError
        if inspect.isclass(member) or not callable(member):
            return member
        if f"_{name}" not in dir(type(self)):
            raise AssertionError(f"no test plays {name}")

        def call(*arguments: Any) -> Any:
            bound = inspect.signature(member).bind(*arguments)
            self.calls.append(name)
            result = getattr(self, f"_{name}")(*bound.args)
            values = result if isinstance(result, tuple) else () if result is None else (result,)
            return (self._real.cudaError_t.cudaSuccess, *values)

        return call

    def submit(self, work: Callable[[], None]) -> None:
        """Send work over the stream: it is done later, or kept in the graph that is being captured."""
        (self._queue if self._captured is None else self._captured).append(work)

    def at(self, address: int, size: int) -> int:
        """The address, which must lie in one allocation with so many bytes behind it."""
        for begin, block in self._memory.items():
            if begin <= address and address + size <= begin + block.nbytes:
                return address
        raise AssertionError(f"{size} bytes at {address:#x} are not within an allocation")

    @property
    def leaks(self) -> int:
        """Allocations that were not given back."""
        return len(self._memory)

    def _allocate(self, size: int) -> int:
        whole = np.full(size + ALIGNMENT, 0xFF, dtype=np.uint8)
        begin = -whole.ctypes.data % ALIGNMENT
        block = whole[begin : begin + size]
        self._memory[block.ctypes.data] = block
        return int(block.ctypes.data)

    _cudaMalloc = _cudaMallocHost = _allocate  # noqa: N815

    def _cudaFree(self, address: int) -> None:
        del self._memory[address]

    _cudaFreeHost = _cudaFree  # noqa: N815

    def _cudaSetDevice(self, device: int) -> None:
        assert device == 0

    def _cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == self._real.cudaStreamNonBlocking
        return self._real.cudaStream_t(0x5000)

    def _cudaStreamDestroy(self, stream: Any) -> None:
        assert not self._queue, "the stream was destroyed while it had work"

    def _cudaMemsetAsync(self, address: int, value: int, size: int, stream: Any) -> None:
        self.at(address, size)
        self.submit(lambda: ctypes.memset(address, value, size) and None)

    def _cudaMemcpyAsync(self, destination: int, source: int, size: int, kind: Any, stream: Any) -> None:
        self.at(destination, size)
        self.at(source, size)
        self.submit(lambda: ctypes.memmove(destination, source, size) and None)

    def _cudaMemcpy2DAsync(
        self, to: int, to_pitch: int, source: int, pitch: int, width: int, rows: int, kind: Any, stream: Any
    ) -> None:
        assert width <= pitch
        assert width <= to_pitch

        def copy() -> None:
            for row in range(rows):
                begin, end = self.at(source + row * pitch, width), self.at(to + row * to_pitch, width)
                ctypes.memmove(end, begin, width)

        self.submit(copy)

    def _cudaStreamBeginCapture(self, stream: Any, mode: Any) -> None:
        assert isinstance(mode, self._real.cudaStreamCaptureMode)
        assert self._captured is None
        assert not self._queue, "a capture began while work was under way"
        self._captured = []

    def _cudaStreamEndCapture(self, stream: Any) -> Any:
        captured, self._captured = self._captured, None
        assert captured is not None
        handle = 0x9000 + len(self._graphs)
        self._graphs[handle] = captured
        return self._real.cudaGraph_t(handle)

    def _cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        return self._real.cudaGraphExec_t(int(graph))

    def _cudaGraphDestroy(self, graph: Any) -> None:
        assert int(graph) in self._graphs

    def _cudaGraphExecDestroy(self, graph: Any) -> None:
        del self._graphs[int(graph)]

    def _cudaGraphLaunch(self, graph: Any, stream: Any) -> None:
        self.launches += 1
        for work in self._graphs[int(graph)]:
            self.submit(work)

    def _cudaGetLastError(self) -> None:
        """There is none."""

    def _cudaStreamSynchronize(self, stream: Any) -> None:
        assert self._captured is None, "a stream under capture was waited for"
        work, self._queue = self._queue, []
        for one in work:
            one()

    def _cudaRuntimeGetVersion(self) -> int:
        return 13000

    def _cudaDriverGetVersion(self) -> int:
        return 13010

    def _cudaGetDeviceProperties(self, device: int) -> Any:
        assert device == 0
        major, minor = self.capability
        return types.SimpleNamespace(name=self.gpu.encode() + b"\0\0", major=major, minor=minor)
