"""``GET /health/live`` and ``GET /health/ready``, for probes."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from fathom_client import AsyncClient
from fathom_server.gateway.errors import AWAY_RETRY_S, UnavailableError

router = APIRouter()


class Health(BaseModel):
    """The answer to a probe."""

    status: Literal["live", "ready"]


@router.get("/health/live")
async def live() -> Health:
    """Whether the gateway runs, whatever becomes of Triton."""
    return Health(status="live")


@router.get("/health/ready")
async def ready(request: Request) -> Health:
    """Whether requests are served: whether Triton is ready with all its models."""
    client: AsyncClient = request.app.state.client
    if not await client.is_ready():
        raise UnavailableError(
            "Triton is not ready, or not all its models", code="not_ready", retry_after_s=AWAY_RETRY_S
        )
    return Health(status="ready")
