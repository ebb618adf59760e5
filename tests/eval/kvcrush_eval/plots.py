"""Pictures of a summary. Full cache is black, ours red, the paper's orange, SnapKV blue, the rest grey."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

from kvcrush_eval.stats import Estimate  # noqa: E402
from kvcrush_eval.variants import POLICIES  # noqa: E402

COLOURS = {"full": "#111111", "default": "#c8202e", "target": "#c8202e", "paper": "#e08a00", "snapkv": "#2a6fb0"}
GREY = "#9a9a9a"
BYTES_TICKS = (1, 0.75, 0.5, 0.25, 0.125, 0.0625, 0.03)
DTYPES = ("f16", "int8", "int4")
LABEL_GAP_POINTS = 9
HALO = [withStroke(linewidth=2, foreground="white")]  # keeps a name readable over a line
Point = tuple[Estimate, Estimate, str]  # x, y, label


def _style(axis) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)


def _bytes_axis(axis) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(BYTES_TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_xlabel("KV bytes, full 16-bit cache = 1")
    _style(axis)


def _points(summary: dict, method: str, dtype: str | None, task: str, y: Callable[[dict], Estimate | None]) -> list[Point]:
    """(bytes, y) of one method, by rising bytes."""
    found = []
    for name, entry in summary.items():
        figures = entry[task]
        if entry["method"] == method and dtype in (None, entry["dtype"]) and figures and figures["bytes"] and y(figures):
            found.append((figures["bytes"], y(figures), name))
    return sorted(found, key=lambda point: point[0].value)


def _draw(axis, points: Sequence[Point], method: str, *, line: bool = True) -> None:
    colour, front = COLOURS.get(method, GREY), method in COLOURS
    y = [p[1].value for p in points]
    errors = [[max(p[1].value - p[1].low, 0) for p in points], [max(p[1].high - p[1].value, 0) for p in points]]
    axis.errorbar([p[0].value for p in points], y, yerr=errors, color=colour, marker="o" if line else "D", markersize=5 if front else 3,
                  linewidth=(2 if front else 1) if line else 0, elinewidth=1, capsize=2, alpha=1 if front else 0.8,
                  zorder=3 if front else 2)


def _label_lines(axis, labels: list[tuple[float, float, str, str]], *, left: bool) -> None:
    """Names beside the ends (x, y, text, colour) of lines, moved apart where they would touch."""
    axis.figure.canvas.draw()
    to_points = 72 / axis.figure.dpi
    labels = sorted(labels, key=lambda label: label[1])
    ends = [axis.transData.transform(label[:2])[1] * to_points for label in labels]
    places: list[float] = []
    for end in ends:
        places.append(max(end, places[-1] + LABEL_GAP_POINTS) if places else end)
    middle = sum(place - end for place, end in zip(places, ends)) / max(len(ends), 1)
    for (x, y, text, colour), end, place in zip(labels, ends, places):
        axis.annotate(text, (x, y), (-7 if left else 7, place - middle - end), textcoords="offset points", color=colour, fontsize=8,
                      va="center", ha="right" if left else "left", annotation_clip=False, path_effects=HALO)


def _label_points(axis, points: Sequence[Point], method: str) -> None:
    """Names of single points: targets above them, whole caches below."""
    above = method == "target"
    for x, y, name in points:
        axis.annotate(name, (x.value, y.high if above else y.low), (0, 4 if above else -4), textcoords="offset points", fontsize=8,
                      color=COLOURS[method], ha="center", va="bottom" if above else "top", path_effects=HALO)


def _save(figure, path: pathlib.Path) -> pathlib.Path:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return path


def _scatter(summary: dict, methods: Sequence[str], task: str, y: Callable[[dict], Estimate | None], y_label: str,
             path: pathlib.Path, *, log_y: bool) -> pathlib.Path | None:
    """One panel per dtype, a line per method; whole-cache and target points in every panel."""
    lines = {(method, dtype): _points(summary, method, dtype, task, y) for method in methods for dtype in DTYPES}
    dtypes = [dtype for dtype in DTYPES if any(lines[method, dtype] for method in methods)]
    if not dtypes:
        return None
    figure, axes = plt.subplots(1, len(dtypes), figsize=(1 + 5 * len(dtypes), 4.6), sharey=True, squeeze=False)
    drawn = []
    for axis, dtype in zip(axes[0], dtypes):
        _bytes_axis(axis)
        axis.set_yscale("log" if log_y else "linear")
        axis.set_title(f"pruned cache in {dtype}", fontsize=10)
        labels = []
        for method in methods:
            if points := lines[method, dtype]:
                _draw(axis, points, method)
                labels.append((points[0][0].value, points[0][1].value, method, COLOURS.get(method, "#666666")))
        for method in ("full", "target"):
            points = [p for p in _points(summary, method, None, task, y) if not log_y or p[1].value > 1e-6]
            _draw(axis, points, method, line=False)
            _label_points(axis, points, method)
        axis.set_xlim(left=axis.get_xlim()[0] * 0.6)  # room for the names
        if not log_y:
            axis.set_ylim(top=axis.get_ylim()[1] + 2)
        drawn.append((axis, labels))
    for axis, labels in drawn:  # once the shared scale stands
        _label_lines(axis, labels, left=True)
    axes[0][0].set_ylabel(y_label)
    return _save(figure, path)


def _crush_on_off(summary: dict, folder: pathlib.Path) -> pathlib.Path | None:
    kl = lambda figures: figures["kl"]  # noqa: E731
    pairs = [(policy, _points(summary, policy, "f16", "probe", kl),
              _points(summary, "paper" if policy == "snapkv" else f"{policy}+crush", "f16", "probe", kl)) for policy in POLICIES]
    pairs = [pair for pair in pairs if pair[1] and pair[2]]
    if not pairs:
        return None
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3.2 * rows), sharey=True, squeeze=False, layout="constrained")
    for axis in axes.flat[len(pairs):]:
        axis.set_visible(False)
    for axis, (policy, off, on) in zip(axes.flat, pairs):
        _bytes_axis(axis)
        axis.set_yscale("log")
        axis.set_title(policy, fontsize=10)
        _draw(axis, off, "snapkv")
        _draw(axis, on, "paper")
    axes[0][0].legend(["alone", "with the paper's KVCrush"], frameon=False, fontsize=8)
    figure.supylabel("mean KL to the full cache, nats")
    return _save(figure, folder / "crush_on_off.png")


def _needle(summary: dict, folder: pathlib.Path) -> pathlib.Path | None:
    measured = [(name, entry["needle"]["grid"]) for name, entry in summary.items() if entry["needle"]]
    wanted = ("full", "snapkv:0.25", "paper:0.25", "default:0.25", "target:4", "target:8", "target:16")
    shown = [m for m in measured if m[0] in wanted] or measured[:12]
    if not shown:
        return None
    shown.sort(key=lambda m: wanted.index(m[0]) if m[0] in wanted else len(wanted))
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.9 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(shown):]:
        axis.set_visible(False)
    for axis, (name, grid) in zip(axes.flat, shown):
        lengths, depths = sorted({c["length"] for c in grid}), sorted({c["depth"] for c in grid})
        found = {(c["length"], c["depth"]): c["found"] for c in grid}
        cells = [[found.get((length, depth), float("nan")) for length in lengths] for depth in depths]
        axis.imshow(cells, vmin=0, vmax=100, cmap="Blues", aspect="auto")
        for (length, depth), value in found.items():
            axis.text(lengths.index(length), depths.index(depth), f"{value:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if value > 60 else "black")
        axis.set_xticks(range(len(lengths)), [f"{n / 1000:g}k" for n in lengths])
        axis.set_yticks(range(len(depths)), [f"{100 * d:.0f} %" for d in depths])
        axis.set_title(name, fontsize=10)
    figure.supxlabel("prompt tokens")
    figure.supylabel("depth of the needle")
    figure.suptitle("needles found, %")
    return _save(figure, folder / "needle.png")


def _speed(summary: dict, folder: pathlib.Path) -> pathlib.Path | None:
    datasets = sorted({d for entry in summary.values() for d in entry["speed"]}, key=lambda d: int(d.rpartition("_")[2]))
    if not datasets:
        return None
    dataset = datasets[-1]
    lines: dict[str, list[tuple[float, float, Estimate]]] = {}
    for name, entry in summary.items():
        figures = entry["speed"].get(dataset)
        if figures and "kv_bytes_held" in figures and not isinstance(entry["budget"], int):
            label = entry["method"] + ("" if entry["dtype"] in ("f16", "server") else f" {entry['dtype']}")
            lines.setdefault(label, []).append((entry["budget"] or 1.0, figures["kv_bytes_held"].value / 2**20, figures["tokens_per_s"]))
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4))
    labels: tuple[list, list] = ([], [])
    for label, points in lines.items():
        points.sort(key=lambda point: point[0])
        budgets, colour = [p[0] for p in points], COLOURS.get(label.split()[0], GREY)
        style = {"color": colour, "marker": "o", "linestyle": "--" if " " in label else "-"}
        speeds = [p[2].value for p in points]
        axes[0].plot(budgets, [p[1] for p in points], **style)
        axes[1].errorbar(budgets, speeds, yerr=[[max(p[2].value - p[2].low, 0) for p in points],
                                                [max(p[2].high - p[2].value, 0) for p in points]], capsize=2, **style)
        labels[0].append((budgets[-1], points[-1][1], label, colour))
        labels[1].append((budgets[-1], speeds[-1], label, colour))
    length = dataset.rpartition("_")[2]
    for axis, title, names in zip(axes, ("KV bytes held at the end, MiB", "tokens per second, decode"), labels):
        axis.set_ylim(bottom=0)
        axis.set_xlabel("budget, share of the prompt's tokens")
        axis.set_title(f"{title} ({length} prompt tokens)", fontsize=10)
        _style(axis)
        _label_lines(axis, names, left=False)
    figure.subplots_adjust(wspace=0.45)
    return _save(figure, folder / "speed.png")


def draw(summary: dict[str, dict], folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the pictures that the results allow; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {entry["method"] for entry in summary.values()} - {"full", "target", "server"}
    front = [m for m in ("snapkv", "paper", "default") if m in known]
    # The paper's KVCrush on the other policies has a picture of its own; general variants are drawn in grey.
    methods = sorted(m for m in known - set(front) if not m.endswith("+crush")) + front
    pictures = [
        _scatter(summary, methods, "probe", lambda f: f["kl"], "mean KL to the full cache, nats", folder / "frontier_kl.png", log_y=True),
        _crush_on_off(summary, folder),
        _scatter(summary, methods, "longbench", lambda f: _kept(f.get("drop")), "LongBench average, full cache = 100 %",
                 folder / "longbench.png", log_y=False),
        _needle(summary, folder),
        _speed(summary, folder),
    ]
    return [path for path in pictures if path is not None]


def _kept(drop: Estimate | None) -> Estimate | None:
    """A relative drop as what is left, %."""
    return None if drop is None else Estimate(*(100 * (1 - x) for x in (drop.value, drop.high, drop.low)), drop.n)
