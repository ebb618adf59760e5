"""Reads the evaluation data where it lies. Every error names the file and what it should hold."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TypeVar

from kvcrush_eval import EvalError

T = TypeVar("T")
NO_CHAT_TEMPLATE = frozenset({"trec", "triviaqa", "samsum", "lcc", "repobench-p"})


class DataFolder:
    def __init__(self, root: pathlib.Path) -> None:
        if not root.is_dir():
            raise EvalError(f"--data {root} is not a folder; it should hold longbench/, needle/ and ppl/")
        self.root = root

    def _read(self, name: str) -> str:
        path = self.root / name
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise EvalError(f"cannot read {path}: {error.strerror}; check --data, or leave the task out of --tasks") from error

    def json(self, name: str) -> dict:
        return json.loads(self._read(name))

    def rows(self, name: str) -> list[dict]:
        rows = []
        # Not splitlines(): the texts hold U+2028 and other characters that it takes for ends of lines.
        for number, line in enumerate(self._read(name).split("\n"), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise EvalError(f"{self.root / name}, line {number} is not JSON: {error}") from error
        return rows

    def texts(self, folder: str) -> dict[str, str]:
        """Plain texts of a folder by stem."""
        names = sorted(path.name for path in (self.root / folder).glob("*.txt"))
        if not names:
            raise EvalError(f"{self.root / folder} holds no .txt file; check --data, or leave the task out of --tasks")
        return {name.removesuffix(".txt"): self._read(f"{folder}/{name}") for name in names}


def pick(rows: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` rows, evenly spaced, so that files ordered by length or depth are met across their range."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def longbench_prompt(dataset: str, row: dict, template: str) -> str | list[dict[str, str]]:
    # Not str.format on the result: contexts hold braces, and replacing one after the other would look into them.
    before, _, rest = template.partition("{context}")
    between, has_input, after = rest.partition("{input}")
    text = before + row["context"] + between + (row["input"] if has_input else "") + after
    return text if dataset in NO_CHAT_TEMPLATE else [{"role": "user", "content": text}]


def kv_retrieval_prompt(records: Sequence[Sequence[str]], key: str) -> str:
    pairs = ",\n".join(f' "{name}": "{value}"' for name, value in records)
    return ("The following JSON object maps identifiers to values.\n\n{" + pairs.lstrip() + "}\n\n"
            f'Look up one identifier in the object and give its value exactly as written there.\n\nIdentifier: "{key}"\nValue: "')


def keep_keys(records: Sequence[T], wanted: int, num_keys: int) -> list[T]:
    """`num_keys` neighbouring records around number `wanted`, which keeps its relative place."""
    num_keys = min(num_keys, len(records))
    place = round(wanted / max(len(records) - 1, 1) * (num_keys - 1))
    return list(records[wanted - place : wanted - place + num_keys])
