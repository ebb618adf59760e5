"""Queries and panels as this dashboard uses them: every panel has a title, a unit, a description and named queries."""

from __future__ import annotations

import string

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
GRID_WIDTH = 24

Queries = dict[str, str]  # legend to PromQL


def select(metric: str, *matchers: str) -> str:
    """The metric of the servers that are picked at the top of the dashboard."""
    joined = ", ".join(('job=~"$job"', 'instance=~"$instance"', *matchers))
    return f"{metric}{{{joined}}}"


def rate(metric: str, *matchers: str, by: str = "") -> str:
    total = f"sum by ({by})" if by else "sum"
    return f"{total} (rate({select(metric, *matchers)}[$__rate_interval]))"


def quantiles(histogram: str) -> Queries:
    """Over all picked servers together."""
    buckets = rate(f"{histogram}_bucket", by="le")
    return {f"p{round(100 * q)}": f"histogram_quantile({q}, {buckets})" for q in (0.5, 0.95, 0.99)}


def mean(histogram: str) -> str:
    return f"{rate(histogram + '_sum')} / {rate(histogram + '_count')}"


def query(expr: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).legend_format(legend).range().ref_id("A")


def named(builder, title: str, unit: str, description: str, span: int):
    return builder.title(title).unit(unit).description(description).span(span).height(HEIGHT).datasource(DATASOURCE)


def graph(title: str, unit: str, description: str, queries: Queries, span: int = 8, stacked: bool = False,
          most: float | None = None) -> timeseries.Panel:
    panel = named(timeseries.Panel(), title, unit, description, span)
    panel.line_width(1).fill_opacity(30 if stacked else 10).show_points(common.VisibilityMode.NEVER).min(0)
    panel.tooltip(build_common.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    panel.legend(build_common.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
                 .placement(common.LegendPlacement.BOTTOM).show_legend(True).calcs(["lastNotNull", "max"]))
    if stacked:
        panel.stacking(build_common.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel.max(most)
    for ref_id, (legend, expr) in zip(string.ascii_uppercase, queries.items()):
        panel.with_target(query(expr, legend).ref_id(ref_id))
    return panel


def number(title: str, unit: str, description: str, expr: str, span: int = 3,
           bounds: dict[float, str] | None = None) -> stat.Panel:
    """One value; `bounds` colours it from that value on, green below the first."""
    steps = [dashboard.Threshold(value=None, color="green")]
    steps += [dashboard.Threshold(value=value, color=color) for value, color in (bounds or {}).items()]
    panel = named(stat.Panel(), title, unit, description, span).height(4)
    panel.thresholds(build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))
    panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.AREA)
    panel.reduce_options(build_common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(query(expr, title))


def distribution(title: str, unit: str, description: str, histogram: str, span: int = 8) -> heatmap.Panel:
    panel = named(heatmap.Panel(), title, unit, description, span)
    panel.calculate(False).color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(32))
    panel.y_axis(heatmap.YAxisConfig().unit(unit))
    expr = f"sum by (le) (increase({select(histogram + '_bucket')}[$__rate_interval]))"
    return panel.with_target(query(expr, "{{le}}").format(PromQueryFormat.HEATMAP))


def facts(title: str, description: str, expr: str, span: int) -> table.Panel:
    """The labels of an info metric, one server a line."""
    panel = named(table.Panel(), title, "none", description, span).height(4)
    panel.with_transformation(dashboard.DataTransformerConfig(
        id_val="organize", options={"excludeByName": {"Time": True, "Value": True, "__name__": True, "job": True}}))
    return panel.with_target(prometheus.Dataquery().expr(expr).instant().format(PromQueryFormat.TABLE).ref_id("A"))
