"""PromQL over the metrics' names: what rules and dashboards ask, written once."""

from dataclasses import dataclass
from typing import Final

from fathom_client import metric_names as engine
from fathom_loadtest.server_side import names as triton
from fathom_server.gateway.edge import metric_names as gateway

SERVER_JOB: Final = "fathom-server"
GATEWAY_JOB: Final = "fathom-gateway"
"""Names of the scrape jobs in prometheus.yml; the chart puts its services' labels in their place."""

SERVER: Final = f'job="{SERVER_JOB}"'
GATEWAY: Final = f'job="{GATEWAY_JOB}"'

PLACE: Final = ("namespace", "job")
"""Labels that tell one deployment's series from another's."""
MODEL: Final = (*PLACE, triton.MODEL)
ROUTE: Final = (*PLACE, gateway.ROUTE)

FAILURES: Final = f'{engine.FINISHED_REASON}=~"error|deadline"'
"""Ends of answers that count against the objective: our faults, and deadlines that passed. Whoever leaves chose to."""
FAULTS: Final = f'{engine.FINISHED_REASON}="error"'
SERVER_ERRORS: Final = f'{gateway.STATUS}=~"5.."'


@dataclass(frozen=True, slots=True)
class Scope:
    """The series that expressions are about: matchers (``job="…"``) of servers and of gateways, and rates' windows."""

    server: str = SERVER
    gateway: str = GATEWAY
    window: str = "5m"

    def over(self, window: str) -> "Scope":
        """The same series over another window."""
        return Scope(self.server, self.gateway, window)

    def series(self, name: str, *matchers: str) -> str:
        """A metric's series: ``name{…}``; ``matchers`` are further ones."""
        job = self.gateway if name.startswith(("fathom_gateway_", "process_")) else self.server
        return f"{name}{{{','.join((job, *matchers))}}}"

    def sum(self, name: str, by: tuple[str, ...] = (), *matchers: str) -> str:
        """Sum of a gauge."""
        return f"sum{_by(by)}({self.series(name, *matchers)})"

    def rate(self, name: str, by: tuple[str, ...] = (), *matchers: str) -> str:
        """Sum of a counter's rates, per second."""
        return f"sum{_by(by)}(rate({self.series(name, *matchers)}[{self.window}]))"

    def increase(self, name: str, by: tuple[str, ...] = (), *matchers: str) -> str:
        """Sum of what a counter grew by within the window."""
        return f"sum{_by(by)}(increase({self.series(name, *matchers)}[{self.window}]))"

    def quantile(self, share: float, histogram: str, by: tuple[str, ...] = ()) -> str:
        """A quantile of a histogram, to the width of its buckets."""
        buckets = self.rate(f"{histogram}_bucket", (*by, engine.BUCKET_BOUND))
        return f"histogram_quantile({share:g}, {buckets})"

    def mean(self, histogram: str, by: tuple[str, ...] = ()) -> str:
        """Mean of a histogram: a ratio of sums over all pods, never a mean of the pods' ratios."""
        return f"{self.rate(f'{histogram}_sum', by)} / {self.rate(f'{histogram}_count', by)}"

    def share_within(self, bound_s: float, histogram: str, by: tuple[str, ...] = ()) -> str:
        """Share of a histogram's values up to a bound, which must be one of its buckets'."""
        within = self.rate(f"{histogram}_bucket", by, f'{engine.BUCKET_BOUND}="{bound_s:g}"')
        return f"{within} / {self.rate(f'{histogram}_count', by)}"

    def share_failed(self, by: tuple[str, ...] = ()) -> str:
        """Share of an LLM's answers that failed, of those whose callers stayed."""
        stayed = f'{engine.FINISHED_REASON}!="cancelled"'
        failed = self.rate(engine.REQUEST_ENDS, by, FAILURES)
        return f"{failed} / {self.rate(engine.REQUEST_ENDS, by, stayed)}"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""
