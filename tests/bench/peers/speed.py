#!/usr/bin/env python3
"""Speed and memory of kvcrush-server beside llama.cpp and OpenVINO GenAI: same GGUF, same prompt tokens, same threads, in turns.

Run by hand. The peers are installed from PyPI into .cache/peers; the project's own venv stays as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "eval"), str(pathlib.Path(__file__).resolve().parent)]

try:
    from tqdm import tqdm

    import command
    import engines
    import report
    import speed_report
    import timing
    from kvcrush_eval import EvalError
except ImportError as missing:
    sys.exit(f"error: {missing}: run this with the project's venv, .cache/venv/bin/python, and install tests/requirements.txt into it")

NEW_TOKENS = 48
STEADY_AFTER = 10  # tokens: by then a cache is pruned, and what our lookahead drafted has come
BATCH_PROMPT_TOKENS = 512
WARM_TOKENS = 2048  # more than the budget, so that warming up prunes too
KEPT = 0.25


@dataclasses.dataclass(frozen=True)
class Point:
    name: str
    num_sequences: int
    prompt_tokens: int

    @property
    def tokens(self) -> int:
        return self.num_sequences * (self.prompt_tokens + NEW_TOKENS)


SINGLE = tuple(Point(str(tokens), 1, tokens) for tokens in (128, 512, 2048, 6000))
BATCHES = tuple(Point(f"batch {n}", n, BATCH_PROMPT_TOKENS) for n in (4, 8, 16))
LONGEST = SINGLE[-1]
MEMORY = "memory"  # LONGEST in a fresh process
POINTS = {point.name: point for point in (*SINGLE, *BATCHES)}
EVERYWHERE = (*POINTS, MEMORY)
BUDGET_TOKENS = engines.whole_blocks(KEPT * LONGEST.prompt_tokens)


@dataclasses.dataclass(frozen=True)
class Row:
    engine: str
    cache: str  # rows of one cache are compared with each other
    setting: Callable[[argparse.Namespace], str | dict]
    points: tuple[str, ...]
    default: bool = True


def _openvino_pruned(args: argparse.Namespace) -> dict:
    return {"kv_precision": "f16", "eviction": engines.OpenVino.eviction(BUDGET_TOKENS, args.anchor)}


SOME = (LONGEST.name, "batch 8", MEMORY)
PRUNED = f"default:{BUDGET_TOKENS}:bf16"
ROWS = {
    "ours bf16": Row("ours", "16 bit", lambda _: "full:bf16", EVERYWHERE),
    "llama.cpp f16": Row("llama.cpp", "16 bit", lambda _: {}, EVERYWHERE),
    "llama.cpp f16 no-flash": Row("llama.cpp", "16 bit", lambda _: {"flash_attention": "disabled"}, tuple(POINTS)),
    "OpenVINO f16": Row("OpenVINO", "16 bit", lambda _: {"kv_precision": "f16"}, EVERYWHERE),
    "ours int8": Row("ours", "8 bit", lambda _: "full:int8", SOME),
    "llama.cpp q8_0": Row("llama.cpp", "8 bit", lambda _: {"kv_type": "q8_0"}, SOME, default=False),
    "OpenVINO u8": Row("OpenVINO", "8 bit", lambda _: {"kv_precision": "u8"}, SOME),
    "ours pruned": Row("ours", "pruned", lambda _: PRUNED, (LONGEST.name, MEMORY)),
    "ours pruned no-lookahead": Row("ours", "pruned", lambda _: f"bare={PRUNED},lookahead_tokens=0", (LONGEST.name,)),
    "ours pruned in prefill": Row("ours", "pruned", lambda _: f"prefill={PRUNED},when=during_prefill", (LONGEST.name, MEMORY), default=False),
    "OpenVINO pruned": Row("OpenVINO", "pruned", _openvino_pruned, (LONGEST.name, MEMORY)),
}


class Prompts:
    """Stretches of the project's own documents: words, so that what is pruned is no noise; no two begin alike."""

    def __init__(self, tokenize: Callable[[str], list[int]]) -> None:
        files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        self._ids = [token for file in files for token in tokenize(file.read_text(encoding="utf-8"))]
        self._count = 0

    def take(self, num_prompts: int, num_tokens: int) -> list[list[int]]:
        prompts = []
        for _ in range(num_prompts):
            begin = self._count * 1009 % len(self._ids)
            prompts.append([self._ids[(begin + i) % len(self._ids)] for i in range(num_tokens)])
            self._count += 1
        return prompts


