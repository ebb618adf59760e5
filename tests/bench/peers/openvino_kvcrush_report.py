"""Medians, ratios, table and picture of openvino_kvcrush.py's records."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence

import report
from report import MIB, cell, spread, table

# (what, over what): ours against the peer's twin, then what pruning does within an engine
PAIRS = (("ours full", "peer full"), ("ours pruned", "peer pruned"), ("ours paper", "peer pruned"), ("ours pruned in prefill", "peer pruned"),
         ("ours target 8", "peer pruned u8"), ("ours full", "peer full f32"), ("ours pruned", "peer pruned f32"),
         ("ours pruned", "ours full"), ("peer pruned", "peer full"))
FIGURES = ("ttft_ms", "tpot_ms", "peak_kv_bytes", "held_kv_bytes")


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
    ratios = []
    for length in lengths:
        for row, base in PAIRS:
            keys = [k for k in by_row.get(row, {}) if k in by_row.get(base, {}) and by_row[row][k]["length"] == length]
            if keys:
                ratios.append({"length": length, "row": row, "base": base,
                               **{f: spread([by_row[row][k][f] / by_row[base][k][f] for k in keys]) for f in FIGURES}})
    return ratios


def summarise(records: list[dict], rows: Sequence[str], lengths: Sequence[str]) -> dict:
    speed = []
    for length in lengths:
        for row in rows:
            chosen = [r for r in records if r["row"] == row and r["length"] == length]
            if chosen:
                speed.append({"length": length, "row": row, **{f: spread([r[f] for r in chosen]) for f in FIGURES}})
    return {"speed": speed, "ratios": _ratios(records, lengths), "accuracy": {row: _accuracy(records, row) for row in rows}}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def markdown(summary: dict, meta: dict, picture: str) -> str:
    speed = [(s["length"], s["row"], cell(s["ttft_ms"], digits=0), cell(s["tpot_ms"]), cell(s["peak_kv_bytes"], MIB),
              cell(s["held_kv_bytes"], MIB), str(s["ttft_ms"]["n"])) for s in summary["speed"]]
    ratios = [(r["length"], f"{r['row']} / {r['base']}", *(cell(r[f], digits=2) for f in FIGURES)) for r in summary["ratios"]]
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
        table(("prompt", "row", "TTFT, ms", "per output token, ms", "peak KV, MiB", "KV held at the end, MiB", "n"), speed),
        "Ratios within a round; below 1 the first is ahead.",
        table(("prompt", "ratio", "TTFT", "per output token", "peak KV", "KV held at the end"), ratios),
        "Accuracy, each prompt once:",
        table(("row", "LongBench, mean", "needles found, %", f"tokens as its own full cache, of {meta['max_new_tokens']}"), accuracy),
        f"![both engines side by side]({picture})", "## How it is measured", "\n".join(f"- {line}" for line in meta["method"])]
    return "\n\n".join(parts) + "\n"


def draw(summary: dict, rows: Sequence[str], path: pathlib.Path) -> None:
    def medians(figure: str, scale: float = 1) -> dict:
        lengths = dict.fromkeys(s["length"] for s in summary["speed"])
        return {length: {s["row"]: s[figure]["median"] / scale for s in summary["speed"] if s["length"] == length} for length in lengths}

    accuracy = {name: {row: summary["accuracy"][row][key] for row in rows if summary["accuracy"][row][key] is not None}
                for key, name in (("longbench_mean", "LongBench"), ("needles_found_percent", "needles"))}
    report.draw(path, rows, {
        "time to first token, ms": medians("ttft_ms"), "time per output token, ms": medians("tpot_ms"), "peak KV, MiB": medians("peak_kv_bytes", MIB),
        "KV held at the end, MiB": medians("held_kv_bytes", MIB), "accuracy, %": accuracy})
