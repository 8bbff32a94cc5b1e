"""The layer that lets in whoever presents a key."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from fathom_server.gateway.edge.keys import KeyStore
from fathom_server.gateway.edge.request_record import ANONYMOUS, UNKNOWN, record_of
from fathom_server.gateway.errors import AuthenticationError, error_response

OPEN_PATHS: Final = frozenset({"/health/live", "/health/ready"})
"""What probes ask, which have no key."""

_SCHEME: Final = b"bearer "
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


class Authentication:
    """Asks for ``Authorization: Bearer KEY`` everywhere but on ``OPEN_PATHS``; without keys everybody is anonymous."""

    def __init__(self, app: ASGIApp, keys: KeyStore | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say which key is missing."""
        if scope["type"] == "http":
            record = record_of(scope)
            keys = None if scope["path"] in OPEN_PATHS else self._keys
            try:
                record.key_name = ANONYMOUS if keys is None else _accepted(scope, keys)
            except AuthenticationError as error:
                record.key_name, record.rejected = UNKNOWN, "key"
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _accepted(scope: Scope, keys: KeyStore) -> str:
    """The name of the key that a request carries; raises AuthenticationError, which never repeats what was sent."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
    if given is None:
        raise AuthenticationError(
            "no API key; send it as 'Authorization: Bearer KEY'", code="missing_api_key", headers=_CHALLENGE
        )
    presented = given[len(_SCHEME) :].strip() if given[: len(_SCHEME)].lower() == _SCHEME else b""
    name = keys.ring.name_of(presented)
    if name is None:
        raise AuthenticationError(
            "the API key is not one of this server's; ask whoever runs it for one, and send it as "
            "'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers=_CHALLENGE,
        )
    return name