def chosen(patterns: list[str]) -> dict[str, list[str]]:
    """point -> rows. Without a pattern the default rows; a pattern finds the others too."""
    found = {point: [name for name, row in ROWS.items() if point in row.points and (
        any(fnmatch.fnmatchcase(f"{name}/{point}", pattern) for pattern in patterns) if patterns else row.default)]
             for point in EVERYWHERE}
    return {point: rows for point, rows in found.items() if rows}


class Engines:
    """Those that the chosen rows need, each started once, asked by row."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._open: dict[str, engines.Ours | engines.PeerProcess] = {}

    def _start(self, engine: str, max_tokens: int) -> engines.Ours | engines.PeerProcess:
        args = self._args
        if engine == "ours":
            return engines.Ours(args.server_binary, args.model, args.threads, args.batch_tokens, args.server_flags)
        if engine == "OpenVINO":
            return engines.OpenVino(args.model, args.threads, args.batch_tokens, max_tokens)
        return engines.LlamaCpp(args.model, args.threads, args.batch_tokens)

    def engine(self, name: str) -> engines.Ours | engines.PeerProcess:
        if name not in self._open:
            self._open[name] = self._start(name, max(point.tokens for point in POINTS.values()))
        return self._open[name]

    def close(self) -> None:
        for engine in self._open.values():
            engine.close()

    def run(self, row: str, prompts: list[list[int]], max_new_tokens: int = NEW_TOKENS) -> list[list[float]]:
        """times_ms of each prompt."""
        return self.engine(ROWS[row].engine).run(ROWS[row].setting(self._args), prompts, max_new_tokens)["times_ms"]

    def memory(self, row: str, prompt: list[int]) -> dict:
        """Of a process that does nothing else."""
        with contextlib.closing(self._start(ROWS[row].engine, LONGEST.tokens)) as engine:
            engine.run(ROWS[row].setting(self._args), [prompt], NEW_TOKENS)
            status = pathlib.Path(f"/proc/{engine.pid}/status").read_text()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.startswith(("VmHWM", "VmRSS"))}
        return {"peak_rss_bytes": 1024 * kib["VmHWM"], "rss_bytes": 1024 * kib["VmRSS"]}


def figures(point: Point, times_ms: list[list[float]]) -> dict:
    if short := [len(times) for times in times_ms if len(times) != NEW_TOKENS]:
        raise EvalError(f"{point.name}: {short[0]} tokens came instead of {NEW_TOKENS}; is the model's context, or the pool of "
                        f"--server-flags '--kv-memory SIZE', too small for {point.tokens} tokens?")
    found = {}
    if point.num_sequences == 1:
        ttft_ms, tpot_ms = times_ms[0][0], timing.tpot_ms(times_ms[0], STEADY_AFTER)
        found = {"ttft_ms": ttft_ms, "prefill_per_s": 1000 * point.prompt_tokens / ttft_ms, "tpot_ms": tpot_ms, "decode_per_s": 1000 / tpot_ms}
    if point.prompt_tokens == BATCH_PROMPT_TOKENS and (together := timing.together_per_s(times_ms)):
        found["together_per_s"] = together
    return found


def measure(args: argparse.Namespace, plan: dict[str, list[str]], all_engines: Engines, prompts: Prompts) -> Iterator[dict]:
    """Memory first, then rounds: each point through its rows, which begin one further each time."""
    def record(turn: int, row: str, point: str, found: dict) -> dict:
        return {"round": turn, "row": row, "engine": ROWS[row].engine, "cache": ROWS[row].cache, "point": point,
                "num_sequences": POINTS[point].num_sequences if point in POINTS else 1, **found}

    longest = prompts.take(1, LONGEST.prompt_tokens)[0]
    for row in tqdm(plan.get(MEMORY, []), desc="memory", unit="process"):
        yield record(0, row, MEMORY, all_engines.memory(row, longest))
    timed = {point: rows for point, rows in plan.items() if point != MEMORY}
    for row in tqdm(dict.fromkeys(row for rows in timed.values() for row in rows), desc="warming up", unit="row"):
        all_engines.run(row, prompts.take(1, WARM_TOKENS), 4)
        for point, rows in timed.items():
            if row in rows and POINTS[point].num_sequences > 1:
                all_engines.run(row, prompts.take(POINTS[point].num_sequences, 64), 8)
    with tqdm(total=args.rounds * sum(map(len, timed.values())), desc="measuring", unit="run") as progress:
        for turn in range(args.rounds):
            for place, (point, rows) in enumerate(timed.items()):
                now = prompts.take(POINTS[point].num_sequences, POINTS[point].prompt_tokens)
                for i in range(len(rows)):
                    row = rows[(turn + place + i) % len(rows)]
                    progress.set_postfix_str(f"{point}, {row}")
                    yield record(turn, row, point, figures(POINTS[point], all_engines.run(row, now)))
                    progress.update()


def _method(args: argparse.Namespace) -> list[str]:
    eviction = engines.OpenVino.eviction(BUDGET_TOKENS, args.anchor)
    return [
        f"All get the same token ids, stretches of this project's documents that differ between rounds and points, decode greedily past end "
        f"tokens, {NEW_TOKENS} tokens each, and share nothing between requests (prefix caches off). Within a round a point goes through all "
        "rows before the next point does; who begins changes.",
        "Ours is asked over gRPC on loopback as a user would, by a Python client on the same cores, and times are that client's. OpenVINO's are "
        "taken around ContinuousBatchingPipeline.step(), llama.cpp's around llama_decode() and an argmax of its logits, both in the process "
        "that computes.",
        f"Prefill: prompt tokens over time to first token. Time per output token leaves out the first {STEADY_AFTER + 1} tokens, in all rows, so "
        "that in pruned ones the cache is pruned by then.",
        f"Batches: prompts of {BATCH_PROMPT_TOKENS} tokens handed over together; tokens of all sequences from the last one's first to the first "
        "one's last, over that time.",
        "16 bit: KV in f16, ours in bf16, its default. 8 bit: ours int8, OpenVINO u8 (its default). Arithmetic is what each engine picks by itself (OpenVINO: "
        "bf16 where the CPU has AMX). llama.cpp: mmap, flash attention and weight repacking at their defaults, except in rows that say so; in "
        "ratios it counts at its better row, figure by figure.",
        f"Pruned: {BUDGET_TOKENS} tokens of {LONGEST.prompt_tokens} stay. Ours: preset default, also without its lookahead. OpenVINO: "
        f"CacheEvictionConfig with {eviction['start_tokens']} first and {eviction['recent_tokens']} recent tokens, NORM_SUM, KVCrush with "
        f"{eviction['crush_blocks']} blocks of {engines.BLOCK_TOKENS} tokens and anchor {args.anchor}, taken off max_cache_size, since it "
        "keeps them on top.",
        f"Memory: VmHWM and VmRSS of a fresh process that loads the model, gets one prompt of {LONGEST.prompt_tokens} tokens and writes "
        f"{NEW_TOKENS}; nothing is subtracted: weights, code, mapped files, and for the peers a Python interpreter are in it, and in the peak "
        "whatever loading takes. Measured once."]


def run(args: argparse.Namespace) -> None:
    command.check(args)
    plan = chosen(args.only)
    if not plan:
        raise EvalError(f"--only {','.join(args.only)} finds nothing; patterns match ROW/POINT, e.g. 'ours*/*' or '*/batch 8'; --help lists both")
    load = command.load_average()
    with contextlib.closing(Engines(args)) as all_engines:
        ours = all_engines.engine("ours")
        records = list(measure(args, plan, all_engines, Prompts(ours.tokenize)))
        used = {ROWS[row].engine for rows in plan.values() for row in rows}
        meta = {name: all_engines.engine(name).meta for name in sorted(used)}
    about = {**command.about(args, load), "load_average_after": command.load_average(), "server_flags": shlex.join(args.server_flags),
             "engines": meta, "method": _method(args)}
    rows = [name for name in ROWS if any(name in of_point for of_point in plan.values())]
    summary = speed_report.summarise(records, rows, list(EVERYWHERE))
    picture = pathlib.Path(f"{args.out}.png")
    speed_report.draw(summary, rows, picture)
    text = speed_report.markdown(summary, about, picture.name)
    report.write(args.out, text, {"meta": about, **summary, "records": records})
    print(text)
    print(f"wrote {args.out}.md, .json and .png", file=sys.stderr)


def main() -> int:
    rows = (f"  {name:<26}{', '.join(row.points)}{'' if row.default else '  (only where --only asks)'}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="rows and their points:\n" + "\n".join(rows))
    add = parser.add_argument
    add("--only", type=lambda text: [pattern.strip() for pattern in text.split(",")], default=[], metavar="PATTERN,...",
        help="measure what a pattern finds among ROW/POINT below, e.g. '*f16/6000,*/batch 8'")
    add("--server-flags", type=shlex.split, default=[], metavar="'--FLAG VALUE ...'", help="for kvcrush-server, e.g. '--kv-memory 2GiB'")
    command.add_options(parser, rounds=5, of_a_round="each takes all points through all their rows", example="docs/results/DATE-peers")
    command.add_anchor(parser)
    return command.main(parser, run)


if __name__ == "__main__":
    sys.exit(main())
