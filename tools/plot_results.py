#!/usr/bin/env python3
"""Draws a results table of engine_bench: full cache and KVCrush side by side. usage: tools/plot_results.py RESULTS.md"""

import pathlib
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PANELS = (("time to first token, ms", "time to first token, ms"), ("decode, ms per token", "decode, ms per token"))


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    path = pathlib.Path(sys.argv[1])
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", path.read_text(encoding="utf-8"), re.MULTILINE)
    values = {name: tuple(map(float, numbers)) for name, *numbers in rows}
    figure, axes = plt.subplots(1, len(PANELS) + 1, figsize=(10, 3.4))
    for axis, (title, row) in zip(axes, PANELS):
        for x, label in enumerate(("full", "KVCrush")):
            median, low, high = values[f"{label}: {row}"]
            axis.bar(x, median, yerr=[[median - low], [high - median]], capsize=4, color=("#888888", "#2a7ab9")[x], width=0.6)
            axis.text(x, median / 2, f"{median:,.1f}", ha="center", color="white")
        axis.set_title(title)
        axis.set_xticks([0, 1], ["full cache", "KVCrush 25 %"])
    ratio = values["KV bytes ratio"][0]
    axes[-1].bar([0, 1], [1, ratio], color=("#888888", "#2a7ab9"), width=0.6)
    axes[-1].text(1, ratio + 0.02, f"{ratio:.2f}", ha="center")
    axes[-1].set_title("KV bytes, full = 1")
    axes[-1].set_xticks([0, 1], ["full cache", "KVCrush 25 %"])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=110)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
