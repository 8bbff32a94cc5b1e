"""One look at a server's metrics page."""

import http.client
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from fathom_loadtest.errors import MetricsError

TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 16 << 20
_PREFIXES: Final = ("nv_inference_", "nv_gpu_", "fathom_")

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of one page, by name and labels; ``at_ns`` is ``time.perf_counter_ns()`` when it had come.

    Names have no ``_total``: the parser adds it to counters that lack it, as Triton's do.
    """

    at_ns: int
    samples: dict[str, dict[Labels, float]]

    @classmethod
    def fetch(cls, url: str) -> Self:
        """Fetch and parse a page. Raises MetricsError saying why that did not go."""
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the scheme was checked
                page = answer.read(_MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise MetricsError(f"no metrics at {url}: HTTP status {error.code}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise MetricsError(f"no metrics at {url}: {reason}") from error
        if len(page) > _MOST_BYTES:
            raise MetricsError(f"no metrics at {url}: the page has more than {_MOST_BYTES >> 20} MiB")
        try:
            return cls.parse(page.decode("utf-8"), time.perf_counter_ns())
        except ValueError as error:
            raise MetricsError(f"no metrics at {url}: the page is not Prometheus's text format ({error})") from error

    @classmethod
    def parse(cls, page: str, at_ns: int) -> Self:
        """Read Prometheus's text format; raises ValueError where it is none."""
        from prometheus_client.parser import text_string_to_metric_families

        samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(page):
            if family.name.startswith(_PREFIXES):
                for sample in family.samples:
                    if math.isfinite(sample.value):
                        samples.setdefault(_bare(sample.name), {})[frozenset(sample.labels.items())] = sample.value
        return cls(at_ns, samples)

    def total(self, name: str, **labels: str) -> float:
        """Sum the samples of a name that have these labels; 0 where there are none."""
        return sum(self.values(name, **labels))

    def values(self, name: str, **labels: str) -> list[float]:
        """Give the samples of a name that have these labels."""
        wanted = set(labels.items())
        return [value for found, value in self.of(name).items() if wanted <= found]

    def of(self, name: str) -> dict[Labels, float]:
        """Give every sample of a name, by its labels."""
        return self.samples.get(_bare(name), {})

    def label_values(self, name: str, label: str) -> Iterator[str]:
        """Give each value that a label has among the samples of a name, in order."""
        yield from sorted({dict(labels)[label] for labels in self.of(name) if label in dict(labels)})


def _bare(name: str) -> str:
    return name.removesuffix("_total")
