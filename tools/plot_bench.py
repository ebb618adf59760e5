#!/usr/bin/env python3
"""Draws what `kvcrush bench --json FILE` wrote: load over time, latencies, status codes. usage: tools/plot_bench.py BENCH.json [OUT.png]"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BLUE, GREY, RED, GREEN = "#2a7ab9", "#888888", "#c0392b", "#2e8b57"


def steps(axis, values, **style):
    """One value for each second, the last one drawn as long as the others."""
    axis.step(range(len(values) + 1), [*values, *values[-1:]], where="post", **style)


def legend(*axes):
    handles, labels = zip(*(axis.get_legend_handles_labels() for axis in axes))
    axes[0].legend(sum(handles, []), sum(labels, []), fontsize=8, frameon=False, loc="upper left", ncols=3)
    for axis in axes:
        axis.set_ylim(0, axis.get_ylim()[1] * 1.2)  # room for the legend


def draw_tokens(axis, bench):
    seconds = bench["seconds"]
    in_flight = axis.twinx()
    steps(axis, seconds["generated_tokens"], color=BLUE, label="generated tokens")
    steps(in_flight, seconds["in_flight"], color=GREY, linestyle="--", label="requests in flight (right)")
    legend(axis, in_flight)
    axis.set_title("throughput in each second")


def draw_requests(axis, bench):
    seconds = bench["seconds"]
    times = range(len(seconds["ok"]))
    axis.bar(times, seconds["ok"], width=1, align="edge", color=GREEN, label="ended well")
    axis.bar(times, seconds["failed"], width=1, align="edge", bottom=seconds["ok"], color=RED, label="failed")
    steps(axis, seconds["due"], color="black", linewidth=1, label="due")
    legend(axis)
    axis.set_title("requests in each second")


def mark_measured_time(axis, bench):
    begin = bench["load"]["warmup_s"]
    for edge in (begin, begin + bench["measured_s"]):
        axis.axvline(edge, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_xlabel("seconds; measured between the dotted lines")


def draw_cdf(axis, bench, name, title, limit):
    latency = bench["latency"][name]
    axis.set_title(f"{title}, ms")
    axis.set_ylabel("share of samples")
    axis.set_ylim(0, 1.02)
    if latency["count"] == 0:
        axis.text(0.5, 0.5, "no samples", ha="center", transform=axis.transAxes)
        return
    points = latency["quantiles"]
    axis.plot(points, [i / (len(points) - 1) for i in range(len(points))], color=BLUE)
    for figure in ("p50", "p95", "p99"):
        axis.axvline(latency[figure], color=GREY, linewidth=0.8, linestyle=":")
        axis.text(latency[figure], 0.02, f" {figure} {latency[figure]:,.4g}", rotation=90, fontsize=8, va="bottom", ha="right")
    if limit is not None:
        axis.axvline(limit, color=RED, linewidth=1)
        axis.text(limit, 0.98, "SLO ", color=RED, fontsize=8, va="top", ha="right")
    axis.set_xlim(left=0)


def draw_codes(axis, bench):
    counts = dict(bench["counts"]["by_code"])
    if bench["counts"]["cut_off"]:
        counts["cut off"] = bench["counts"]["cut_off"]
    names = list(counts)
    axis.barh(names, [counts[name] for name in names], height=0.5, color=[GREEN if name == "OK" else RED for name in names])
    for row, name in enumerate(names):
        axis.text(counts[name], row, f" {counts[name]:,}", va="center", fontsize=9)
    axis.set_title("measured requests by status")
    axis.set_ylim(-1, len(names))
    axis.margins(x=0.15)


def heading(bench):
    load, rates = bench["load"], bench["throughput"]
    kind = f"open loop, {load['rate_per_s']:g} requests/s" if load["rate_per_s"] else f"closed loop, {load['concurrency']} in flight"
    return (f"{bench['server']['model']} on {bench['server']['device']}: {kind}; "
            f"{rates['requests_per_s']:.3g} requests/s, {rates['generated_tokens_per_s']:,.4g} generated tokens/s")


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    path = pathlib.Path(sys.argv[1])
    bench = json.loads(path.read_text(encoding="utf-8"))
    if bench.get("format") != "kvcrush-bench-1":
        print(f"{path}: format is {bench.get('format')!r}, wanted: 'kvcrush-bench-1' (written by kvcrush bench --json)", file=sys.stderr)
        return 1
    figure, axes = plt.subplots(2, 3, figsize=(14, 7))
    draw_tokens(axes[0][0], bench)
    draw_requests(axes[0][1], bench)
    for axis in axes[0][:2]:
        mark_measured_time(axis, bench)
    draw_codes(axes[0][2], bench)
    draw_cdf(axes[1][0], bench, "ttft_ms", "time to first token", bench["slo"]["ttft_ms"])
    draw_cdf(axes[1][1], bench, "itl_ms", "between chunks (ITL)", None)
    draw_cdf(axes[1][2], bench, "tpot_ms", "mean of a request (TPOT)", bench["slo"]["itl_ms"])
    for axis in axes.flat:
        axis.spines["top"].set_visible(False)
    figure.suptitle(heading(bench))
    figure.tight_layout()
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else path.with_suffix(".png")
    figure.savefig(out, dpi=110)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
