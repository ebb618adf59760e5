"""Medians, ratios, tables and picture of speed.py's records."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import report
from report import MIB, cell, spread, table

RATES = {"prefill_per_s": "prefill", "decode_per_s": "decode", "together_per_s": "together"}
BYTES = {"peak_rss_bytes": "peak memory"}
FIGURES = ("ttft_ms", "prefill_per_s", "tpot_ms", "decode_per_s", "together_per_s", "peak_rss_bytes", "rss_bytes")
BEST = "best peer"


def _over_peers(records: list[dict], figure: str) -> dict[str, list[float]]:
    """peer -> figure of ours over its own, a value per round. A peer with several rows is taken at its best of the round."""
    best = max if figure in RATES else min
    found: dict[str, list[float]] = {}
    for turn in sorted({r["round"] for r in records}):
        now = [r for r in records if r["round"] == turn]
        ours = [r[figure] for r in now if r["engine"] == "ours"]
        peers = {name: best(r[figure] for r in now if r["engine"] == name) for name in dict.fromkeys(r["engine"] for r in now) if name != "ours"}
        if ours and peers:
            for name, value in {**peers, BEST: best(peers.values())}.items():
                found.setdefault(name, []).append(ours[0] / value)
    return found


def _ratios(records: list[dict], rows: Sequence[str], points: Sequence[str]) -> list[dict]:
    """Each of our rows over the peers' rows of the same cache."""
    ratios = []
    for point in points:
        for row in rows:
            ours = [r for r in records if r["point"] == point and r["row"] == row and r["engine"] == "ours"]
            if not ours:
                continue
            others = [r for r in records if r["point"] == point and r["engine"] != "ours" and r["cache"] == ours[0]["cache"]]
            for figure in (*RATES, *BYTES):
                over = _over_peers([r for r in ours + others if figure in r], figure)
                if over:
                    ratios.append({"point": point, "row": row, "figure": figure, "over": {name: spread(values) for name, values in over.items()}})
    return ratios


def _pruning(records: list[dict], rows: Sequence[str], points: Sequence[str]) -> list[dict]:
    """A pruned row over the first full 16-bit row of its own engine: time to first token, time per output token, peak memory."""
    found = []
    for point in points:
        here = [r for r in records if r["point"] == point]
        for row in rows:
            pruned = {r["round"]: r for r in here if r["row"] == row and r["cache"] == "pruned"}
            engines = {r["engine"] for r in pruned.values()}
            base = next((name for name in rows if any(r["row"] == name and r["cache"] == "16 bit" and r["engine"] in engines for r in here)), None)
            full = {r["round"]: r for r in here if r["row"] == base}
            ratios = {figure: [r[figure] / full[turn][figure] for turn, r in pruned.items() if turn in full and figure in r]
                      for figure in ("ttft_ms", "tpot_ms", *BYTES)}
            ratios = {figure: spread(values) for figure, values in ratios.items() if values}
            if ratios:
                found.append({"point": point, "row": row, "base": base, **ratios})
    return found


def summarise(records: list[dict], rows: Sequence[str], points: Sequence[str]) -> dict:
    """Records hold round, row, engine, cache, point, num_sequences, and the figures that the point has."""
    medians = []
    for point in points:
        for row in rows:
            chosen = [r for r in records if r["point"] == point and r["row"] == row]
            found = {figure: spread([r[figure] for r in chosen if figure in r]) for figure in FIGURES if any(figure in r for r in chosen)}
            if found:
                medians.append({"point": point, "row": row, "num_sequences": chosen[0]["num_sequences"], **found})
    return {"medians": medians, "ratios": _ratios(records, rows, points), "pruning": _pruning(records, rows, points)}


def markdown(summary: dict, meta: dict, picture: str) -> str:
    medians = summary["medians"]
    single = [(m["point"], m["row"], cell(m["ttft_ms"], digits=0), cell(m["prefill_per_s"], digits=0), cell(m["tpot_ms"]),
               cell(m["decode_per_s"]), str(m["ttft_ms"]["n"])) for m in medians if "ttft_ms" in m]
    together = [(str(m["num_sequences"]), m["row"], cell(m["together_per_s"]), str(m["together_per_s"]["n"]))
                for m in medians if "together_per_s" in m]
    memory = [(m["row"], cell(m["peak_rss_bytes"], MIB, 0), cell(m["rss_bytes"], MIB, 0)) for m in medians if "rss_bytes" in m]
    peers = [name for name in meta["engines"] if name != "ours"]
    ratios = [(r["point"], (RATES | BYTES)[r["figure"]], r["row"], *(cell(r["over"].get(name), digits=2) for name in (*peers, BEST)))
              for r in summary["ratios"]]
    pruning = [(p["point"], f"{p['row']} / {p['base']}", *(cell(p.get(figure), digits=2) for figure in ("ttft_ms", "tpot_ms", *BYTES)))
               for p in summary["pruning"]]
    versions = ", ".join(f"{name} {engine['version']}" for name, engine in meta["engines"].items())
    flags = f" Ours runs with `{meta['server_flags']}`." if meta["server_flags"] else ""
    parts = [
        f"# Ours beside llama.cpp and OpenVINO GenAI, {meta['date']}",
        f"{meta['machine']}. {versions}; {meta['model']}, {meta['threads']} threads each, prompts in chunks of {meta['batch_tokens']} tokens.{flags} "
        f"Load average at the start: {meta['load_average']}; at the end: {meta['load_average_after']}.",
        f"```\n{meta['command']}\n```", *meta["notes"], "Medians (min-max)."]
    if single:
        header = ("prompt", "row", "TTFT, ms", "prefill, tokens/s", "per output token, ms", "decode, tokens/s", "n")
        parts += ["## One request", table(header, single)]
    if together:
        parts += ["## Sequences decoding together", table(("sequences", "row", "tokens/s together", "n"), together)]
    if memory:
        parts += ["## Memory of the process", table(("row", "peak, MiB", "at the end, MiB"), memory)]
    if ratios:
        parts += ["## Ratios within a round", "Ours over the peer. Of tokens/s: above 1 ours is ahead; of memory: below 1.",
                  table(("point", "what", "row", *(f"/ {name}" for name in (*peers, BEST))), ratios)]
    if pruning:
        parts += ["## What pruning does within an engine", "Below 1: pruning gains.",
                  table(("point", "ratio", "TTFT", "per output token", "peak memory"), pruning)]
    parts += [f"![the engines side by side]({picture})", "## How it is measured", "\n".join(f"- {line}" for line in meta["method"])]
    if system := meta["engines"].get("llama.cpp", {}).get("system"):
        parts.append(f"llama.cpp was compiled on this machine: {system}")
    return "\n\n".join(parts) + "\n"


def draw(summary: dict, rows: Sequence[str], path: pathlib.Path) -> None:
    def medians(figure: str, group: str, scale: float = 1) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for m in summary["medians"]:
            if figure in m:
                found.setdefault(str(m[group]), {})[m["row"]] = m[figure]["median"] / scale
        return found

    panels = {"prefill, tokens/s (prompt)": medians("prefill_per_s", "point"), "decode, tokens/s (prompt)": medians("decode_per_s", "point"),
              "decode together, tokens/s (sequences)": medians("together_per_s", "num_sequences"),
              "peak memory, MiB": {"": found for found in medians("peak_rss_bytes", "point", MIB).values()}}
    report.draw(path, rows, {title: found for title, found in panels.items() if found})
