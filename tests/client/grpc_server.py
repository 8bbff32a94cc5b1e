"""A gRPC server in this process that speaks Triton's service: for what no Triton does on demand."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fathom_client.testing import ScriptedGenerator


@dataclass(slots=True)
class Refusal:
    """A request that is not taken: its status, and the advice when to try again."""

    code: grpc.StatusCode
    details: str
    pushback: str | None = None


@dataclass(slots=True)
class Answering(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # tritonclient has no types
    """Refuses as many requests as it has refusals, then answers with ``name``; keeps what it was sent."""

    name: str
    refusals: list[Refusal] = field(default_factory=list)
    is_ready: bool = True
    metadata: list[dict[str, str]] = field(default_factory=list)
    timeouts_us: list[int] = field(default_factory=list)
    probes: int = 0
    port: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        """How many requests came, those that were refused among them."""
        return len(self.metadata)

    def ServerReady(self, request: Any, context: Any) -> Any:
        """Say what it was told to."""
        self.probes += 1
        return service_pb2.ServerReadyResponse(ready=self.is_ready)

    def ServerLive(self, request: Any, context: Any) -> Any:
        """Is there."""
        return service_pb2.ServerLiveResponse(live=True)

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        """Answer a generation."""
        for request in requests:
            self._take(request, context)
            for response in ScriptedGenerator(f"from {self.name}").stream(request, ()):
                yield service_pb2.ModelStreamInferResponse(infer_response=response)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer a tokenizer's request for a number."""
        self._take(request, context)
        response = service_pb2.ModelInferResponse(id=request.id)
        response.outputs.add(name="num_input_tokens", datatype="UINT32", shape=[1])
        response.raw_output_contents.append(b"\x07\0\0\0")
        return response

    def _take(self, request: Any, context: Any) -> None:
        with self.lock:
            self.metadata.append(dict(context.invocation_metadata()))
            self.timeouts_us.append(request.parameters["timeout"].int64_param)
            refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            if refusal.pushback is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", refusal.pushback),))
            context.abort(refusal.code, refusal.details)


@contextmanager
def serving(*answering: Answering, host: str = "127.0.0.1", port: int = 0) -> Iterator[list[str]]:
    """Run each on a port of its own; gives their addresses."""
    servers = []
    try:
        for each in answering:
            server = grpc.server(ThreadPoolExecutor(16))
            service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(each, server)
            each.port = server.add_insecure_port(f"{host}:{port}")
            server.start()
            servers.append(server)
        yield [f"{host}:{each.port}" for each in answering]
    finally:
        for server in servers:
            server.stop(None).wait()
