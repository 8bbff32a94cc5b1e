"""Where servers are."""

import re
from collections.abc import Sequence
from typing import Final

from fathom_client.errors import InvalidArgumentError

DEFAULT_URL: Final = "localhost:8001"
"""Triton's gRPC port on this machine."""


def check_url(url: object) -> str:
    """Return a gRPC address; raise InvalidArgumentError if it is one of HTTP or has no port."""
    if not isinstance(url, str) or re.match(r"https?://", url) or not re.search(r"[^:/]:\d+$", url):
        raise InvalidArgumentError(f"url is {url!r}; give HOST:PORT of the gRPC service, such as {DEFAULT_URL}")
    return url


def check_urls(url: object) -> tuple[str, ...]:
    """Return the addresses of one server or of several; raise InvalidArgumentError naming the one that is none."""
    if isinstance(url, str) or not isinstance(url, Sequence):
        return (check_url(url),)
    urls = tuple(check_url(each) for each in url)
    if not urls:
        raise InvalidArgumentError(f"url is empty; give at least one HOST:PORT, such as {DEFAULT_URL}")
    for each in urls:
        if urls.count(each) > 1:
            raise InvalidArgumentError(f"url names {each!r} more than once; name each server once")
    return urls
