"""The dashboards: overview, engine, autoscaling and load test."""

from collections.abc import Callable, Mapping
from typing import Final

from grafana_foundation_sdk.builders import dashboard

from deploy.observability.dashboards.autoscaling import autoscaling
from deploy.observability.dashboards.engine import engine_internals
from deploy.observability.dashboards.load_test import load_test
from deploy.observability.dashboards.overview import overview
from deploy.observability.panels import board_text

BOARDS: Final[Mapping[str, Callable[[], dashboard.Dashboard]]] = {
    "overview": overview,
    "engine": engine_internals,
    "autoscaling": autoscaling,
    "loadtest": load_test,
}
"""The dashboards by the names of their files."""


def dashboard_texts() -> dict[str, str]:
    """The files' names and contents."""
    return {f"{name}.json": board_text(made()) for name, made in BOARDS.items()}
