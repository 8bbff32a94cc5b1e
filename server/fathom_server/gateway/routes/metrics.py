"""``GET /metrics``."""

import asyncio
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from fathom_client import AsyncClient
from fathom_client.errors import FathomError
from fathom_server.gateway.edge.metrics import MEDIA_TYPE, GatewayMetrics

READY_WITHIN_S: Final = 2.0
"""A Triton that has not said so by then is not ready: a scrape must not wait for it."""

router = APIRouter()


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(request: Request) -> Response:
    """The gateway's counters, in Prometheus's text format."""
    counted: GatewayMetrics = request.app.state.metrics
    counted.note_target(is_ready=await _is_ready(request.app.state.client))
    return Response(counted.text(), media_type=MEDIA_TYPE)


async def _is_ready(client: AsyncClient) -> bool:
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            return await client.is_ready()
    except (FathomError, TimeoutError):
        return False
