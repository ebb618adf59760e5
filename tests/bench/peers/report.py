"""What the reports of all comparisons are made of: medians, cells, tables, bars, files."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

MIB = 2**20
OURS, PEER = "#c8202e", "#2a6fb0"


def spread(values: Sequence[float]) -> dict:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def cell(figure: dict | None, scale: float = 1, digits: int = 1) -> str:
    if figure is None:
        return "-"
    median, low, high = (f"{figure[k] / scale:.{digits}f}" for k in ("median", "min", "max"))
    return f"{median} ({low}-{high})"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))


def bars(axis, rows: Sequence[str], found: Mapping[str, Mapping[str, float]], title: str) -> None:
    """found: group -> row -> value; a row of the axis holds a bar of each group, the later the darker."""
    height = 0.8 / max(len(found), 1)
    for i, (group, values) in enumerate(found.items()):
        for place, row in enumerate(rows):
            if row in values:
                axis.barh(place + i * height, values[row], height * 0.92, color=OURS if row.startswith("ours") else PEER,
                          alpha=0.55 + 0.45 * i / max(len(found) - 1, 1))
                axis.text(values[row], place + i * height, f" {values[row]:.0f}{f' ({group})' if group else ''}", va="center", fontsize=7)
    axis.set_title(title, fontsize=10)


def draw(path: pathlib.Path, rows: Sequence[str], panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Panels side by side over the same rows: title -> what `bars` takes."""
    height = max(0.7, 0.2 * max(len(found) for found in panels.values())) * len(rows) + 1.5
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), height), sharey=True, layout="constrained", squeeze=False)
    for axis, (title, found) in zip(axes[0], panels.items()):
        bars(axis, rows, found, title)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(right=axis.get_xlim()[1] * 1.25)
    axes[0][0].set_yticks([place + 0.2 for place in range(len(rows))], rows)
    axes[0][0].invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(out: pathlib.Path, markdown: str, everything: dict) -> None:
    """OUT.md and OUT.json; the picture is drawn before, to OUT.png."""
    pathlib.Path(f"{out}.md").write_text(markdown, encoding="utf-8")
    pathlib.Path(f"{out}.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
