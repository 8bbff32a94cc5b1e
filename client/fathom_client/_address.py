"""Where a server is."""

import re
from typing import Final

from fathom_client.errors import InvalidArgumentError

DEFAULT_URL: Final = "localhost:8001"
"""Triton's gRPC port on this machine."""


def check_url(url: object) -> str:
    """Return a gRPC address; raise InvalidArgumentError if it is one of HTTP or has no port."""
    if not isinstance(url, str) or re.match(r"https?://", url) or not re.search(r"[^:/]:\d+$", url):
        raise InvalidArgumentError(f"url is {url!r}; give HOST:PORT of the gRPC service, such as {DEFAULT_URL}")
    return url
