"""The gateway as an ASGI application."""

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fathom_client import AsyncClient
from fathom_client.errors import FathomError
from fathom_server.gateway.answers.event_stream import HungUpError
from fathom_server.gateway.catalog import ModelCatalog
from fathom_server.gateway.edge.layers import with_edge
from fathom_server.gateway.edge.metrics import GatewayMetrics
from fathom_server.gateway.edge.request_record import HUNG_UP
from fathom_server.gateway.errors import ApiError, GatewayFaultError, error_response
from fathom_server.gateway.routes import chat, completions, embeddings, health, metrics, models, rerank
from fathom_server.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def create_app(
    settings: GatewaySettings,
    client: AsyncClient,
    counted: GatewayMetrics | None = None,
    traces: "TracerProvider | None" = None,
) -> ASGIApp:
    """The application over one connection to Triton, which stays the caller's to close.

    A request goes through the layers below from the outermost, the last, to the routes. Routes find ``settings``,
    ``client`` and ``catalog`` in ``request.app.state``, and what the edge's layers know of a request by
    ``edge.request_record.record_of``. ``counted`` is where requests are counted, ``traces`` where their
    spans go. Raises SettingsError.
    """
    api = FastAPI(title="Fathom", description="OpenAI's API in front of NVIDIA Triton.", redoc_url=None)
    api.state.settings = settings
    api.state.client = client
    api.state.catalog = ModelCatalog(client)
    for kind in (RequestValidationError, HTTPException, ApiError, FathomError):
        api.add_exception_handler(kind, _refuse)
    api.add_exception_handler(HungUpError, _say_nothing)
    api.add_exception_handler(Exception, _fail)
    for module in (models, completions, chat, embeddings, rerank, health, metrics):
        api.include_router(module.router)
    return with_edge(api, settings, counted or GatewayMetrics(), traces)


async def _refuse(_request: Request, error: Exception) -> Response:
    return error_response(error)


async def _say_nothing(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HUNG_UP)  # nobody is there to read it


async def _fail(_request: Request, _error: Exception) -> Response:
    """Starlette raises the exception again behind this answer, and uvicorn logs it."""
    return error_response(GatewayFaultError("the gateway failed to serve this request; its log says why"))
