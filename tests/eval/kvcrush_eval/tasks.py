"""The tasks: from the data folder to jobs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

from kvcrush_eval import EvalError, data, metrics
from kvcrush_eval.jobs import GenerateJob, Job, ScoreJob

NEEDLE_MAX_TOKENS = 16   # a number of seven digits, one token each, and some slack
KV_MAX_TOKENS = 48       # a UUID
SPEED_PROMPT_TOKENS = (1000, 3000)
SPEED_MAX_TOKENS = 128
SPEED_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Options:
    max_prompt_tokens: int = 3500
    limit: int | None = None          # samples per dataset
    datasets: frozenset[str] | None = None
    kv_keys: int = 40                 # pairs in a kv_retrieval prompt; all 75 are some 5300 tokens
    ppl_prompt_tokens: int = 512
    ppl_tokens: int = 3000
    ppl_windows: int = 4              # per text
    probe_tokens: int = 16            # of the gold answer
    own_tokens: int = 48              # of the full cache's own text


Tokenize = Callable[[str], list[int]]


def _longbench_rows(folder: data.DataFolder, options: Options) -> Iterator[tuple[str, dict, str | list[dict[str, str]]]]:
    templates = folder.json("longbench/dataset2prompt.json")
    for dataset in metrics.DATASETS:
        if options.datasets and dataset not in options.datasets:
            continue
        rows = [row for row in folder.rows(f"longbench/{dataset}.jsonl") if row["prompt_tokens"] <= options.max_prompt_tokens]
        for row in data.pick(rows, options.limit):
            yield dataset, row, data.longbench_prompt(dataset, row, templates[dataset])


def longbench(folder: data.DataFolder, options: Options, _: Tokenize) -> Iterator[Job]:
    max_tokens = folder.json("longbench/dataset2maxlen.json")
    for dataset, row, prompt in _longbench_rows(folder, options):
        score = functools.partial(metrics.longbench_score, dataset, answers=row["answers"], classes=row["all_classes"])
        yield GenerateJob("longbench", dataset, row["_id"], prompt, max_tokens[dataset], score,
                          stop_at_newline=dataset in metrics.FIRST_LINE_ONLY)


def _needle_rows(folder: data.DataFolder, options: Options) -> Iterator[tuple[str, dict, str]]:
    lengths: dict[str, list[dict]] = {}
    for row in folder.rows("needle/niah_noise.jsonl"):
        if row["prompt_tokens"] <= options.max_prompt_tokens:
            lengths.setdefault(f"niah_{row['target_tokens']}", []).append(row)
    for dataset, rows in lengths.items():
        if not options.datasets or dataset in options.datasets:
            for row in data.pick(rows, options.limit):
                yield dataset, row, row["prompt"] + row["answer_prefix"]


def needle(folder: data.DataFolder, options: Options, _: Tokenize) -> Iterator[Job]:
    for dataset, row, prompt in _needle_rows(folder, options):
        score = functools.partial(metrics.contains_answer, answers=row["answers"])
        yield GenerateJob("needle", dataset, row["_id"], prompt, NEEDLE_MAX_TOKENS, score,
                          extra={"depth": row["depth"], "length": row["target_tokens"]})


def kv_retrieval(folder: data.DataFolder, options: Options, tokenize: Tokenize) -> Iterator[Job]:
    for index, row in enumerate(data.pick(folder.rows("needle/kv_retrieval_75_keys.jsonl"), options.limit)):
        records = row["ordered_kv_records"]
        wanted = next(i for i, (key, _) in enumerate(records) if key == row["key"])
        prompt = data.kv_retrieval_prompt(data.keep_keys(records, wanted, options.kv_keys), row["key"])
        if index == 0 and (num_tokens := len(tokenize(prompt))) > options.max_prompt_tokens:
            raise EvalError(f"a kv_retrieval prompt of {options.kv_keys} pairs has {num_tokens} tokens, --max-prompt-tokens is "
                            f"{options.max_prompt_tokens}: raise it, or lower --kv-keys")
        yield GenerateJob("kv_retrieval", f"kv_{options.kv_keys}", row["key"], prompt, KV_MAX_TOKENS,
                          functools.partial(metrics.contains_answer, answers=[row["value"]]))


def probe(folder: data.DataFolder, options: Options, _: Tokenize) -> Iterator[Job]:
    """Prompt and gold answer of LongBench and of the needles, teacher-forced."""
    rows = [*_longbench_rows(folder, options), *_needle_rows(folder, options)]
    for dataset, row, prompt in rows:
        # A raw prompt that ends in a word goes on with a space; an assistant's turn and a new line do not.
        space = " " if isinstance(prompt, str) and not prompt[-1].isspace() else ""
        yield ScoreJob("probe", dataset, row["_id"], prompt, space + row["answers"][0], options.probe_tokens, True)


def own(folder: data.DataFolder, options: Options, _: Tokenize) -> Iterator[Job]:
    """The same prompts, along what the full cache writes greedily: what a user of a greedy request gets."""
    for dataset, row, prompt in [*_longbench_rows(folder, options), *_needle_rows(folder, options)]:
        yield ScoreJob("own", dataset, row["_id"], prompt, None, options.own_tokens, True)


def ppl(folder: data.DataFolder, options: Options, tokenize: Tokenize) -> Iterator[Job]:
    """Windows over long texts: a short prompt, then thousands of given tokens with the cache pruned as it grows."""
    size = options.ppl_prompt_tokens + options.ppl_tokens
    for name, text in folder.texts("ppl").items():
        if options.datasets and name not in options.datasets:
            continue
        ids = tokenize(text)
        num_windows = min(options.ppl_windows, options.limit or options.ppl_windows, len(ids) // size)
        for window in range(num_windows):
            start = window * (len(ids) - size) // max(num_windows - 1, 1)
            split = start + options.ppl_prompt_tokens
            yield ScoreJob("ppl", name, f"{start}+{options.ppl_prompt_tokens}+{options.ppl_tokens}", ids[start:split],
                           ids[split : start + size], options.ppl_tokens, False)


def speed(folder: data.DataFolder, options: Options, tokenize: Tokenize) -> Iterator[Job]:
    """One request at a time, one variant each: time to first token, tokens per second, bytes."""
    ids = tokenize(next(iter(folder.texts("ppl").values())))
    lengths = [n for n in SPEED_PROMPT_TOKENS if n <= options.max_prompt_tokens and n * SPEED_REPEATS <= len(ids)]
    for length in lengths:
        for repeat in range(SPEED_REPEATS):
            prompt = ids[repeat * length : (repeat + 1) * length]
            yield GenerateJob("speed", f"speed_{length}", str(repeat), prompt, SPEED_MAX_TOKENS, None, ignore_eos=True,
                              one_variant_per_request=True)


TASKS: dict[str, Callable[[data.DataFolder, Options, Tokenize], Iterable[Job]]] = {
    "probe": probe, "own": own, "longbench": longbench, "needle": needle, "kv_retrieval": kv_retrieval, "ppl": ppl, "speed": speed,
}


def make_jobs(names: Iterable[str], folder: data.DataFolder, options: Options, tokenize: Tokenize) -> list[Job]:
    """All jobs of the tasks; within a task one of each dataset in turn, so that a run cut short has some of all."""
    jobs: list[Job] = []
    for name in names:
        queues: dict[str, list[Job]] = {}
        for job in TASKS[name](folder, options, tokenize):
            queues.setdefault(job.dataset, []).append(job)
        longest = max((len(queue) for queue in queues.values()), default=0)
        jobs += [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]
    if not jobs:
        raise EvalError("no sample is left: raise --max-prompt-tokens, or check --tasks and --datasets")
    return jobs
