"""What an application may build on."""

import inspect
import subprocess
import sys

import pytest

import fathom_client
from fathom_client import AsyncClient, AsyncGenerationStream, Client, FathomError, GenerationStream, errors

PUBLIC = [
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


def public_methods(kind: type) -> dict[str, inspect.Signature]:
    """Signatures of a class's public methods and of its construction, by name."""
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if callable(member) and (not name.startswith("_") or name == "__init__")
    }


def test_public_names_are_these_and_load() -> None:
    """A name joins or leaves the public face on purpose only."""
    assert fathom_client.__all__ == PUBLIC
    for name in PUBLIC:
        assert inspect.isclass(getattr(fathom_client, name))
        assert name in dir(fathom_client)


def test_unknown_name_is_an_attribute_error() -> None:
    """Lazy loading does not hide a misspelt name."""
    with pytest.raises(AttributeError, match="Clint"):
        _ = fathom_client.Clint


def test_import_alone_loads_nothing_heavy() -> None:
    """Importing the package or its protocol, as export and server do, costs neither gRPC nor numpy."""
    code = (
        "import sys, fathom_client, fathom_client.protocol, fathom_client.cli;"
        "print([name for name in ('grpc', 'numpy', 'tritonclient', 'google.protobuf') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("blocking", "awaited"),
    [(Client, AsyncClient), (GenerationStream, AsyncGenerationStream)],
    ids=["client", "stream"],
)
def test_sync_and_async_agree(blocking: type, awaited: type) -> None:
    """Both kinds of client have the same methods with the same parameters and defaults."""
    one, other = public_methods(blocking), public_methods(awaited)
    assert one.keys() == other.keys()
    for name in one.keys() - {"__init__"} if blocking is GenerationStream else one:
        assert [(p.name, p.kind, p.default, p.annotation) for p in one[name].parameters.values()] == [
            (p.name, p.kind, p.default, p.annotation) for p in other[name].parameters.values()
        ], name


def test_every_error_is_drawn_in_the_tree() -> None:
    """The docstring of errors.py names each class once, in the place that its bases give it."""
    classes = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, FathomError)]
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "Error" in line]
    assert len(drawn) == len(classes)
    for each in classes:
        (line,) = [line for line in drawn if each.__name__ in line.replace("─", " ").split()]
        depth = (line.index(each.__name__) + 3) // 4
        assert depth == [base for base in each.__mro__ if issubclass(base, FathomError)].index(FathomError)


def test_metadata_stays_out_of_repr(url: str) -> None:
    """A key that goes with every call does not show in logs."""
    client = Client(url, metadata={"authorization": "secret"})
    assert "secret" not in repr(client)
    assert url in repr(client)
    client.close()
