"""The edge as a whole: the layers around the routes, in their order."""

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from fathom_server.gateway.edge.admission import Admission
from fathom_server.gateway.edge.authentication import Authentication
from fathom_server.gateway.edge.body import Body
from fathom_server.gateway.edge.keys import KeyStore
from fathom_server.gateway.edge.metrics import GatewayMetrics
from fathom_server.gateway.edge.observation import Observation
from fathom_server.gateway.edge.openapi import complete_document
from fathom_server.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

CALLERS_HEADERS = ("authorization", "content-type", "x-request-id", "traceparent", "tracestate")
SHOWN_HEADERS = (
    "retry-after",
    "x-request-id",
    *(f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
)


def with_edge(
    api: FastAPI, settings: GatewaySettings, metrics: GatewayMetrics, traces: "TracerProvider | None"
) -> ASGIApp:
    """Put the edge around an application: a request is observed, let in, admitted, read, and then routed.

    Routes find ``metrics`` and ``keys`` in ``request.app.state`` and what is known of their request by ``record_of``.
    Raises SettingsError for keys that cannot be read.
    """
    keys = None if settings.keys is None else KeyStore(settings.keys)
    api.state.metrics, api.state.keys = metrics, keys
    complete_document(api, with_keys=keys is not None)
    app: ASGIApp = Body(api, settings)
    app = Admission(app, settings)
    app = Authentication(app, keys)
    if settings.cors_origins:  # a browser asks without a key first
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=CALLERS_HEADERS,
            expose_headers=SHOWN_HEADERS,
        )
    if traces is None:
        return Observation(app, api, metrics)
    from fathom_server.gateway.edge.request_spans import RequestSpans

    return Observation(app, api, metrics, RequestSpans(traces))
