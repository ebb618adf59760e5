#!/usr/bin/env python3
"""Where kvcrush-server's processor time goes in prefill and in decode: its own kernels, libtorch's dispatch, OpenMP's waiting, the rest.

Run by hand; needs Linux `perf`.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "eval"), str(pathlib.Path(__file__).resolve().parent)]

try:
    import command
    import engines
    import report
    import speed
    from kvcrush_eval import EvalError
except ImportError as missing:
    sys.exit(f"error: {missing}: run this with the project's venv, .cache/venv/bin/python, and install tests/requirements.txt into it")

# The first that fits, of an object's name and a symbol's.
PARTS = (
    ("projections", "", r"amx_panels|dot_tile|dot_panel|gemm_panels|quant_gemm"),
    ("rounding to int8", "", r"quantize_row"),
    ("attention", "", r"attention|attend_|merge_partials|softmax_tile"),
    ("SiLU, norms, RoPE, Hadamard", "", r"silu_mul_row|rms_norm_row|rope_row|hadamard_heads"),
    ("KV write, embedding", "", r"write_token|read_group|read_row|gather_block"),
    ("sampling", "", r"largest_logit|weights|has_nan|Sampler|draw_|argmax"),
    ("libtorch", r"libtorch|libc10", ""),
    ("OpenMP: waiting and handing out", r"libgomp|libomp", ""),
    ("operating system", r"\[kernel|\[unknown|vdso", ""),
    ("the rest of the server, libc", "", ""),
)
LINE = re.compile(r"^\s*([0-9.]+)%\s+(\S+)\s+\[[.k]\]\s+(.*?)\s*$")
REST_S = 0.2  # until perf listens


def shares(text: str) -> dict[str, float]:
    """Of `perf report`'s lines: share of each part."""
    found = {name: 0.0 for name, _, _ in PARTS}
    for line in text.splitlines():
        if match := LINE.match(line):
            share, thing, symbol = float(match[1]), match[2], match[3]
            part = next(name for name, objects, symbols in PARTS if re.search(objects, thing) and re.search(symbols, symbol))
            found[part] += share
    total = sum(found.values())
    if total == 0:
        raise EvalError("perf saw nothing: may this user profile? (kernel.perf_event_paranoid)")
    return {name: share / total for name, share in found.items()}


def profiled(pid: int, work) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        perf = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "2000", "-p", str(pid), "-o", data],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(REST_S)
        work()
        perf.send_signal(signal.SIGINT)
        perf.wait()
        done = subprocess.run(["perf", "report", "-i", data, "--stdio", "--no-children", "--sort", "dso,symbol"], capture_output=True,
                              text=True, check=False)
    return shares(done.stdout)


def run(args: argparse.Namespace) -> None:
    command.check(args)
    if shutil.which("perf") is None:
        raise EvalError("there is no `perf` here: install linux-perf")
    load = command.load_average()
    with contextlib.closing(engines.Ours(args.server_binary, args.model, args.threads, args.batch_tokens)) as ours:
        prompts = speed.Prompts(ours.tokenize)

        def repeat(times: int, num_prompts: int, prompt_tokens: int, new_tokens: int):
            batches = [prompts.take(num_prompts, prompt_tokens) for _ in range(times)]
            return lambda: [ours.run("full:bf16", batch, new_tokens) for batch in batches]

        repeat(2, 1, 512, 4)()  # warm
        rounds = args.rounds
        found = {"prefill of 512": profiled(ours.pid, repeat(8 * rounds, 1, 512, 1)),
                 "prefill of 6000": profiled(ours.pid, repeat(rounds, 1, 6000, 1)),
                 "decode, 1 sequence": profiled(ours.pid, repeat(rounds, 1, 16, 1200)),
                 "decode, 8 sequences": profiled(ours.pid, repeat(rounds, 8, 16, 400))}
    about = {**command.about(args, load), "load_average_after": command.load_average()}
    names = [name for name, _, _ in PARTS]
    table = report.table(("part", *found), [(name, *(f"{100 * of[name]:.1f} %" for of in found.values())) for name in names])
    picture = pathlib.Path(f"{args.out}.png")
    draw(found, names, picture)
    text = "\n\n".join([
        f"# Where a step's time goes, {about['date']}",
        f"{about['machine']}; {about['model']}, {about['threads']} threads. Samples of processor time (`perf record -e cpu-clock`) of all of the server's threads.",
        f"```\n{about['command']}\n```", *about["notes"], table, f"![shares]({picture.name})"]) + "\n"
    report.write(args.out, text, {"meta": about, "shares": found})
    print(text)
    print(f"wrote {args.out}.md, .json and .png", file=sys.stderr)


def draw(found: dict[str, dict[str, float]], names: list[str], path: pathlib.Path) -> None:
    plt = report.plt
    figure, axis = plt.subplots(figsize=(9, 0.6 * len(found) + 2), layout="constrained")
    colours = plt.get_cmap("tab10")
    for place, of in enumerate(found.values()):
        left = 0.0
        for i, name in enumerate(names):
            axis.barh(place, 100 * of[name], left=left, color=colours(i), label=name if place == 0 else None)
            if of[name] > 0.04:
                axis.text(left + 50 * of[name], place, f"{100 * of[name]:.0f}", ha="center", va="center", fontsize=7, color="white")
            left += 100 * of[name]
    axis.set_yticks(range(len(found)), found)
    axis.invert_yaxis()
    axis.set_xlabel("% of processor time")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_options(parser, rounds=3, of_a_round="repeats what is profiled", example="docs/results/DATE-step-profile")
    return command.main(parser, run)


if __name__ == "__main__":
    sys.exit(main())
