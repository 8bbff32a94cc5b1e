"""The layer that takes a body in: JSON, no larger, later or deeper than allowed, before anything parses it."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fathom_server.gateway.edge.json_depth import is_deeper_than
from fathom_server.gateway.edge.request_record import record_of
from fathom_server.gateway.errors import (
    ApiError,
    BodyTooLargeError,
    InvalidApiRequestError,
    MediaTypeError,
    SlowRequestError,
    UnavailableError,
    error_response,
)
from fathom_server.gateway.settings import GatewaySettings

BUFFERED_BODIES: Final = 16
"""The bodies held at once have room for so many of the largest that is allowed."""

BUSY_RETRY_S: Final = 1.0
LOGGED_BYTES: Final = 20_000
"""So much of a body goes into the log, where texts may."""

_JSON: Final = re.compile(rb'application/json\s*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?;?\s*', re.IGNORECASE)


@dataclass(slots=True)
class _Body:
    """A body as it comes: its pieces, and its size, which outlives them."""

    pieces: list[bytes] = field(default_factory=list)
    size: int = 0

    def handing_on(self, receive: Receive) -> Receive:
        """The rest of a request whose body is one piece: that piece, which is let go of, then what comes after it."""

        async def hand_on() -> Message:
            if self.pieces:
                return {"type": "http.request", "body": self.pieces.pop(), "more_body": False}
            return await receive()

        return hand_on


class Body:
    """Reads the body of a request of the models whole and hands it on in one piece."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._settings = settings
        self._room_bytes = BUFFERED_BODIES * settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say what is wrong with its body."""
        if scope["type"] != "http" or not record_of(scope).is_work:
            await self._app(scope, receive, send)
            return
        record, body = record_of(scope), _Body()
        try:
            _check_headers(scope, self._settings.max_body_bytes)
            if not await self._read(body, receive):
                record.has_hung_up = True
                return
            body.pieces[:] = [b"".join(body.pieces)]
            _check_json(body.pieces[0], self._settings.max_json_depth)
            if self._settings.log_prompts:
                record.prompt = body.pieces[0][:LOGGED_BYTES].decode("utf-8", errors="replace")
            await self._app(scope, body.handing_on(receive), send)
        except ApiError as error:  # those of the routes are answered by the application
            record.rejected = "body"
            await error_response(error)(scope, receive, send)
        finally:
            self._room_bytes += body.size

    async def _read(self, body: _Body, receive: Receive) -> bool:
        """Read the whole body; whether the caller was there to the end. Raises ApiError."""
        limit_bytes, limit_s = self._settings.max_body_bytes, self._settings.body_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    chunk = message.get("body", b"")
                    if body.size + len(chunk) > limit_bytes:
                        raise _too_large(limit_bytes)
                    if len(chunk) > self._room_bytes:
                        raise UnavailableError(
                            "too many large requests are being read; try again", code="busy", retry_after_s=BUSY_RETRY_S
                        )
                    self._room_bytes -= len(chunk)
                    body.size += len(chunk)
                    body.pieces.append(chunk)
                    if not message.get("more_body", False):
                        return True
        except TimeoutError:
            raise SlowRequestError(
                f"the body did not arrive within {limit_s:g} s ({body.size} bytes did); send it faster",
                code="slow_request",
            ) from None


def _check_headers(scope: Scope, limit_bytes: int) -> None:
    """Refuse what the headers alone tell to be no JSON or too large; raises ApiError."""
    headers = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"")
    if not _JSON.fullmatch(media_type):
        given = f"is {media_type.decode('latin-1')!r}" if media_type else "is missing"
        raise MediaTypeError(f"the content type {given}; send JSON as 'application/json', in UTF-8", code="media_type")
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise MediaTypeError(
            f"the content encoding is {encoding.decode('latin-1')!r}; send the body uncompressed", code="media_type"
        )
    if int(headers.get(b"content-length", b"0")) > limit_bytes:
        raise _too_large(limit_bytes)


def _check_json(body: bytes, depth: int) -> None:
    """Refuse what is no text, or nested too deeply; raises ApiError."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidApiRequestError(
            f"the body is not UTF-8: the byte 0x{body[error.start]:02x} at {error.start}; send JSON in UTF-8",
            code="invalid_encoding",
        ) from None
    if b"\0" in body:  # a parser would take it for UTF-16
        raise InvalidApiRequestError(
            f"the body has a zero byte at {body.index(0)}; send JSON in UTF-8", code="invalid_encoding"
        )
    if is_deeper_than(body, depth):
        raise InvalidApiRequestError(
            f"arrays and objects are nested more than {depth} deep; send flatter JSON", code="nesting_too_deep"
        )


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is larger than {limit_bytes} bytes, the most that is taken; send less", code="body_too_large"
    )
