"""``GET /metrics``."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from fathom_server.gateway.edge.metrics import MEDIA_TYPE, GatewayMetrics

router = APIRouter()


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(request: Request) -> Response:
    """The gateway's counters, in Prometheus's text format."""
    counted: GatewayMetrics = request.app.state.metrics
    return Response(counted.text(), media_type=MEDIA_TYPE)
