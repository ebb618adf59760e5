"""A real kvcrush-server in a process of its own, and small helpers to talk with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD_DIR = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release")
SERVER = BUILD_DIR / "server" / "kvcrush-server"
CLI = BUILD_DIR / "client" / "kvcrush"
MODEL = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PYTHON_PATH = [str(ROOT / "client" / "python"), str(BUILD_DIR / "proto")]
sys.path[:0] = PYTHON_PATH

import grpc  # noqa: E402
from kvcrush.v1 import inference_pb2 as pb  # noqa: E402
from kvcrush.v1 import inference_pb2_grpc as pb_grpc  # noqa: E402
from kvcrush_client import Client, build_request, build_score_request  # noqa: E402,F401

SLOWNESS = float(os.environ.get("KVCRUSH_TEST_SLOWNESS", "1"))  # stretches waits, for sanitizer builds
READY_TIMEOUT_S = 120 * SLOWNESS
live_servers: list[Server] = []


def server_command(model: pathlib.Path, *options: str) -> list[str]:
    return [str(SERVER), "--model", str(model), "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", *options]


class Server:
    """Starts the server on free ports and waits until it is ready. `stderr`: where its log goes, else a file."""

    def __init__(self, *options: str, model: pathlib.Path = MODEL, stderr=None) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="kvcrush-test-")
        port_file = pathlib.Path(self.folder.name) / "ports.json"
        self.log_path = pathlib.Path(self.folder.name) / "server.log"
        self._log_file = self.log_path.open("wb")
        self.process = subprocess.Popen(
            server_command(model, "--port-file", str(port_file), *options),
            stdout=self._log_file, stderr=subprocess.STDOUT if stderr is None else stderr)
        live_servers.append(self)
        deadline = time.monotonic() + READY_TIMEOUT_S
        ports = self._wait_for(lambda: json.loads(port_file.read_text()), deadline)
        self.target = f"127.0.0.1:{ports['grpc_port']}"
        self.http = f"http://127.0.0.1:{ports['http_port']}"
        self._wait_for(lambda: self.get("/readyz")[0] == 200 or None, deadline)
        self.channel = grpc.insecure_channel(self.target, options=[("grpc.max_receive_message_length", -1)])
        self.stub = pb_grpc.InferenceStub(self.channel)
        self.client = Client(self.target)

    def _wait_for(self, read, deadline: float):
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"server ended with {self.process.returncode}:\n{self.log()}")
            with contextlib.suppress(OSError, ValueError):
                if (value := read()) is not None:
                    return value
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"server not ready within {READY_TIMEOUT_S} s:\n{self.log()}")
            time.sleep(0.05)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and body."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Sample name, labels included, to value."""
        status, body = self.get("/metrics")
        assert status == 200, body
        samples = re.findall(r"^([a-zA-Z_:][^\s{]*(?:\{.*\})?) (\S+)", body, re.MULTILINE)
        return {name: float(value) for name, value in samples}

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 60) -> int:
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        live_servers.remove(self)
        with contextlib.suppress(AttributeError):  # absent when the server never became ready
            self.client.close()
            self.channel.close()
        self._log_file.close()
        self.folder.cleanup()


@contextlib.contextmanager
def running_server(*options: str, model: pathlib.Path = MODEL, stderr=None):
    before = list(live_servers)
    try:
        yield Server(*options, model=model, stderr=stderr)
    finally:
        for server in [s for s in live_servers if s not in before]:
            server.close()


@dataclasses.dataclass
class Sample:
    """One finished sample of a stream."""

    text: str = ""
    token_ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list = dataclasses.field(default_factory=list)
    finish: pb.FinishInfo | None = None
    num_chunks: int = 0


def collect(stream) -> dict[int, Sample]:
    """Reads a stream to its end; each sample must finish once and send nothing after."""
    samples: dict[int, Sample] = {}
    for chunk in stream:
        sample = samples.setdefault(chunk.index, Sample())
        assert sample.finish is None, "a chunk after the last one"
        sample.text += chunk.text
        sample.token_ids += chunk.token_ids
        sample.logprobs += chunk.logprobs
        sample.num_chunks += 1
        if chunk.HasField("finish"):
            sample.finish = chunk.finish
    assert all(s.finish is not None for s in samples.values()), "the stream ended without a finish"
    return samples


def generate(server: Server, prompt, **options) -> Sample:
    """One sample, greedy unless told otherwise, with the full KV cache unless told otherwise."""
    options.setdefault("temperature", 0)
    options.setdefault("compression", {"policy": "off"})
    samples = collect(server.stub.Generate(build_request(prompt, **options)))
    assert list(samples) == [0]
    return samples[0]


def eventually(condition, what: str, timeout_s: float = 20) -> None:
    timeout_s *= SLOWNESS
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def running_request(server: Server, request_id: str, state: str = "decode") -> pb.RunningRequest:
    """Waits until the server tells that this request is in this state."""
    found: list[pb.RunningRequest] = []

    def seen() -> bool:
        found[:] = [r for r in server.client.stats().requests if (r.request_id, r.state) == (request_id, state)]
        return bool(found)

    eventually(seen, f"{request_id} in state {state}")
    return found[0]


def wait_idle(server: Server, timeout_s: float = 20) -> None:
    """All KV blocks are back in the pool and no request is left."""

    def idle() -> bool:
        stats = server.client.stats()
        return (stats.blocks_used, stats.requests_running, stats.requests_waiting) == (0, 0, 0)

    def stays_idle() -> bool:
        # The server's picture of itself may be some 50 ms old, and then tell of the time before the request.
        if not idle():
            return False
        time.sleep(0.15)
        return idle()

    eventually(stays_idle, "every block back in the pool", timeout_s)


@contextlib.contextmanager
def rpc_fails(code: grpc.StatusCode, *words: str):
    """The block must fail with this code and a message that holds all the words."""
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        for word in words:
            assert word in error.details(), f"{word!r} is not in: {error.details()}"
    else:
        raise AssertionError(f"no error, expected {code}")
