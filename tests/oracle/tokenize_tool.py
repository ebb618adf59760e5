"""Talks to build/*/tests/tools/tokenize_tool, the C++ tokenizer and chat templates behind JSON lines."""

import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = pathlib.Path(
    os.environ.get("KVCRUSH_TEST_MODEL", ROOT / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf")
)
TOOL = (
    ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release") / "tests/tools/tokenize_tool"
)


class ToolError(Exception):
    """The tool refused; its message."""


class TokenizeTool:
    def __init__(self, *arguments):
        self._process = subprocess.Popen(
            [TOOL, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @staticmethod
    def refusal(*arguments):
        """Raises what the tool says when it does not start."""
        done = subprocess.run([TOOL, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise ToolError(done.stderr)

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(timeout=60) == 0

    def ask(self, op, **fields):
        self._process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the tool ended: it crashed or could not load the model"
        answer = json.loads(line)
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer

    def encode(self, text, parse_special=True):
        data = text if isinstance(text, bytes) else text.encode()
        return self.ask("encode", hex=data.hex(), parse_special=parse_special)["ids"]

    def encode_all(self, texts, **options):
        ids = []
        for begin in range(0, len(texts), 500):
            hexes = [text.encode().hex() for text in texts[begin : begin + 500]]
            ids += self.ask("encode_all", hexes=hexes, **options)["ids"]
        return ids

    def decode(self, ids, skip_special=False):
        return bytes.fromhex(self.ask("decode", ids=ids, skip_special=skip_special)["hex"])
