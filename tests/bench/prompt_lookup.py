#!/usr/bin/env python3
"""Tokens a second with and without prompt lookup, on answers that quote their prompt and on answers that cannot.

usage: tests/bench/prompt_lookup.py --data DIR [--json FILE] [--rounds N] [--work NAME,...] [--concurrency N,...]

DIR has longbench/ (tests/eval/README.md). Both settings run in turn, so many rounds, in an order that swaps from round to
round, on prompts that the prefix cache holds already: what is timed is the answering. A ratio is of one round's two runs, by
the clock and by the server's CPU time, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from harness import Server, build_request, collect, running_server  # noqa: E402

STORIES = ["Write a surreal story about {} that nobody has told before.", "Invent a dream in which {} speak.",
           "List odd things that {} could be used for."]
SUBJECTS = ["clocks", "lighthouses", "teaspoons", "glaciers", "umbrellas", "violins", "beetles", "staircases"]


def longbench(data: pathlib.Path, task: str, most_tokens: int, count: int) -> list[str]:
    """The task's official prompts, those of at most so many tokens."""
    template = json.loads((data / "longbench" / "dataset2prompt.json").read_text())[task]
    lines = (data / "longbench" / f"{task}.jsonl").read_text().splitlines()
    samples = [s for s in map(json.loads, lines) if s["prompt_tokens"] <= most_tokens]
    return [template.format(context=s["context"], input=s["input"]) for s in samples[:count]]


def workloads(data: pathlib.Path, count: int) -> dict[str, tuple[list, dict]]:
    """Name to prompts and sampling."""
    def chat(texts):
        return [[{"role": "user", "content": text}] for text in texts]

    stories = [STORIES[i % len(STORIES)].format(SUBJECTS[i % len(SUBJECTS)]) for i in range(count)]
    return {
        "summary of a report": (chat(longbench(data, "gov_report", 3000, count)), {"temperature": 0}),
        "summary of news": (chat(longbench(data, "multi_news", 2500, count)), {"temperature": 0}),
        "summary of news, sampled": (chat(longbench(data, "multi_news", 2500, count)), {"temperature": 0.7, "seed": 1}),
        "code completion": (longbench(data, "lcc", 2500, count), {"temperature": 0}),
        "story, sampled": (chat(stories), {"temperature": 1, "seed": 1}),
    }


def cpu_seconds(server: Server) -> float:
    """Of all its threads, since it started."""
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Run:
    """All prompts, so many at a time, with one setting."""

    def __init__(self, server: Server, prompts: list, concurrency: int, **options) -> None:
        self.samples: dict[int, object] = {}
        requests = [build_request(prompt, compression={"policy": "off"}, **options) for prompt in prompts]
        todo = iter(range(len(requests)))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    index = next(todo, None)
                if index is None:
                    return
                self.samples[index] = collect(server.stub.Generate(requests[index]))[0]

        threads = [threading.Thread(target=work) for _ in range(concurrency)]
        started, cpu_before = time.monotonic(), cpu_seconds(server)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        usages = [sample.finish.usage for sample in self.samples.values()]
        self.tokens_per_s = sum(u.completion_tokens for u in usages) / (time.monotonic() - started)
        self.cpu_s = cpu_seconds(server) - cpu_before
        self.drafted = sum(u.drafted_tokens for u in usages)
        self.accepted = sum(u.accepted_draft_tokens for u in usages)
        self.tokens = sum(u.completion_tokens for u in usages)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(server: Server, prompts: list, sampling: dict, concurrency: int, rounds: int, output_tokens: int,
            lookup_tokens: int) -> dict:
    options = {**sampling, "ignore_eos": True}
    Run(server, prompts, concurrency, max_tokens=1, **options)  # the prompts are cached now
    off, on = [], []
    for index in range(rounds):
        for lookup in ((0, lookup_tokens) if index % 2 == 0 else (lookup_tokens, 0)):
            run = Run(server, prompts, concurrency, max_tokens=output_tokens, speculation={"lookup_tokens": lookup}, **options)
            (on if lookup else off).append(run)
    for run in off + on:
        assert all(run.samples[i].token_ids == off[0].samples[i].token_ids for i in run.samples), "another answer"
    ratios = [b.tokens_per_s / a.tokens_per_s for a, b in zip(off, on)]
    return {"concurrency": concurrency, "prompts": len(prompts),
            "off_tokens_per_s": [r.tokens_per_s for r in off], "on_tokens_per_s": [r.tokens_per_s for r in on],
            "off_cpu_s": [r.cpu_s for r in off], "on_cpu_s": [r.cpu_s for r in on],
            "ratio": spread(ratios), "cpu_ratio": spread([a.cpu_s / b.cpu_s for a, b in zip(off, on)]),
            "drafted_per_token": on[0].drafted / on[0].tokens, "accepted_per_token": on[0].accepted / on[0].tokens,
            "accepted_per_draft": on[0].accepted / on[0].drafted if on[0].drafted else None}


def words(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f}** ({ratio['min']:.2f}-{ratio['max']:.2f})"


def row(name: str, result: dict) -> str:
    share = result["accepted_per_draft"]
    return (f"| {name} | {result['concurrency']} | {statistics.median(result['off_tokens_per_s']):.1f} "
            f"| {statistics.median(result['on_tokens_per_s']):.1f} "
            f"| **{words(result['ratio'])} | **{words(result['cpu_ratio'])} "
            f"| {result['drafted_per_token']:.2f} | {'' if share is None else f'{share * 100:.0f} %'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--work", help="of the workloads, those whose names begin so, by comma")
    parser.add_argument("--concurrency", default="1,4")
    parser.add_argument("--output-tokens", type=int, default=96)
    parser.add_argument("--lookup-tokens", type=int, default=16)
    arguments = parser.parse_args()
    wanted = tuple(arguments.work.split(",")) if arguments.work else ("",)
    results: dict[str, list] = {}
    print("| answer | at a time | tokens/s without | with | ratio (of a round) | by CPU time | drafts a token | of them right |")
    print("|---|---|---|---|---|---|---|---|")
    with running_server("--kv-memory", "1GiB") as server:
        for name, (prompts, sampling) in workloads(arguments.data, arguments.prompts).items():
            if not name.startswith(wanted):
                continue
            for concurrency in map(int, arguments.concurrency.split(",")):
                result = measure(server, prompts, sampling, concurrency, arguments.rounds, arguments.output_tokens,
                                 arguments.lookup_tokens)
                results.setdefault(name, []).append(result)
                print(row(name, result), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"lookup_tokens": arguments.lookup_tokens, "output_tokens": arguments.output_tokens,
                                              "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
