"""Panels and dashboards, built with Grafana's own types, so that what is written has the fields that Grafana knows."""

import json
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from deploy.observability.expressions import Scope
from fathom_loadtest.server_side import names as triton
from fathom_server.gateway.edge import metric_names as gateway

TAG: Final = "fathom"
WINDOW: Final = "$__rate_interval"
SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

MACHINES: Final = Scope('job=~"$server",instance=~"$instance"', 'job=~"$gateway"', WINDOW)
MODELS: Final = Scope('job=~"$server",instance=~"$instance",model=~"$model"', 'job=~"$gateway"', WINDOW)
"""What the variables at a dashboard's head choose: servers with their instances, and of these the models."""

MODEL: Final = (triton.MODEL,)
INSTANCE: Final = ("instance",)
OF_MODEL: Final = "{{model}}"
OF_INSTANCE: Final = "{{instance}}"
"""Groupings, and legends for them."""

HEIGHT: Final = 8
STAT_HEIGHT: Final = 4


@dataclass(frozen=True, slots=True)
class Query:
    """A question and how the legend names its answers (``{{label}}``)."""

    expression: str
    legend: str


def curves(
    title: str, about: str, unit: str, *queries: Query, span: int = 8, stacked: bool = False, most: float | None = None
) -> timeseries.Panel:
    """Curves over time; ``unit`` is one of Grafana's, ``span`` of 24 columns, ``most`` the axis's end."""
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST).show_legend(True)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .height(HEIGHT)
        .span(span)
        .fill_opacity(30 if stacked else 8)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(legend.placement(common_models.LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if most is not None:
        panel = panel.max(most)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    for query, letter in zip(queries, "ABCDEFGH", strict=False):
        panel = panel.with_target(_target(query, letter))
    return panel


def number(title: str, about: str, unit: str, query: Query, *, bad_from: float | None = None) -> stat.Panel:
    """One figure as it is now, red from ``bad_from`` on."""
    steps = [models.Threshold(value=None, color="green")]
    if bad_from is not None:
        steps.append(models.Threshold(value=bad_from, color="red"))
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .height(STAT_HEIGHT)
        .span(4)
        .no_value("–")
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_target(query, "A"))
    )


def board(uid: str, title: str, about: str, refresh: str = "30s", since: str = "now-1h") -> dashboard.Dashboard:
    """An empty dashboard with the variables that all have, and Fathom's alerts as annotations."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh(refresh)
        .time(since, "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_choice("server", "Servers", f"label_values({triton.SUCCESS}, job)"))
        .with_variable(_choice("instance", "Instance", 'label_values(up{job=~"$server"}, instance)'))
        .with_variable(_choice("model", "Model", f'label_values({triton.SUCCESS}{{job=~"$server"}}, {triton.MODEL})'))
        .with_variable(_choice("gateway", "Gateways", f"label_values({gateway.CONNECTIONS}, job)"))
        .annotation(
            dashboard.AnnotationQuery()
            .name("Alerts")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr('ALERTS{alertname=~"Fathom.+",alertstate="firing"}')
        )
        .link(
            dashboard.DashboardLink("Fathom")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )


def quantiles(scope: Scope, histogram: str) -> tuple[Query, ...]:
    """Median, 95th and 99th percentile of a histogram, by model."""
    return tuple(
        Query(scope.quantile(share, histogram, MODEL), f"p{share * 100:g} {{{{{triton.MODEL}}}}}")
        for share in (0.5, 0.95, 0.99)
    )


def mean_seconds(total_us: str) -> str:
    """Mean of one of Triton's summed durations (in microseconds) over answered requests, in seconds."""
    return f"{MODELS.rate(total_us, MODEL)} / {MODELS.rate(triton.SUCCESS, MODEL)} / 1e6"


def board_text(built: dashboard.Dashboard) -> str:
    """A dashboard's file."""
    document: Any = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    for panel_id, panel in enumerate(document["panels"], start=1):
        panel["id"] = panel_id
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(letter).range()


def _choice(name: str, label: str, question: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": question, "refId": name, "qryType": 1})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
    )
