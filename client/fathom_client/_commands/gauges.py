"""What runs and waits at this moment, from Triton's metrics port."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from fathom_client import metric_names
from fathom_client._timeouts import Timeout
from fathom_client.errors import InvalidArgumentError, ServerUnavailableError

PENDING: Final = "nv_inference_pending_request_count"
"""Triton's own, of each model that is not decoupled."""

COLUMNS: Final[Mapping[str, str]] = {
    "PENDING": PENDING,
    "RUNNING": metric_names.REQUESTS_RUNNING,
    "WAITING": metric_names.REQUESTS_WAITING,
    "KV_USAGE": metric_names.KV_CACHE_USAGE,
}
"""Gauges by their headings."""

_SAMPLE: Final = re.compile(r'(?m)^(\w+)\{[^}]*\bmodel="([^"]*)"[^}]*\} (\S+)')


def read_gauges(address: str) -> dict[str, dict[str, float]]:
    """The gauges of ``COLUMNS`` by model and name; raises ServerUnavailableError, InvalidArgumentError.

    ``address`` is HOST:PORT of Triton's metrics, or a whole URL.
    """
    url = address if "://" in address else f"http://{address}/metrics"
    if not url.startswith(("http://", "https://")):
        raise InvalidArgumentError(f"--metrics is {address!r}; give HOST:PORT of Triton's metrics, or a URL of http")
    import urllib.request  # slow to import

    try:
        with urllib.request.urlopen(url, timeout=Timeout().control_s) as response:  # noqa: S310 # checked above
            text = response.read().decode("utf-8", errors="replace")
    except (OSError, ValueError) as error:  # ValueError: no URL; an HTTP error is an OSError
        reason = getattr(error, "reason", error)
        raise ServerUnavailableError(
            f"no metrics at {url}: {reason}; give the address of Triton's metrics port, often 8002"
        ) from None
    gauges: dict[str, dict[str, float]] = {}
    for model, name, value in _samples(text):
        gauges.setdefault(model, {})[name] = value
    return gauges


def _samples(text: str) -> Iterator[tuple[str, str, float]]:
    for name, model, value in _SAMPLE.findall(text):
        if name in COLUMNS.values():
            yield model, name, float(value)
