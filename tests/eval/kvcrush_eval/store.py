"""Results as JSON lines, appended as they come, so that a run can be cut off and taken up again."""

from __future__ import annotations

import json
import pathlib
import threading
from collections.abc import Iterable

from kvcrush_eval import EvalError

Key = tuple[str, str, str, str]  # task, dataset, sample, variant


def key_of(record: dict) -> Key:
    return record["task"], record["dataset"], record["sample"], record["variant"]


def read(path: pathlib.Path) -> tuple[dict, list[dict]]:
    """Meta line and records. A last line cut short by a crash is left out; any other bad line is an EvalError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise EvalError(f"cannot read {path}: {error.strerror}") from error
    meta, records = {}, []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # no newline after it
                break
            raise EvalError(f"{path}, line {number} is not JSON: {error}") from error
        if "meta" in entry:
            meta = entry["meta"]
        else:
            records.append(entry)
    return meta, records


class Store:
    """Appends to one file; refuses to mix models, or two settings under one name."""

    def __init__(self, path: pathlib.Path, meta: dict, settings: dict[str, dict]) -> None:
        self._lock = threading.Lock()
        self.done: set[Key] = set()
        exists = path.exists()
        if exists:
            self._check(path, meta, settings)
            self._drop_torn_line(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if not exists or path.stat().st_size == 0:
            self._write([{"meta": meta}])

    def _check(self, path: pathlib.Path, meta: dict, settings: dict[str, dict]) -> None:
        old_meta, records = read(path)
        for name in meta:
            if name in old_meta and old_meta[name] != meta[name]:
                raise EvalError(f"{path} was measured with {name} {old_meta[name]!r}, the server has {meta[name]!r}: give "
                                "another --out")
        for record in records:
            name = record["variant"]
            if name in settings and record["settings"] != settings[name]:
                raise EvalError(f"{path} has variant {name!r} as {record['settings']}, now it is {settings[name]}: rename it or "
                                "give another --out")
            self.done.add(key_of(record))

    @staticmethod
    def _drop_torn_line(path: pathlib.Path) -> None:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            with path.open("r+b") as file:
                file.truncate(whole)

    def _write(self, entries: Iterable[dict]) -> None:
        self._file.write("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
        self._file.flush()

    def append(self, records: list[dict]) -> None:
        with self._lock:
            self._write(records)
            self.done.update(map(key_of, records))

    def close(self) -> None:
        self._file.close()
