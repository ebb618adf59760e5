"""Figures as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from kvcrush_eval.stats import Estimate

_MISSING = "-"


def number(value: float, digits: int = 3) -> str:
    """Significant digits, without exponents down to a millionth."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def with_interval(estimate: Estimate | None, scale: float = 1) -> str:
    if estimate is None:
        return _MISSING
    return f"{number(estimate.value * scale)} [{number(estimate.low * scale)}, {number(estimate.high * scale)}]"


def _plain(estimate: Estimate | None) -> str:
    return _MISSING if estimate is None else number(estimate.value)


def _count(estimate: Estimate | None) -> str:
    return _MISSING if estimate is None else str(estimate.n)


Column = tuple[str, Callable[[dict], str]]

_PROBE: list[Column] = [
    ("bytes", lambda f: _plain(f["bytes"])),
    ("n", lambda f: _count(f["kl"])),
    ("mean KL, nats", lambda f: with_interval(f["kl"])),
    ("KL / SnapKV's, geometric", lambda f: with_interval(f.get("kl_ratio_geometric"))),
    ("KL / SnapKV's, of means", lambda f: with_interval(f.get("kl_ratio_of_means"))),
    ("agreement, %", lambda f: with_interval(f["agreement"], 100)),
    ("NLL increase, nats", lambda f: with_interval(f["nll_increase"])),
    ("prune, ms", lambda f: _plain(f["prune_ms"])),
]
_LONGBENCH: list[Column] = [
    ("bytes", lambda f: _plain(f["bytes"])),
    ("n", lambda f: _count(f["average"])),
    ("average", lambda f: with_interval(f["average"])),
    ("drop from full, %", lambda f: with_interval(f.get("drop"), 100)),
]
_RETRIEVAL: list[Column] = [
    ("bytes", lambda f: _plain(f["bytes"])),
    ("n", lambda f: _count(f["found"])),
    ("found, %", lambda f: with_interval(f["found"])),
    ("of what full finds, %", lambda f: with_interval(f.get("of_full"), 100)),
]
_PPL: list[Column] = [
    ("bytes", lambda f: _plain(f["bytes"])),
    ("windows", lambda f: _count(f["perplexity"])),
    ("perplexity", lambda f: with_interval(f["perplexity"])),
]
_SECTIONS = (
    ("probe", "Teacher-forced probe", _PROBE), ("own", "Along the full cache's own text", _PROBE),
    ("longbench", "LongBench subset", _LONGBENCH),
    ("needle", "Needle", _RETRIEVAL), ("kv_retrieval", "Key-value retrieval", _RETRIEVAL),
    ("ppl", "Perplexity, pruned as the text goes", _PPL),
)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _by_bytes(item: tuple[str, dict], task: str) -> tuple[float, str]:
    size = item[1][task]["bytes"]
    return (-size.value if size else float("inf"), item[0])


def _datasets(summary: dict[str, dict]) -> str:
    measured = {name: entry["longbench"]["datasets"] for name, entry in summary.items() if entry["longbench"]}
    names = sorted({dataset for figures in measured.values() for dataset in figures})
    rows = [[name, *(_plain(figures.get(dataset)) for dataset in names)] for name, figures in measured.items()]
    return _table(["variant", *names], rows)


def _speed(summary: dict[str, dict]) -> str:
    rows = []
    for name, entry in summary.items():
        for dataset, figures in entry["speed"].items():
            held = figures.get("kv_bytes_held")
            rows.append([name, dataset.removeprefix("speed_"), _MISSING if held is None else f"{held.value / 2**20:.2f}",
                         with_interval(figures["ttft_ms"]), with_interval(figures["tokens_per_s"])])
    return _table(["variant", "prompt tokens", "KV, MiB", "time to first token, ms", "tokens/s"], rows)


def markdown(summary: dict[str, dict], meta: dict) -> str:
    about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in meta.items())
    text = f"{about}. Bytes: KV bytes held over those of the full 16-bit cache = 1. In brackets: 95 % bootstrap intervals.\n"
    for task, title, columns in _SECTIONS:
        measured = sorted(((n, e) for n, e in summary.items() if e[task]), key=lambda item: _by_bytes(item, task))
        if measured:
            rows = [[name, *(cell(entry[task]) for _, cell in columns)] for name, entry in measured]
            text += f"\n## {title}\n\n" + _table(["variant", *(name for name, _ in columns)], rows)
            if task == "longbench":
                text += "\nBy dataset:\n\n" + _datasets(summary)
    if any(entry["speed"] for entry in summary.values()):
        text += "\n## Speed, one request at a time\n\n" + _speed(summary)
    targets = [(n, e["applied"]) for n, e in summary.items() if e["method"] in ("target", "server") and e["applied"]]
    if targets:
        text += "\nWhat the server picked: " + "; ".join(f"`{name}` {', '.join(picked)}" for name, picked in targets) + ".\n"
    return text


def comparison(figures: dict[str, Estimate]) -> str:
    return _table(["", "value", "95 % interval", "n"],
                  [[name, number(e.value), f"[{number(e.low)}, {number(e.high)}]", str(e.n)] for name, e in figures.items()])


def as_json(summary: dict[str, dict], meta: dict) -> str:
    def plain(value: object) -> object:
        if isinstance(value, Estimate):
            return value.as_dict()
        raise TypeError(type(value))

    return json.dumps({"meta": meta, "variants": summary}, indent=1, default=plain) + "\n"
