"""Medians, ratios, table and picture of the records of a comparison."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

MIB = 2**20
# (what, over what): ours against the peer's twin, then what pruning does within an engine
PAIRS = (("ours full", "peer full"), ("ours pruned", "peer pruned"), ("ours paper", "peer pruned"), ("ours pruned in prefill", "peer pruned"),
         ("ours target 8", "peer pruned u8"), ("ours full", "peer full f32"), ("ours pruned", "peer pruned f32"),
         ("ours pruned", "ours full"), ("peer pruned", "peer full"))
FIGURES = ("ttft_ms", "tpot_ms", "peak_kv_bytes", "held_kv_bytes")


def spread(values: Sequence[float]) -> dict:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def _same_start(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens before the first difference."""
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def _accuracy(records: list[dict], row: str) -> dict:
    """A prompt counts once, however often it ran: decoding is greedy."""
    ours = {r["prompt"]: r for r in records if r["row"] == row}
    full = {r["prompt"]: r for r in records if r["row"] == f"{row.split()[0]} full"}
    found: dict = {}
    for task, key in (("longbench", "longbench_mean"), ("needle", "needles_found_percent")):
        scores = [r["score"] for r in ours.values() if r["task"] == task]
        found[key] = 100 * statistics.mean(scores) if scores else None
        found[f"{task}_prompts"] = len(scores)
    same = [_same_start(r["ids"], full[prompt]["ids"]) for prompt, r in ours.items() if prompt in full]
    found["tokens_as_own_full_cache"] = statistics.mean(same) if same else None
    return found


def _ratios(records: list[dict], lengths: Sequence[str]) -> list[dict]:
    """Ratios of the two rows of a round, so that drift of the machine cancels."""
    by_row: dict[str, dict] = {}
    for r in records:
        by_row.setdefault(r["row"], {})[r["round"], r["prompt"]] = r
    table = []
    for length in lengths:
        for row, base in PAIRS:
            keys = [k for k in by_row.get(row, {}) if k in by_row.get(base, {}) and by_row[row][k]["length"] == length]
            if keys:
                table.append({"length": length, "row": row, "base": base,
                              **{f: spread([by_row[row][k][f] / by_row[base][k][f] for k in keys]) for f in FIGURES}})
    return table


def summarise(records: list[dict], rows: Sequence[str], lengths: Sequence[str]) -> dict:
    speed = []
    for length in lengths:
        for row in rows:
            chosen = [r for r in records if r["row"] == row and r["length"] == length]
            if chosen:
                speed.append({"length": length, "row": row, **{f: spread([r[f] for r in chosen]) for f in FIGURES}})
    return {"speed": speed, "ratios": _ratios(records, lengths), "accuracy": {row: _accuracy(records, row) for row in rows}}


def _cell(figure: dict, scale: float = 1, digits: int = 1) -> str:
    median, low, high = (f"{figure[k] / scale:.{digits}f}" for k in ("median", "min", "max"))
    return f"{median} ({low}-{high})"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def markdown(summary: dict, meta: dict, picture: str) -> str:
    speed = [(s["length"], s["row"], _cell(s["ttft_ms"], digits=0), _cell(s["tpot_ms"]), _cell(s["peak_kv_bytes"], MIB),
              _cell(s["held_kv_bytes"], MIB), str(s["ttft_ms"]["n"])) for s in summary["speed"]]
    ratios = [(r["length"], f"{r['row']} / {r['base']}", *(_cell(r[f], digits=2) for f in FIGURES)) for r in summary["ratios"]]
    accuracy = [(row, f"{_number(a['longbench_mean'])} (n={a['longbench_prompts']})",
                 f"{_number(a['needles_found_percent'])} (n={a['needle_prompts']})", _number(a["tokens_as_own_full_cache"]))
                for row, a in summary["accuracy"].items()]
    lengths = "; ".join(f"{name}: {text}" for name, text in meta["lengths"].items())
    parts = [
        f"# OpenVINO GenAI with its KVCrush beside ours, {meta['date']}",
        f"{meta['machine']}. OpenVINO GenAI {meta['peer_version']}, KVCrush Serve {meta['server_version']}, {meta['model']}, "
        f"{meta['threads']} threads each, prompts in chunks of {meta['batch_tokens']} tokens, greedy, {meta['max_new_tokens']} new tokens, "
        f"one request at a time, rows in rotating order. Load average at the start: {meta['load_average']}.",
        f"```\n{meta['command']}\n```", *meta["notes"],
        f"Prompts: {lengths}. Medians (min-max).",
        _table(("prompt", "row", "TTFT, ms", "per output token, ms", "peak KV, MiB", "KV held at the end, MiB", "n"), speed),
        "Ratios within a round; below 1 the first is ahead.",
        _table(("prompt", "ratio", "TTFT", "per output token", "peak KV", "KV held at the end"), ratios),
        "Accuracy, each prompt once:",
        _table(("row", "LongBench, mean", "needles found, %", f"tokens as its own full cache, of {meta['max_new_tokens']}"), accuracy),
        f"![both engines side by side]({picture})", "## How it is measured", "\n".join(f"- {line}" for line in meta["method"])]
    return "\n\n".join(parts) + "\n"


def _bars(axis, summary: dict, rows: Sequence[str], value: Callable[[dict], float], title: str) -> None:
    lengths = list(dict.fromkeys(s["length"] for s in summary["speed"]))
    height = 0.8 / max(len(lengths), 1)
    for i, length in enumerate(lengths):
        found = {s["row"]: value(s) for s in summary["speed"] if s["length"] == length}
        for place, row in enumerate(rows):
            if row in found:
                axis.barh(place + i * height, found[row], height * 0.92, color="#c8202e" if row.startswith("ours") else "#2a6fb0",
                          alpha=0.55 + 0.45 * i / max(len(lengths) - 1, 1))
                axis.text(found[row], place + i * height, f" {found[row]:.0f} ({length})", va="center", fontsize=7)
    axis.set_title(title, fontsize=10)


def draw(summary: dict, rows: Sequence[str], path: pathlib.Path) -> None:
    figure, axes = plt.subplots(1, 5, figsize=(17, 0.7 * len(rows) + 1.5), sharey=True, layout="constrained")
    _bars(axes[0], summary, rows, lambda s: s["ttft_ms"]["median"], "time to first token, ms")
    _bars(axes[1], summary, rows, lambda s: s["tpot_ms"]["median"], "time per output token, ms")
    _bars(axes[2], summary, rows, lambda s: s["peak_kv_bytes"]["median"] / MIB, "peak KV, MiB")
    _bars(axes[3], summary, rows, lambda s: s["held_kv_bytes"]["median"] / MIB, "KV held at the end, MiB")
    for place, row in enumerate(rows):
        for i, (key, name) in enumerate((("longbench_mean", "LongBench"), ("needles_found_percent", "needles"))):
            score = summary["accuracy"][row][key]
            if score is not None:
                axes[4].barh(place + 0.4 * i, score, 0.37, color="#c8202e" if row.startswith("ours") else "#2a6fb0", alpha=0.55 + 0.45 * i)
                axes[4].text(score, place + 0.4 * i, f" {score:.0f} ({name})", va="center", fontsize=7)
    axes[4].set_title("accuracy, %", fontsize=10)
    axes[0].set_yticks([place + 0.2 for place in range(len(rows))], rows)
    axes[0].invert_yaxis()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(right=axis.get_xlim()[1] * 1.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)
