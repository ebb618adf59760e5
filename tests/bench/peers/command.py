"""What the command lines of all comparisons share: options, the machine they ran on, errors that say what to do."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import shlex
import signal
import sys
from collections.abc import Callable

import grpc
from kvcrush_eval import EvalError


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def add_options(parser: argparse.ArgumentParser, *, rounds: int, of_a_round: str, example: str) -> None:
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, metavar="STEM", help=f"writes STEM.md, STEM.json and STEM.png, e.g. {example}")
    add("--rounds", type=positive, default=rounds, metavar="N", help=f"{of_a_round} (default: %(default)s)")
    add("--threads", type=positive, default=os.cpu_count(), metavar="N", help="of each engine (default: all cores, %(default)s here)")
    add("--batch-tokens", type=positive, default=512, metavar="N", help="prompt tokens of a step, each engine (default: %(default)s)")
    add("--model", type=pathlib.Path, default=pathlib.Path(".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"), metavar="FILE.gguf",
        help="(default: %(default)s)")
    add("--server-binary", type=pathlib.Path, default=pathlib.Path("build/cpu-release/server/kvcrush-server"), metavar="FILE",
        help="(default: %(default)s)")
    add("--note", action="append", default=[], metavar="TEXT", help="a sentence for the report, e.g. what else ran; may be repeated")


def add_anchor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--anchor", choices=("random", "zeros", "ones", "mean", "alternating"), default="mean",
                        help="of OpenVINO's KVCrush (default: %(default)s)")


def check(args: argparse.Namespace) -> None:
    if not args.model.is_file():
        raise EvalError(f"--model {args.model} is not a file; `make setup` fetches it, or name another GGUF")
    args.out.parent.mkdir(parents=True, exist_ok=True)


def _machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().split("\n")
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    best = next((label for flag, label in (("amx_bf16", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "no AVX2")
    return f"{os.cpu_count()} cores of {name} ({best})"


def load_average() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


def about(args: argparse.Namespace, load: str) -> dict:
    """For a report's head. load: the load average before anything was measured."""
    return {"date": datetime.date.today().isoformat(), "command": shlex.join([".cache/venv/bin/python", *sys.argv]), "machine": _machine(),
            "model": args.model.name, "threads": args.threads, "batch_tokens": args.batch_tokens, "load_average": load, "notes": args.note}


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the engines are ended too
    try:
        run(parser.parse_args())
    except EvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except grpc.RpcError as error:
        print(f"error: kvcrush-server answered {error.code().name}: {error.details()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    return 0
