"""Which workers share a run's load."""

from dataclasses import dataclass
from typing import Final

from fathom_loadtest.workers.secret import WorkerSecret

ANY_HOST: Final = "0.0.0.0"  # noqa: S104 - workers on other hosts are what it is for, and they need a secret there
LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 5557
"""Locust's own port for workers."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """So many workers: processes of this host that the run starts, or others that it awaits at ``host``, ``port``.

    Without a ``secret`` anybody who reaches that address may be one of them.
    """

    number: int
    is_local: bool
    host: str
    port: int
    secret: WorkerSecret | None

    @property
    def is_open(self) -> bool:
        """Whether strangers on other hosts could take part."""
        return self.secret is None and not self.host.startswith("127.") and self.host not in ("localhost", "::1")
