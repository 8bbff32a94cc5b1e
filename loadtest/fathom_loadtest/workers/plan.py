"""Which workers share a run's load."""

from dataclasses import dataclass
from typing import Final

ANY_HOST: Final = "0.0.0.0"  # noqa: S104 - workers on other hosts are what it is for
DEFAULT_PORT: Final = 5557
"""Locust's own port for workers."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """So many workers: processes of this host that the run starts, or others that it awaits at ``host``, ``port``."""

    number: int
    is_local: bool
    host: str
    port: int
