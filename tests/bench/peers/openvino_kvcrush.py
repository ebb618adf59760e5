#!/usr/bin/env python3
"""OpenVINO GenAI with its KVCrush beside kvcrush-server: same GGUF, same prompt tokens, same KV budget, one request at a time.

Run by hand. The peer is installed from PyPI into .cache/peers/openvino; the project's own venv stays as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import platform
import shlex
import statistics
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "eval"), str(pathlib.Path(__file__).resolve().parent)]

try:
    import grpc
    from tqdm import tqdm

    import engines
    import report
    from kvcrush_eval import EvalError, data, metrics
except ImportError as missing:
    sys.exit(f"error: {missing}: run this with the project's venv, .cache/venv/bin/python, and install tests/requirements.txt into it")

LENGTHS = {"2k": (1700, 2300), "3k": (2700, 3300)}  # prompt tokens
SHORT_ANSWERS = ("hotpotqa", "2wikimqa", "triviaqa", "trec", "multifieldqa_en", "qasper", "passage_retrieval_en")
DEFAULT_ROWS = ("peer full", "peer pruned", "peer pruned u8", "ours full", "ours pruned", "ours pruned in prefill", "ours target 8")
KEPT = 0.25
CHAT_TOKENS = 64  # that a chat template may add
WARM_TOKENS = 1024  # more than a budget, so that warming up prunes too


@dataclasses.dataclass(frozen=True)
class Prompt:
    id: str
    task: str
    length: str
    ids: list[int]
    score: Callable[[str], float]


def _in_turn(queues: list[list]) -> list:
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def load_prompts(folder: data.DataFolder, tokenize, limit: int) -> dict[str, list[Prompt]]:
    """At most `limit` prompts of each length: needles and the LongBench datasets in turn."""
    templates = folder.json("longbench/dataset2prompt.json")
    needles = folder.rows("needle/niah_noise.jsonl")
    prompts: dict[str, list[Prompt]] = {}
    for length, (low, high) in LENGTHS.items():
        queues = []
        for dataset in SHORT_ANSWERS:
            rows = [row for row in folder.rows(f"longbench/{dataset}.jsonl") if low <= row["prompt_tokens"] <= high]
            queues.append([("longbench", row, data.longbench_prompt(dataset, row, templates[dataset]), functools.partial(
                metrics.longbench_score, dataset, answers=row["answers"], classes=row["all_classes"])) for row in rows])
        rows = [row for row in needles if low <= row["prompt_tokens"] <= high]
        hay = [("needle", row, row["prompt"] + row["answer_prefix"], functools.partial(metrics.contains_answer, answers=row["answers"]))
               for row in data.pick(rows, (limit + 1) // 2)]
        chosen = _in_turn([hay, _in_turn(queues)])[:limit]
        if not chosen:
            raise EvalError(f"{folder.root} holds no prompt of {low} to {high} tokens")
        prompts[length] = [Prompt(row["_id"], task, length, tokenize(text), score) for task, row, text, score in chosen]
    return prompts


def budget_tokens(prompts: list[Prompt]) -> int:
    """A quarter of the median prompt in whole blocks of the peer, whose budget is a setting of the pipeline."""
    tokens = KEPT * statistics.median(len(prompt.ids) for prompt in prompts)
    return round(tokens / engines.BLOCK_TOKENS) * engines.BLOCK_TOKENS


def measure(args: argparse.Namespace, prompts: dict[str, list[Prompt]], budgets: dict[str, int], ours: engines.Ours,
            peer: engines.Peer) -> list[dict]:
    """Round r takes prompt r of each length through every row, beginning one row later than the round before."""
    def engine(row: str):
        return peer if row in engines.PEER_ROWS else ours

    for length in tqdm(LENGTHS, desc="warming up", unit="length"):
        for row in args.rows:
            engine(row).run(row, prompts[length][0].ids[:WARM_TOKENS], budgets[length], 4)
    records: list[dict] = []
    with tqdm(total=args.rounds * len(LENGTHS) * len(args.rows), desc="measuring", unit="request") as progress:
        for turn in range(args.rounds):
            for length in LENGTHS:
                prompt = prompts[length][turn % len(prompts[length])]
                for place in range(len(args.rows)):
                    row = args.rows[(turn + place) % len(args.rows)]
                    progress.set_postfix_str(f"{length}, {row}")
                    result = engine(row).run(row, prompt.ids, budgets[length], args.max_new_tokens)
                    text = ours.detokenize(result["ids"])
                    records.append({"round": turn, "row": row, "length": length, "task": prompt.task, "prompt": prompt.id,
                                    "prompt_tokens": len(prompt.ids), "text": text, "score": prompt.score(text), **result})
                    progress.update()
    return records


def _machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().split("\n")
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    best = next((label for flag, label in (("amx_bf16", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "no AVX2")
    return f"{os.cpu_count()} cores of {name} ({best})"


def _method(peer: engines.Peer, budgets: dict[str, int], max_new_tokens: int) -> list[str]:
    eviction = {length: peer.eviction(budget) for length, budget in budgets.items()}
    blocks = ", ".join(f"{e['crush_blocks']} blocks at {length}" for length, e in eviction.items())
    return [
        "Both get the same token ids (our tokenizer, the file's chat template), ignore end tokens, so that both decode equally many; the "
        "answer is cut at the first end token for the score. Times are the caller's: over gRPC for ours, around "
        "ContinuousBatchingPipeline.step() in its own process for the peer.",
        f"The peer: CacheEvictionConfig with 32 first and 128 recent tokens, NORM_SUM, KVCrush with {blocks} of 32 tokens. It keeps those on top "
        "of max_cache_size, so max_cache_size is the budget less them, and one open block comes on top. KV in f16, or u8 (its default) in "
        "rows with u8; its arithmetic is what it picks by itself (bf16 where the CPU has AMX), f32 in rows with f32.",
        "Ours: --kv-dtype f16; `pruned` is preset default, `paper` preset paper (a quarter KVCrush representatives, mean anchor), "
        "`pruned in prefill` prunes every chunk, `target 8` is target_compression 8, which picks its own budget.",
        "KV bytes of the peer: cache_usage of its metrics after each step, times the pool. Ours: held at the end from the report; peak from "
        "the block layout (the whole prompt in f16 where it is pruned at its end; budget and a chunk when pruned in prefill).",
        f"A LongBench prompt counts its first {max_new_tokens} tokens at most, needles alike; the samples are few, so the last column, how long greedy "
        "decoding stays with the engine's own full cache, tells more about what pruning changes.",
        "A round takes one prompt of each length through all rows; prompts differ between rounds, so min-max holds both the prompts' and the "
        "machine's spread."]


def write(args: argparse.Namespace, records: list[dict], meta: dict) -> None:
    summary = report.summarise(records, args.rows, list(LENGTHS))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture = pathlib.Path(f"{args.out}.png")
    report.draw(summary, args.rows, picture)
    pathlib.Path(f"{args.out}.md").write_text(report.markdown(summary, meta, picture.name), encoding="utf-8")
    # Token ids stay out: the texts say the same in less.
    lean = [{key: value for key, value in record.items() if key != "ids"} for record in records]
    pathlib.Path(f"{args.out}.json").write_text(json.dumps({"meta": meta, **summary, "records": lean}, indent=1) + "\n", encoding="utf-8")


def run(args: argparse.Namespace) -> None:
    folder = data.DataFolder(args.data)
    if not args.model.is_file():
        raise EvalError(f"--model {args.model} is not a file; `make setup` fetches it, or name another GGUF")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    engines.install_peer()
    ours = engines.Ours(args.server_binary, args.model, args.threads, args.batch_tokens)
    peer = engines.Peer(args.model, args.threads, args.batch_tokens, args.anchor, LENGTHS["3k"][1] + args.max_new_tokens + CHAT_TOKENS)
    try:
        prompts = load_prompts(folder, ours.tokenize, args.limit or args.rounds)
        budgets = {length: budget_tokens(chosen) for length, chosen in prompts.items()}
        for row in args.rows:
            for budget in budgets.values():
                if row in engines.PEER_ROWS:
                    peer.prepare(row, budget)
        records = measure(args, prompts, budgets, ours, peer)
    finally:
        ours.close()
        peer.close()
    sizes = {length: [len(p.ids) for p in chosen] for length, chosen in prompts.items()}
    write(args, records, {
        "date": datetime.date.today().isoformat(), "command": shlex.join([".cache/venv/bin/python", *sys.argv]), "machine": _machine(),
        "peer_version": next(iter(peer.meta.values()))["version"] if peer.meta else "not run", "server_version": ours.info.server_version,
        "model": args.model.name, "threads": args.threads, "batch_tokens": args.batch_tokens, "max_new_tokens": args.max_new_tokens,
        "load_average": load, "notes": args.note, "budgets": budgets, "method": _method(peer, budgets, args.max_new_tokens),
        "lengths": {length: f"{min(n)}-{max(n)} tokens, budget {budgets[length]} for both" for length, n in sizes.items()}})
    print(f"wrote {args.out}.md, .json and .png", file=sys.stderr)


def _rows(text: str) -> list[str]:
    rows, known = [row.strip() for row in text.split(",")], [*engines.PEER_ROWS, *engines.OUR_ROWS]
    if unknown := [row for row in rows if row not in known]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]!r}; there are: {', '.join(known)}")
    return rows


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=pathlib.Path, required=True, metavar="DIR", help="folder with longbench/ and needle/")
    add("--out", type=pathlib.Path, required=True, metavar="STEM", help="writes STEM.md, STEM.json and STEM.png, e.g. docs/results/DATE-openvino")
    add("--rounds", type=_positive, default=6, metavar="N", help="each takes one prompt of each length through all rows (default: %(default)s)")
    add("--limit", type=_positive, metavar="N", help="distinct prompts of each length; with fewer than rounds they come again (default: as many as rounds)")
    add("--rows", type=_rows, default=list(DEFAULT_ROWS), metavar="A,B",
        help=f"of: {', '.join([*engines.PEER_ROWS, *engines.OUR_ROWS])} (default: {', '.join(DEFAULT_ROWS)})")
    add("--max-new-tokens", type=_positive, default=32, metavar="N", help="(default: %(default)s)")
    add("--threads", type=_positive, default=os.cpu_count(), metavar="N", help="of either engine (default: all cores, %(default)s here)")
    add("--batch-tokens", type=_positive, default=512, metavar="N", help="prompt tokens of a step, either engine (default: %(default)s)")
    add("--anchor", choices=("random", "zeros", "ones", "mean", "alternating"), default="mean", help="of the peer's KVCrush (default: mean)")
    add("--model", type=pathlib.Path, default=pathlib.Path(".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"), metavar="FILE.gguf",
        help="(default: %(default)s)")
    add("--server-binary", type=pathlib.Path, default=pathlib.Path("build/cpu-release/server/kvcrush-server"), metavar="FILE",
        help="(default: %(default)s)")
    add("--note", action="append", default=[], metavar="TEXT", help="a sentence for the report, e.g. what else ran; may be repeated")
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


if __name__ == "__main__":
    sys.exit(main())
