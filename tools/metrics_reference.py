#!/usr/bin/env python3
"""Writes the table of docs/operations/metrics.md from a running server's /metrics.

usage: tools/metrics_reference.py URL [--check]     --check: changes nothing; exit code 1 says that the table is out of date

A family shows once it has a series, so let the server answer a request first:
  kvcrush generate --max-tokens 1 hello && tools/metrics_reference.py http://127.0.0.1:9090/metrics
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import sys
import urllib.request

DOCUMENT = pathlib.Path(__file__).resolve().parents[1] / "docs" / "operations" / "metrics.md"
BEGIN, END = "<!-- table: tools/metrics_reference.py -->\n", "<!-- end of table -->\n"
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+", re.MULTILINE)


@dataclasses.dataclass
class Family:
    kind: str
    help: str
    labels: set[str] = dataclasses.field(default_factory=set)
    bounds: list[float] = dataclasses.field(default_factory=list)  # of a histogram's buckets, without +Inf


def parse(text: str) -> dict[str, Family]:
    """The text exposition format as prometheus-cpp writes it: HELP and TYPE before the samples of a family."""
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    families = {name: Family(kind, helps.get(name, "")) for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)}
    for name, labels in SAMPLE.findall(text):
        family = families.get(name) or families[re.sub(r"_(bucket|sum|count)$", "", name)]
        for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels):
            if label != "le" or family.kind != "histogram":
                family.labels.add(label)
            elif value != "+Inf" and float(value) not in family.bounds:
                family.bounds.append(float(value))
    return families


def table(families: dict[str, Family]) -> str:
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, family in sorted(families.items()):
        kind = family.kind
        if family.bounds:
            kind += f", {len(family.bounds)} buckets from {family.bounds[0]:g} to {family.bounds[-1]:g}"
        labels = ", ".join(f"`{label}`" for label in sorted(family.labels))
        lines.append(f"| `{name}` | {kind} | {labels} | {family.help} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or arguments[1:] not in ([], ["--check"]) or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    with urllib.request.urlopen(arguments[0], timeout=10) as response:
        families = parse(response.read().decode())
    document = DOCUMENT.read_text()
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    written = before + BEGIN + table(families) + END + after
    if "--check" not in arguments:
        DOCUMENT.write_text(written)
    elif written != document:
        print(f"{DOCUMENT} is not what the server says: run tools/metrics_reference.py against it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
