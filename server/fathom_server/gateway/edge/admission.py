"""The layer that holds each key to its limits."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fathom_server.gateway.edge.limits import KeyUsage
from fathom_server.gateway.edge.request_record import ANONYMOUS, record_of
from fathom_server.gateway.errors import RateLimitError, error_response
from fathom_server.gateway.settings import GatewaySettings


class Admission:
    """Counts what is asked of the models, and refuses what is over a key's limits.

    Answers carry how much of the limits is left. Tokens are known when a request has ended: the request that overdraws
    is served, and the next one waits.
    """

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._settings = settings
        self._usage: dict[str, KeyUsage] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say which limit it is over."""
        if scope["type"] != "http" or not record_of(scope).is_work:
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        name = record.key_name or ANONYMOUS
        if name not in self._usage:
            self._usage[name] = KeyUsage(self._settings)
        usage = self._usage[name]

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *usage.headers()]
            await send(message)

        refusal = usage.begin()
        if refusal is not None:
            record.rejected = refusal.reason
            error = RateLimitError(refusal.message, code="rate_limit_exceeded", retry_after_s=refusal.retry_after_s)
            await error_response(error)(scope, receive, send_with_limits)
            return
        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            usage.end(record.input_tokens + record.output_tokens)
