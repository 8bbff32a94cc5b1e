"""Fathom's client: typed access to models that NVIDIA Triton serves, over gRPC.

    from fathom_client import Client

    with Client("localhost:8001") as client:
        for chunk in client.stream("chat", "Once upon a time", max_tokens=64):
            print(chunk.text, end="")

Everything public is listed in ``__all__`` and loads when it is first used. ``fathom_client.protocol`` holds the tensor
names that client and servers agree on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fathom_client._async import AsyncClient
    from fathom_client._call_times import CallTimes
    from fathom_client._options import GenerateOptions, Message
    from fathom_client._results import (
        Classification,
        Embeddings,
        Generation,
        GenerationChoice,
        GenerationChunk,
        ModelConfig,
        ModelInfo,
        ModelMetadata,
        Rerank,
        ServerMetadata,
        TensorMetadata,
        Tokenization,
        TokenLogprob,
    )
    from fathom_client._statistics import ModelStatistics
    from fathom_client._streams import AsyncGenerationStream, GenerationStream
    from fathom_client._sync import Client
    from fathom_client._timeouts import Timeout
    from fathom_client.errors import (
        ClientClosedError,
        DeadlineExceededError,
        FathomError,
        InvalidArgumentError,
        InvalidRequestError,
        ModelNotFoundError,
        OverloadedError,
        ProtocolError,
        RequestCancelledError,
        ServerError,
        ServerUnavailableError,
        StreamBrokenError,
    )

__all__ = [
    "AsyncClient",
    "AsyncGenerationStream",
    "CallTimes",
    "Classification",
    "Client",
    "ClientClosedError",
    "DeadlineExceededError",
    "Embeddings",
    "FathomError",
    "GenerateOptions",
    "Generation",
    "GenerationChoice",
    "GenerationChunk",
    "GenerationStream",
    "InvalidArgumentError",
    "InvalidRequestError",
    "Keepalive",
    "Limits",
    "Message",
    "ModelConfig",
    "ModelInfo",
    "ModelMetadata",
    "ModelNotFoundError",
    "ModelStatistics",
    "OverloadedError",
    "ProtocolError",
    "Readiness",
    "RequestCancelledError",
    "Rerank",
    "Retry",
    "ServerError",
    "ServerMetadata",
    "ServerUnavailableError",
    "StreamBrokenError",
    "TensorMetadata",
    "Timeout",
    "Tls",
    "TokenLogprob",
    "Tokenization",
    "TraceContext",
    "Transport",
]

_HOMES: Final = {
    "_async": ("AsyncClient",),
    "_call_times": ("CallTimes",),
    "_limits": ("Keepalive", "Limits"),
    "_options": ("GenerateOptions", "Message"),
    "_results": (
        "Classification",
        "Embeddings",
        "Generation",
        "GenerationChoice",
        "GenerationChunk",
        "ModelConfig",
        "ModelInfo",
        "ModelMetadata",
        "Readiness",
        "Rerank",
        "ServerMetadata",
        "TensorMetadata",
        "TokenLogprob",
        "Tokenization",
    ),
    "_retry": ("Retry",),
    "_statistics": ("ModelStatistics",),
    "_streams": ("AsyncGenerationStream", "GenerationStream"),
    "_sync": ("Client",),
    "_timeouts": ("Timeout",),
    "_tls": ("Tls",),
    "_trace": ("TraceContext",),
    "_transport": ("Transport",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its module, so that importing the package costs nothing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
