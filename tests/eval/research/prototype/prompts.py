"""Which prompts are measured: a fixed choice of LongBench and needle samples.

Sets: `small` and `more` for quantisation (21 and 37 prompts), `dev` and `held` for selection (50 and 42). The choice
depends only on the files in the data folder, so the same files give the same prompts in the same order.
"""

import json
import pathlib
import random

import torch

SETS = ("small", "more", "dev", "held")

# Tasks that LongBench gives to the model without a chat template.
PLAIN_TASKS = {"trec", "triviaqa", "samsum", "lcc", "repobench-p"}

QUANTISE_SAMPLES = {
    "small": {"2wikimqa": 2, "gov_report": 2, "hotpotqa": 1, "lcc": 2, "multi_news": 2, "multifieldqa_en": 2,
              "passage_count": 1, "samsum": 1, "trec": 2, "triviaqa": 2},
    "more": {"lcc": 9, "multi_news": 8, "multifieldqa_en": 6, "samsum": 4, "trec": 6, "triviaqa": 5},
}
QUANTISE_NEEDLES = {"small": {1000: 2, 2000: 2}, "more": {1000: 5, 2000: 5}}
QUANTISE_ANSWER_TOKENS = 24

SELECT_SAMPLES = {
    "dev": {"multi_news": 8, "lcc": 7, "trec": 6, "triviaqa": 5, "samsum": 3, "multifieldqa_en": 3, "2wikimqa": 4,
            "gov_report": 3, "hotpotqa": 1, "passage_count": 1, "qasper": 1},
    "held": {"multi_news": 8, "lcc": 6, "trec": 5, "triviaqa": 4, "samsum": 3, "multifieldqa_en": 3, "2wikimqa": 3,
             "gov_report": 3, "hotpotqa": 1},
}
SELECT_NEEDLES = {"dev": 4, "held": 3}  # per length of 1000 and 2000 tokens
SELECT_ANSWER_TOKENS = 16


def choose(data, name, tokenizer):
    """List of {task, id, ids, answer}; ids and answer are token tensors. `name` is one of SETS."""
    source = _Source(pathlib.Path(data), tokenizer)
    if name in SELECT_SAMPLES:
        return _selection_prompts(source, name)
    prompts = _quantise_prompts(source, name)
    if name == "more":
        known = {prompt["id"] for prompt in _quantise_prompts(source, "small")}
        prompts = [prompt for prompt in prompts if prompt["id"] not in known]
    return prompts


def _quantise_prompts(source, name):
    """Evenly spaced samples of 880 to 2200 tokens, in the file's order."""
    prompts = []
    for task, wanted in QUANTISE_SAMPLES[name].items():
        rows = [row for row in source.longbench(task) if 880 <= row["prompt_tokens"] <= 2200]
        count = min(wanted, len(rows))
        for i in range(count):
            prompts.append(source.longbench_prompt(task, rows[i * len(rows) // wanted], QUANTISE_ANSWER_TOKENS))
    for length, count in QUANTISE_NEEDLES[name].items():
        rows = source.needles(length)
        for i in range(count):
            row = rows[(2 * i + 1) * len(rows) // (2 * count)]
            prompts.append(source.needle_prompt(row, QUANTISE_ANSWER_TOKENS))
    return prompts


def _selection_prompts(source, name):
    """Samples of 880 to 2600 tokens, evenly spaced in length, dealt at random to the two sets."""
    prompts = []
    for task, dev_count in SELECT_SAMPLES["dev"].items():
        rows = [row for row in source.longbench(task) if 880 <= row["prompt_tokens"] <= 2600]
        rows.sort(key=lambda row: row["prompt_tokens"])
        total = dev_count + SELECT_SAMPLES["held"].get(task, 0)
        chosen = [rows[i * len(rows) // total] for i in range(total)]
        random.Random(task).shuffle(chosen)
        chosen = chosen[:dev_count] if name == "dev" else chosen[dev_count:]
        prompts += [source.longbench_prompt(task, row, SELECT_ANSWER_TOKENS) for row in chosen]
    count = SELECT_NEEDLES[name]
    for length in (1000, 2000):
        rows = source.needles(length)
        for i in range(count):
            # Even rows for development, odd ones held out.
            row = rows[2 * (i * 10 // count) + (name == "held")]
            prompts.append(source.needle_prompt(row, SELECT_ANSWER_TOKENS))
    random.Random(1).shuffle(prompts)
    return prompts


class _Source:
    """Rows of the data folder, and how a row becomes tokens."""

    def __init__(self, data, tokenizer):
        self._data = data
        self._tokenizer = tokenizer
        self._templates = json.loads((data / "longbench/dataset2prompt.json").read_text())

    def longbench(self, task):
        return _read_lines(self._data / f"longbench/{task}.jsonl")

    def needles(self, length):
        rows = _read_lines(self._data / "needle/niah_noise.jsonl")
        return [row for row in rows if row["target_tokens"] == length]

    def longbench_prompt(self, task, row, answer_tokens):
        text = self._templates[task].format(context=row["context"], input=row["input"])
        space = ""
        if task not in PLAIN_TASKS:
            turn = [{"role": "user", "content": text}]
            text = self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        elif not text[-1].isspace():
            space = " "
        return self._prompt(task, row, text, space + row["answers"][0], answer_tokens)

    def needle_prompt(self, row, answer_tokens):
        return self._prompt("needle", row, row["prompt"] + row["answer_prefix"], " " + row["answers"][0], answer_tokens)

    def _prompt(self, task, row, text, answer, answer_tokens):
        return {"task": task, "id": row["_id"], "ids": torch.tensor(self._encode(text)),
                "answer": torch.tensor(self._encode(answer)[:answer_tokens])}

    def _encode(self, text):
        return self._tokenizer(text, add_special_tokens=False).input_ids


def _read_lines(path):
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
