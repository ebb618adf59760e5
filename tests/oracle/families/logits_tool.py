"""Talks to build/*/tests/tools/logits_tool: logits of the C++ engine."""

import json
import os
import pathlib
import subprocess

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[3]
TOOL = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release") / "tests/tools/logits_tool"


class ToolError(Exception):
    """The tool refused, or crashed."""


class LogitsTool:
    def __init__(self, scratch):
        self._process = None
        self._out = scratch / "logits"
        self.model = {}

    def close(self):
        if self._process is None:
            return
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(timeout=60) == 0

    def ask(self, op, **fields):
        self._process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status, self._process = self._process.wait(timeout=60), None
            raise ToolError(f"the tool ended with status {status}")
        answer = json.loads(line)
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer

    def open(self, path, **options):
        """Starts the tool too, where it does not run: one that a model crashed does not fail the next."""
        if self._process is None:
            self._process = subprocess.Popen([TOOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.model = self.ask("open", model=str(path), **options)

    def logits(self, *sequences, max_batch_tokens=512):
        """One array [rows, vocab] for each sequence. A sequence is its ids, or (prompt, ids to decode after it)."""
        jobs = []
        for sequence in sequences:
            if isinstance(sequence, tuple):
                prompt, decoded = sequence
                jobs.append({"ids": prompt + decoded, "decode_from": len(prompt)})
            else:
                jobs.append({"ids": sequence})
        rows = self.ask("logits", sequences=jobs, out=str(self._out), max_batch_tokens=max_batch_tokens)["rows"]
        values = np.fromfile(self._out, dtype=np.float32).reshape(sum(rows), self.model["vocab_size"])
        return np.split(values, np.cumsum(rows)[:-1])
