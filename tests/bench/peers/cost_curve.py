#!/usr/bin/env python3
"""What a token costs kvcrush-server as contexts and batches grow, with a full cache and with a quarter of it: time, KV bytes, and where
the growth is more than a straight line.

Run by hand, over gRPC as a user would.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "eval"), str(pathlib.Path(__file__).resolve().parent)]

try:
    from tqdm import tqdm

    import command
    import engines
    import report
    import speed
    import timing
    from kvcrush_eval import EvalError
except ImportError as missing:
    sys.exit(f"error: {missing}: run this with the project's venv, .cache/venv/bin/python, and install tests/requirements.txt into it")

CONTEXTS = (512, 1024, 2048, 4096, 6144, 8000)
BATCHES = (1, 2, 4, 8, 16)
BATCH_PROMPT_TOKENS = 1024
BATCH_NEW_TOKENS = 128  # the first sequences decode while the last prompts come in: enough is left when all do
ROWS = {"full": "full:bf16", "25 %": "default:0.25:bf16"}
FIGURES = ("prefill_us_per_token", "tpot_ms", "kv_mib", "step_ms", "together_per_s")


@dataclasses.dataclass(frozen=True)
class Point:
    axis: str  # "context" or "batch"
    at: int

    @property
    def num_sequences(self) -> int:
        return self.at if self.axis == "batch" else 1

    @property
    def new_tokens(self) -> int:
        return speed.NEW_TOKENS if self.axis == "context" else BATCH_NEW_TOKENS

    @property
    def prompt_tokens(self) -> int:
        return self.at if self.axis == "context" else BATCH_PROMPT_TOKENS


POINTS = tuple(Point("context", n) for n in CONTEXTS) + tuple(Point("batch", n) for n in BATCHES)


def figures(point: Point, answer: dict) -> dict:
    times_ms = answer["times_ms"]
    held = sum(r.kv_bytes_full_16bit / r.compression_ratio for r in answer["reports"] if r.compression_ratio > 0)
    found = {"kv_mib": held / report.MIB}
    if point.axis == "context":
        found["prefill_us_per_token"] = 1000 * times_ms[0][0] / point.prompt_tokens
        found["tpot_ms"] = timing.tpot_ms(times_ms[0], speed.STEADY_AFTER)
        return found
    # Sequences that are pruned are so one after another: only what all have in common is steady.
    if together := timing.together_per_s([times[speed.STEADY_AFTER:] for times in times_ms]):
        found |= {"together_per_s": together, "step_ms": 1000 * point.num_sequences / together}
    return found


def measure(ours: engines.Ours, rounds: int) -> Iterator[dict]:
    prompts = speed.Prompts(ours.tokenize)
    for row in ROWS.values():  # warm
        ours.run(row, prompts.take(1, CONTEXTS[2]), speed.NEW_TOKENS)
    with tqdm(total=rounds * len(POINTS) * len(ROWS), unit="run") as progress:
        for turn in range(rounds):
            for point in POINTS:
                names = list(ROWS)[turn % len(ROWS):] + list(ROWS)[:turn % len(ROWS)]
                for name in names:
                    progress.set_description(f"{point.axis} {point.at}, {name}")
                    answer = ours.run(ROWS[name], prompts.take(point.num_sequences, point.prompt_tokens), point.new_tokens)
                    yield {"round": turn, "axis": point.axis, "at": point.at, "row": name, **figures(point, answer)}
                    progress.update()


def growth(at: Sequence[int], values: Sequence[float]) -> list[float]:
    """Of each step from one point to the next: the slope over that of the straight line from the first point to the last. 1: linear."""
    whole = (values[-1] - values[0]) / (at[-1] - at[0])
    if whole <= 0:
        return [0.0] * (len(at) - 1)
    return [(b - a) / (to - begin) / whole for a, b, begin, to in zip(values, values[1:], at, at[1:])]


def summarise(records: list[dict]) -> list[dict]:
    """One entry per axis, row and figure: the points, their medians and ranges, the growth from each to the next."""
    curves = []
    for axis in ("context", "batch"):
        for row in ROWS:
            for figure in FIGURES:
                found = [r for r in records if r["axis"] == axis and r["row"] == row and figure in r]
                at = sorted({r["at"] for r in found})
                if len(at) < 2:
                    continue
                spreads = [report.spread([r[figure] for r in found if r["at"] == place]) for place in at]
                curves.append({"axis": axis, "row": row, "figure": figure, "at": at, "values": spreads,
                               "growth": growth(at, [s["median"] for s in spreads])})
    return curves


def _table(curves: list[dict], axis: str, columns: dict[str, tuple[str, int]]) -> str:
    found = {(c["row"], c["figure"]): c for c in curves if c["axis"] == axis}
    header = [axis] + [f"{title}, {row}" for title, _ in columns.values() for row in ROWS]
    lines = []
    for place in sorted({at for c in found.values() for at in c["at"]}):
        line = [str(place)]
        for figure, (_, digits) in columns.items():
            for row in ROWS:
                curve = found.get((row, figure))
                known = curve is not None and place in curve["at"]
                line.append(report.cell(curve["values"][curve["at"].index(place)] if known else None, digits=digits))
        lines.append(line)
    return report.table(header, lines)


TITLES = {"prefill_us_per_token": "prefill per prompt token", "tpot_ms": "time per output token", "kv_mib": "KV bytes", "step_ms": "time of a step"}


def markdown(curves: list[dict], meta: dict, picture: str) -> str:
    grown = [(c["axis"], TITLES[c["figure"]], c["row"], ", ".join(f"{value:.2f}" for value in c["growth"]))
             for c in curves if c["figure"] in TITLES]
    return "\n\n".join([
        f"# What a token costs as contexts and batches grow, {meta['date']}",
        f"{meta['machine']}; {meta['model']}, {meta['threads']} threads, prompts in chunks of {meta['batch_tokens']} tokens, KV in bfloat16. Load average "
        f"at the start: {meta['load_average']}; at the end: {meta['load_average_after']}.",
        f"```\n{meta['command']}\n```", *meta["notes"],
        f"Medians (min-max). 25 %: preset default. Time per output token leaves out the first {speed.STEADY_AFTER + 1}. KV: bytes of the pool held at the end.",
        "## One request, by prompt tokens",
        _table(curves, "context", {"prefill_us_per_token": ("prefill us/token", 0), "tpot_ms": ("ms/output token", 1), "kv_mib": ("KV MiB", 1)}),
        f"## Requests of {BATCH_PROMPT_TOKENS} tokens together, by their number",
        _table(curves, "batch", {"together_per_s": ("tokens/s together", 0), "step_ms": ("ms a step", 1), "kv_mib": ("KV MiB", 1)}),
        "## Growth", "From each point to the next: the slope over that of the straight line through the ends. 1: linear; steadily rising: more than linear.",
        report.table(("axis", "what", "cache", "from point to point"), grown),
        f"![curves]({picture})"]) + "\n"


def draw(curves: list[dict], path: pathlib.Path) -> None:
    plt = report.plt
    panels = (("context", "prefill_us_per_token", "prefill, us per prompt token"), ("context", "tpot_ms", "ms per output token"),
              ("context", "kv_mib", "KV, MiB"), ("batch", "together_per_s", "tokens/s together"))
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2), layout="constrained")
    for axis, (name, what, title) in zip(axes, panels):
        for curve in curves:
            if curve["axis"] == name and curve["figure"] == what:
                middle = [v["median"] for v in curve["values"]]
                low = [m - v["min"] for m, v in zip(middle, curve["values"])]
                high = [v["max"] - m for m, v in zip(middle, curve["values"])]
                axis.errorbar(curve["at"], middle, yerr=(low, high), marker="o", markersize=3, linewidth=1, capsize=2, label=curve["row"])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("prompt tokens" if name == "context" else "requests")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(args: argparse.Namespace) -> None:
    command.check(args)
    load = command.load_average()
    with contextlib.closing(engines.Ours(args.server_binary, args.model, args.threads, args.batch_tokens, ["--kv-memory", "1GiB"])) as ours:
        longest = CONTEXTS[-1] + speed.NEW_TOKENS
        if ours.info.max_context_tokens < longest:
            raise EvalError(f"{args.model.name} takes {ours.info.max_context_tokens} tokens of context, fewer than the {longest} that are measured")
        records = list(measure(ours, args.rounds))
    about = {**command.about(args, load), "load_average_after": command.load_average()}
    curves = summarise(records)
    picture = pathlib.Path(f"{args.out}.png")
    draw(curves, picture)
    text = markdown(curves, about, picture.name)
    report.write(args.out, text, {"meta": about, "curves": curves, "records": records})
    print(text)
    print(f"wrote {args.out}.md, .json and .png", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_options(parser, rounds=3, of_a_round="each takes all points through both caches", example="docs/results/DATE-cost-curve")
    return command.main(parser, run)


if __name__ == "__main__":
    sys.exit(main())
