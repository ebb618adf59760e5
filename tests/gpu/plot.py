#!/usr/bin/env python3
"""Draws what tests/gpu/run.sh measured.  usage: tests/gpu/plot.py KERNELS.json ENGINE.json OUT.png"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def panel(axis, title: str, rows: list[tuple[str, float]], goal: float) -> None:
    names = [name for name, _ in rows]
    values = [value for _, value in rows]
    axis.barh(names, values, color=["#2a7ab9" if value >= goal else "#c27c2c" for value in values], height=0.65)
    axis.axvline(goal, color="#444444", linewidth=1, linestyle="--")
    for i, value in enumerate(values):
        axis.text(value, i, f" {value:.2f}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_title(f"{title} (goal {goal:g})", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlim(0, max(values + [goal]) * 1.15)


def main() -> int:
    if len(sys.argv) != 4:
        print(__doc__)
        return 2
    kernels, engine = ({row["what"]: row["value"] for row in json.loads(pathlib.Path(path).read_text())} for path in sys.argv[1:3])

    def matching(values: dict[str, float], start: str, end: str) -> list[tuple[str, float]]:
        return [(what[len(start):-len(end)].strip(" ,:"), value) for what, value in values.items() if what.startswith(start) and what.endswith(end)]

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2))
    panel(axes[0], "Decode attention: share of copy bandwidth", matching(kernels, "decode attention", ": share of copy bandwidth"), 0.85)
    panel(axes[1], "Prefill attention: speed against SDPA", matching(kernels, "prefill attention", ": speed against PyTorch's SDPA"), 1)
    panel(axes[2], "8B decode step: share of roofline", matching(engine, "decode step", ": share of the roofline"), 0.8)
    figure.tight_layout()
    figure.savefig(sys.argv[3], dpi=110)
    print(sys.argv[3])
    return 0


if __name__ == "__main__":
    sys.exit(main())
