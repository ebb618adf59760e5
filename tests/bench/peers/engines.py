"""Both engines behind one call: run(row, ids, ...) -> ids, ttft_ms, tpot_ms, peak_kv_bytes, held_kv_bytes."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import grpc
from kvcrush_eval import EvalError, server, variants
from kvcrush_eval.stubs import ROOT, pb, pb_grpc

BLOCK_TOKENS = 32  # the peer's
PEER_VENV = ROOT / ".cache" / "peers" / "openvino"
PEER_PACKAGES = ("openvino-genai==2026.4.*", "numpy")
START_TIMEOUT_S = 120
# row -> settings of our cache, {budget} in tokens
OUR_ROWS = {"ours full": "full:f16", "ours pruned": "default:{budget}:f16", "ours paper": "paper:{budget}:f16",
            "ours pruned in prefill": "prefill=default:{budget}:f16,when=during_prefill", "ours target 8": "target:8"}
# row -> (pruned, KV precision, inference precision; "": the peer's default)
PEER_ROWS = {"peer full": (False, "f16", ""), "peer pruned": (True, "f16", ""), "peer pruned u8": (True, "u8", ""),
             "peer full f32": (False, "f16", "f32"), "peer pruned f32": (True, "f16", "f32")}


def install_peer() -> pathlib.Path:
    """Path of the peer venv's Python; made where it is missing."""
    python = PEER_VENV / "bin" / "python"
    check = [str(python), "-c", "import openvino_genai, numpy"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return python
    print(f"installing {' '.join(PEER_PACKAGES)} into {PEER_VENV}", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(PEER_VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)
        subprocess.run(check, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EvalError(f"cannot install {PEER_PACKAGES[0]} from PyPI: {error}. It has wheels for CPython 3.10 and later on x86-64 Linux; "
                        f"check the network and the proxy, or fill {PEER_VENV} by hand and run again") from error
    return python


class Peer:
    """OpenVINO GenAI in a process of its own. Pipelines are built per (row, budget): its budget is a setting of the pipeline."""

    def __init__(self, model: pathlib.Path, threads: int, batch_tokens: int, anchor: str, max_tokens: int) -> None:
        self._common = {"model": str(model), "threads": threads, "batch_tokens": batch_tokens,
                        "num_kv_blocks": -(-max_tokens // BLOCK_TOKENS) + 8}
        self._anchor = anchor
        self._open: set[str] = set()
        self.meta: dict = {}
        self._process = subprocess.Popen([str(install_peer()), str(pathlib.Path(__file__).with_name("peer_worker.py"))],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, message: dict) -> dict:
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended with {self._process.wait()}"}
        if "error" in answer:
            raise EvalError(f"OpenVINO GenAI failed: {answer['error']}. This script is written for {PEER_PACKAGES[0]}; if "
                            f"`{PEER_VENV}/bin/pip list` shows another version, delete {PEER_VENV} and run again")
        return answer

    def eviction(self, budget_tokens: int) -> dict:
        """Its default sinks and window (32, 128); a quarter of what is left, in whole blocks, is KVCrush's."""
        evictable = budget_tokens - 32 - 128
        return {"budget_tokens": budget_tokens, "start_tokens": 32, "recent_tokens": 128, "anchor": self._anchor,
                "crush_blocks": max(round(evictable / 4 / BLOCK_TOKENS), 1)}

    def prepare(self, row: str, budget_tokens: int) -> str:
        """Name of the pipeline; built on first use, outside of any timing."""
        pruned, kv_precision, inference_precision = PEER_ROWS[row]
        name = f"{row} {budget_tokens}" if pruned else row
        if name not in self._open:
            self.meta[name] = self._ask({"open": name, "kv_precision": kv_precision, "inference_precision": inference_precision,
                                         "eviction": self.eviction(budget_tokens) if pruned else None, **self._common})
            self._open.add(name)
        return name

    def run(self, row: str, ids: list[int], budget_tokens: int, max_new_tokens: int) -> dict:
        return self._ask({"run": self.prepare(row, budget_tokens), "ids": ids, "max_new_tokens": max_new_tokens})


class Ours:
    """kvcrush-server on a free port, asked over gRPC; times are the client's."""

    def __init__(self, binary: pathlib.Path, model: pathlib.Path, threads: int, batch_tokens: int) -> None:
        if not binary.is_file():
            raise EvalError(f"{binary} is not there: build it (make build), or give --server-binary")
        self._batch_tokens = batch_tokens
        self._folder = tempfile.TemporaryDirectory()
        port_file = pathlib.Path(self._folder.name) / "port.json"
        self._process = subprocess.Popen([
            str(binary), "--model", str(model), "--kv-dtype", "f16", "--threads", str(threads), "--max-batch-tokens", str(batch_tokens),
            "--kv-memory", "512MiB", "--listen", "127.0.0.1:0", "--http-listen", "off", "--port-file", str(port_file), "--log-level", "warn"])
        deadline = time.monotonic() + START_TIMEOUT_S
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise EvalError(f"{binary} did not start; its messages are above")
            time.sleep(0.1)
        channel = grpc.insecure_channel(f"127.0.0.1:{json.loads(port_file.read_text())['grpc_port']}")
        self._stub = pb_grpc.InferenceStub(channel)
        self.info = self._stub.GetModelInfo(pb.GetModelInfoRequest())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()

    def tokenize(self, prompt: str | list[dict[str, str]]) -> list[int]:
        if isinstance(prompt, str):
            return list(self._stub.Tokenize(pb.TokenizeRequest(text=prompt, add_special_tokens=False)).token_ids)
        chat = pb.ChatMessages(messages=[pb.ChatMessage(**message) for message in prompt])
        return list(self._stub.Tokenize(pb.TokenizeRequest(chat=chat)).token_ids)

    def detokenize(self, ids: list[int]) -> str:
        """Text up to the first end token, for both engines."""
        end = next((i for i, token in enumerate(ids) if token in self.info.stop_token_ids), len(ids))
        return self._stub.Detokenize(pb.DetokenizeRequest(token_ids=ids[:end], skip_special_tokens=True)).text if end else ""

    def _prompt_peak_bytes(self, row: str, num_tokens: int, budget_tokens: int) -> int:
        """From the block layout: the whole prompt in 16 bit where it is pruned at its end, else budget and a chunk at the most."""
        if row == "ours pruned in prefill":
            num_tokens = min(num_tokens, budget_tokens + self._batch_tokens)
        return -(-num_tokens // self.info.block_size_tokens) * self.info.block_bytes * self.info.num_layers

    def run(self, row: str, ids: list[int], budget_tokens: int, max_new_tokens: int) -> dict:
        variant = variants.resolve([OUR_ROWS[row].format(budget=budget_tokens)])[0]
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), compression=server.to_proto(variant))
        request.sampling.temperature = 0
        request.sampling.max_tokens = max_new_tokens
        request.sampling.ignore_eos = True
        out: list[int] = []
        start_s = first_s = last_s = time.perf_counter()
        for chunk in self._stub.Generate(request):
            if chunk.token_ids:
                last_s = time.perf_counter()
                first_s = first_s if out else last_s
                out += chunk.token_ids
            if chunk.HasField("finish"):
                report = chunk.finish.compression
        held = round(report.kv_bytes_full_16bit / report.compression_ratio) if report.compression_ratio else report.kv_bytes_before
        return {"ids": out, "ttft_ms": 1000 * (first_s - start_s), "tpot_ms": 1000 * (last_s - first_s) / max(len(out) - 1, 1),
                "peak_kv_bytes": max(self._prompt_peak_bytes(row, len(ids), budget_tokens), held), "held_kv_bytes": held, "prune_ms": report.prune_ms,
                "budget_tokens": report.budget_tokens, "applied": str(report.applied).replace("\n", " "), "note": report.note}
