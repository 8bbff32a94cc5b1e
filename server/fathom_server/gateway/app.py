"""The gateway as an ASGI application."""

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fathom_client import AsyncClient
from fathom_client.errors import FathomError
from fathom_server.gateway.errors import ApiError, GatewayFaultError, error_response
from fathom_server.gateway.settings import GatewaySettings


def create_app(settings: GatewaySettings, client: AsyncClient) -> ASGIApp:
    """The application over one connection to Triton, which stays the caller's to close.

    A request goes through the layers below from the outermost, the last, to the routes. Routes find ``settings``,
    ``client`` and ``catalog`` in ``request.app.state``, and what a layer learnt of the caller in ``request.state``.
    """
    api = FastAPI(title="Fathom", description="OpenAI's API in front of NVIDIA Triton.", redoc_url=None)
    api.state.settings = settings
    api.state.client = client
    for kind in (RequestValidationError, HTTPException, ApiError, FathomError):
        api.add_exception_handler(kind, _refuse)
    api.add_exception_handler(Exception, _fail)
    return api


async def _refuse(_request: Request, error: Exception) -> Response:
    return error_response(error)


async def _fail(_request: Request, _error: Exception) -> Response:
    """Starlette raises the exception again behind this answer, and uvicorn logs it."""
    return error_response(GatewayFaultError("the gateway failed to serve this request; its log says why"))
