"""The engines behind one call: run(setting, prompts, max_new_tokens) -> ids and times_ms, a list per prompt.

times_ms holds when each token was there, counted from when the prompts were handed over together.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence

import grpc
from kvcrush_eval import EvalError, server, variants
from kvcrush_eval.stubs import pb, pb_grpc
from peer_process import LLAMA_CPP, OPENVINO, PeerProcess

BLOCK_TOKENS = 32  # OpenVINO's
CELLS = 256  # a sequence's share of llama.cpp's cache comes in multiples of it
START_TIMEOUT_S = 120


def whole_blocks(tokens: float) -> int:
    """A budget that OpenVINO can have, and so both get."""
    return round(tokens / BLOCK_TOKENS) * BLOCK_TOKENS


class OpenVino(PeerProcess):
    """Setting: kv_precision, inference_precision ("": its own choice), eviction (None: full cache); each has a pipeline, budget included."""

    def __init__(self, model: pathlib.Path, threads: int, batch_tokens: int, max_tokens: int) -> None:
        super().__init__(OPENVINO, "openvino_worker.py", {
            "model": str(model), "threads": threads, "batch_tokens": batch_tokens, "inference_precision": "", "eviction": None,
            "num_kv_blocks": -(-max_tokens // BLOCK_TOKENS) + 8})

    @staticmethod
    def eviction(budget_tokens: int, anchor: str) -> dict:
        """Its default sinks and window (32, 128); a quarter of what is left, in whole blocks, is KVCrush's."""
        evictable = budget_tokens - 32 - 128
        return {"budget_tokens": budget_tokens, "start_tokens": 32, "recent_tokens": 128, "anchor": anchor,
                "crush_blocks": max(round(evictable / 4 / BLOCK_TOKENS), 1)}


class LlamaCpp(PeerProcess):
    """Setting: kv_type, flash_attention ("": its default). A context per setting and size, as large as the prompts need."""

    def __init__(self, model: pathlib.Path, threads: int, batch_tokens: int) -> None:
        super().__init__(LLAMA_CPP, "llama_cpp_worker.py", {
            "model": str(model), "threads": threads, "batch_tokens": batch_tokens, "kv_type": "f16", "flash_attention": ""})

    def run(self, setting: dict, prompts: list[list[int]], max_new_tokens: int) -> dict:
        tokens = max(map(len, prompts)) + max_new_tokens
        size = {"num_sequences": len(prompts), "sequence_tokens": -(-tokens // CELLS) * CELLS}
        return super().run(setting | size, prompts, max_new_tokens)


class Ours:
    """kvcrush-server on a free port, asked over gRPC; times are the client's. Setting: the text of an eval variant."""

    def __init__(self, binary: pathlib.Path, model: pathlib.Path, threads: int, batch_tokens: int, flags: Sequence[str] = ()) -> None:
        if not binary.is_file():
            raise EvalError(f"{binary} is not there: build it (make build), or give --server-binary")
        self.batch_tokens = batch_tokens
        self._folder = tempfile.TemporaryDirectory()
        port_file = pathlib.Path(self._folder.name) / "port.json"
        # Options in the environment, so that a flag may repeat and beat them. No keepalive: grpc's Python client, idle while the peers
        # run, does not answer pings.
        options = {"KV_DTYPE": "f16", "THREADS": threads, "MAX_BATCH_TOKENS": batch_tokens, "KV_MEMORY": "512MiB", "PREFIX_CACHE": "false",
                   "KEEPALIVE_TIME": 0, "HTTP_LISTEN": "off", "LOG_LEVEL": "warn"}
        self._process = subprocess.Popen(
            [str(binary), "--model", str(model), "--listen", "127.0.0.1:0", "--port-file", str(port_file), *flags],
            env={**os.environ, **{f"KVCRUSH_{name}": str(value) for name, value in options.items()}})
        deadline = time.monotonic() + START_TIMEOUT_S
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise EvalError(f"{binary} did not start; its messages are above")
            time.sleep(0.1)
        channel = grpc.insecure_channel(f"127.0.0.1:{json.loads(port_file.read_text())['grpc_port']}")
        self._stub = pb_grpc.InferenceStub(channel)
        self.info = self._stub.GetModelInfo(pb.GetModelInfoRequest())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def meta(self) -> dict:
        return {"version": self.info.server_version}

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

    def run(self, setting: str, prompts: list[list[int]], max_new_tokens: int) -> dict:
        """Also `reports`: the server's CompressionReport of each."""
        compression = server.to_proto(variants.parse(setting))
        answers: list[tuple] = [([], [], None)] * len(prompts)
        errors: list[grpc.RpcError] = []
        requests = []
        for ids in prompts:
            request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), compression=compression)
            request.sampling.temperature = 0
            request.sampling.max_tokens = max_new_tokens
            request.sampling.ignore_eos = True
            requests.append(request)
        start_s = time.perf_counter()

        def read(place: int) -> None:
            out, times_ms, report = [], [], None
            try:
                for chunk in self._stub.Generate(requests[place]):
                    times_ms += [1000 * (time.perf_counter() - start_s)] * len(chunk.token_ids)
                    out += chunk.token_ids
                    if chunk.HasField("finish"):
                        report = chunk.finish.compression
            except grpc.RpcError as error:
                errors.append(error)
            answers[place] = (out, times_ms, report)

        readers = [threading.Thread(target=read, args=(place,)) for place in range(len(prompts))]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        if errors:
            raise errors[0]
        ids, times_ms, reports = (list(column) for column in zip(*answers))
        return {"ids": ids, "times_ms": times_ms, "reports": reports}
