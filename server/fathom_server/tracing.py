"""OpenTelemetry traces, sent by OTLP over HTTP; they need the extra ``otel``."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from fathom_server.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT_VARIABLE: Final = "FATHOM_OTLP_ENDPOINT"
"""Environment variable by which fathom-serve tells Triton's Python models where spans go."""

TRACES_PATH: Final = "/v1/traces"
EXPORT_TIMEOUT_S: Final = 5.0
"""For a collector that does not answer; nothing else waits for it but the end of a process."""

GATEWAY_SERVICE: Final = "fathom-gateway"
TRITON_SERVICE: Final = "fathom-triton"
ENGINE_SERVICE: Final = "fathom-engine"
"""Values of ``service.name``."""


def check_endpoint(name: str, url: str) -> None:
    """Check a collector's address, given by the setting ``name``; raises SettingsError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.path.strip("/") or parts.query or parts.fragment:
        raise SettingsError(
            f"{name} is {url!r}; give the address of a collector that takes OTLP over HTTP, such as "
            f"http://localhost:4318 ({TRACES_PATH} is added)"
        )
    if find_spec("opentelemetry") is None or any(
        find_spec(package) is None for package in ("opentelemetry.sdk", "opentelemetry.exporter")
    ):
        raise SettingsError(f"{name} needs OpenTelemetry's SDK; install it with pip install 'fathom-server[otel]'")


def traces_url(endpoint: str) -> str:
    """Where spans are posted, of a collector's address."""
    return endpoint.rstrip("/") + TRACES_PATH


def tracer_provider(endpoint: str, service: str, share: float = 1.0) -> "TracerProvider":
    """Make the source of a process's spans, which are sent in the background; its ``shutdown`` sends the last.

    ``share`` (0 to 1) of the traces that begin here are kept; of one that a caller began, the caller decides.
    Headers for the collector and further attributes of the resource come from OpenTelemetry's own environment
    variables, ``OTEL_EXPORTER_OTLP_HEADERS`` and ``OTEL_RESOURCE_ATTRIBUTES``.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(share)),
        resource=Resource.create({SERVICE_NAME: service}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(traces_url(endpoint), timeout=EXPORT_TIMEOUT_S)))
    return provider


def triton_flags(endpoint: str) -> list[str]:
    """Flags of tritonserver that have it trace the requests that come with a trace context, and hand theirs on."""
    return [
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=0",  # of those without a context; the gateway decides for its own
        f"--trace-config=opentelemetry,url={traces_url(endpoint)}",
        f"--trace-config=opentelemetry,resource=service.name={TRITON_SERVICE}",
    ]
