#!/usr/bin/env python3
"""OpenVINO GenAI with its KVCrush beside kvcrush-server: same GGUF, same prompt tokens, same KV budget, one request at a time.

Run by hand. The peer is installed from PyPI into .cache/peers/openvino; the project's own venv stays as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import pathlib
import statistics
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "eval"), str(pathlib.Path(__file__).resolve().parent)]

try:
    from tqdm import tqdm

    import command
    import engines
    import openvino_kvcrush_report as kvcrush_report
    import report
    import timing
    from kvcrush_eval import EvalError, data, metrics
except ImportError as missing:
    sys.exit(f"error: {missing}: run this with the project's venv, .cache/venv/bin/python, and install tests/requirements.txt into it")

LENGTHS = {"2k": (1700, 2300), "3k": (2700, 3300)}  # prompt tokens
# row -> settings of our cache, {budget} in tokens
OUR_ROWS = {"ours full": "full:f16", "ours pruned": "default:{budget}:f16", "ours paper": "paper:{budget}:f16",
            "ours pruned in prefill": "prefill=default:{budget}:f16,when=during_prefill", "ours target 8": "target:8"}
# row -> (pruned, KV precision, inference precision; "": the peer's default)
PEER_ROWS = {"peer full": (False, "f16", ""), "peer pruned": (True, "f16", ""), "peer pruned u8": (True, "u8", ""),
             "peer full f32": (False, "f16", "f32"), "peer pruned f32": (True, "f16", "f32")}
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
    return engines.whole_blocks(KEPT * statistics.median(len(prompt.ids) for prompt in prompts))


class Engines:
    """Both, by row."""

    def __init__(self, args: argparse.Namespace, ours: engines.Ours, peer: engines.OpenVino) -> None:
        self.ours, self.peer, self._anchor = ours, peer, args.anchor

    def _peer_setting(self, row: str, budget: int) -> dict:
        pruned, kv_precision, inference_precision = PEER_ROWS[row]
        return {"kv_precision": kv_precision, "inference_precision": inference_precision,
                "eviction": self.peer.eviction(budget, self._anchor) if pruned else None}

    def prepare(self, row: str, budget: int) -> None:
        if row in PEER_ROWS:
            self.peer.prepare(self._peer_setting(row, budget))

    def _our_bytes(self, row: str, num_tokens: int, budget: int, report) -> dict:
        """From the block layout: the whole prompt in 16 bit where it is pruned at its end, else budget and a chunk at the most."""
        info = self.ours.info
        held = round(report.kv_bytes_full_16bit / report.compression_ratio) if report.compression_ratio else report.kv_bytes_before
        if row == "ours pruned in prefill":
            num_tokens = min(num_tokens, budget + self.ours.batch_tokens)
        peak = -(-num_tokens // info.block_size_tokens) * info.block_bytes * info.num_layers
        return {"peak_kv_bytes": max(peak, held), "held_kv_bytes": held, "prune_ms": report.prune_ms, "budget_tokens": report.budget_tokens,
                "applied": str(report.applied).replace("\n", " "), "note": report.note}

    def run(self, row: str, ids: list[int], budget: int, max_new_tokens: int) -> dict:
        if row in PEER_ROWS:
            result = self.peer.run(self._peer_setting(row, budget), [ids], max_new_tokens)
            more = {key: result[key] for key in ("peak_kv_bytes", "held_kv_bytes")}
        else:
            result = self.ours.run(OUR_ROWS[row].format(budget=budget), [ids], max_new_tokens)
            more = self._our_bytes(row, len(ids), budget, result["reports"][0])
        times_ms = result["times_ms"][0]
        return {"ids": result["ids"][0], "ttft_ms": times_ms[0], "tpot_ms": timing.tpot_ms(times_ms), **more}


def measure(args: argparse.Namespace, prompts: dict[str, list[Prompt]], budgets: dict[str, int], both: Engines) -> list[dict]:
    """Round r takes prompt r of each length through every row, beginning one row later than the round before."""
    for length in tqdm(LENGTHS, desc="warming up", unit="length"):
        for row in args.rows:
            both.run(row, prompts[length][0].ids[:WARM_TOKENS], budgets[length], 4)
    records: list[dict] = []
    with tqdm(total=args.rounds * len(LENGTHS) * len(args.rows), desc="measuring", unit="request") as progress:
        for turn in range(args.rounds):
            for length in LENGTHS:
                prompt = prompts[length][turn % len(prompts[length])]
                for place in range(len(args.rows)):
                    row = args.rows[(turn + place) % len(args.rows)]
                    progress.set_postfix_str(f"{length}, {row}")
                    result = both.run(row, prompt.ids, budgets[length], args.max_new_tokens)
                    text = both.ours.detokenize(result["ids"])
                    records.append({"round": turn, "row": row, "length": length, "task": prompt.task, "prompt": prompt.id,
                                    "prompt_tokens": len(prompt.ids), "text": text, "score": prompt.score(text), **result})
                    progress.update()
    return records


def _method(budgets: dict[str, int], max_new_tokens: int) -> list[str]:
    eviction = {length: engines.OpenVino.eviction(budget, "mean") for length, budget in budgets.items()}
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


def run(args: argparse.Namespace) -> None:
    folder = data.DataFolder(args.data)
    command.check(args)
    load = command.load_average()
    ours = engines.Ours(args.server_binary, args.model, args.threads, args.batch_tokens)
    with contextlib.closing(ours), contextlib.closing(engines.OpenVino(
            args.model, args.threads, args.batch_tokens, LENGTHS["3k"][1] + args.max_new_tokens + CHAT_TOKENS)) as peer:
        both = Engines(args, ours, peer)
        prompts = load_prompts(folder, ours.tokenize, args.limit or args.rounds)
        budgets = {length: budget_tokens(chosen) for length, chosen in prompts.items()}
        for row in args.rows:
            for budget in budgets.values():
                both.prepare(row, budget)
        records = measure(args, prompts, budgets, both)
    sizes = {length: [len(p.ids) for p in chosen] for length, chosen in prompts.items()}
    summary = kvcrush_report.summarise(records, args.rows, list(LENGTHS))
    meta = {**command.about(args, load), "peer_version": peer.meta["version"], "server_version": ours.meta["version"],
            "max_new_tokens": args.max_new_tokens, "budgets": budgets, "method": _method(budgets, args.max_new_tokens),
            "lengths": {length: f"{min(n)}-{max(n)} tokens, budget {budgets[length]} for both" for length, n in sizes.items()}}
    picture = pathlib.Path(f"{args.out}.png")
    kvcrush_report.draw(summary, args.rows, picture)
    # Token ids stay out: the texts say the same in less.
    lean = [{key: value for key, value in record.items() if key != "ids"} for record in records]
    report.write(args.out, kvcrush_report.markdown(summary, meta, picture.name), {"meta": meta, **summary, "records": lean})
    print(f"wrote {args.out}.md, .json and .png", file=sys.stderr)


def _rows(text: str) -> list[str]:
    rows, known = [row.strip() for row in text.split(",")], [*PEER_ROWS, *OUR_ROWS]
    if unknown := [row for row in rows if row not in known]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]!r}; there are: {', '.join(known)}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=pathlib.Path, required=True, metavar="DIR", help="folder with longbench/ and needle/")
    add("--limit", type=command.positive, metavar="N",
        help="distinct prompts of each length; with fewer than rounds they come again (default: as many as rounds)")
    add("--rows", type=_rows, default=list(DEFAULT_ROWS), metavar="A,B",
        help=f"of: {', '.join([*PEER_ROWS, *OUR_ROWS])} (default: {', '.join(DEFAULT_ROWS)})")
    add("--max-new-tokens", type=command.positive, default=32, metavar="N", help="(default: %(default)s)")
    command.add_options(parser, rounds=6, of_a_round="each takes one prompt of each length through all rows",
                        example="docs/results/DATE-openvino")
    command.add_anchor(parser)
    return command.main(parser, run)


if __name__ == "__main__":
    sys.exit(main())
