"""Everything at once: clients that cancel, run out of time, hang up, or do not read, while the engine has faults. Afterwards no
block is in use, every call has had exactly one status, and the server still answers, then drains.

KVCRUSH_CHAOS_SECONDS makes it longer.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Iterator

import grpc

from harness import SLOWNESS, build_request, collect, eventually, pb, pb_grpc, running_server, wait_idle

SECONDS = float(os.environ.get("KVCRUSH_CHAOS_SECONDS", "12")) * SLOWNESS
WORKERS = 6
FAULTS = "nan=0.002,exception=0.002,memory=0.001,stall=0.005,stall-ms=200,seed=5"
POLICIES = [{"policy": "off"}, {"policy": "snapkv", "budget_fraction": 0.3}, {"policy": "h2o", "budget_tokens": 96},
            {"policy": "off", "kv_dtype": "int4"}, {"target_compression": 4},
            {"policy": "streaming", "budget_tokens": 80, "when": "during_prefill"}]
EXPECTED = {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Worker(threading.Thread):
    """Makes one call after the other, each with a behaviour drawn by lot, and counts how they end."""

    def __init__(self, target: str, seed: int, prompt: list[int], stop: threading.Event) -> None:
        super().__init__()
        self.target, self.stop_asked = target, stop
        self.random = random.Random(seed)
        self.prompt = prompt
        self.statuses: collections.Counter = collections.Counter()
        self.endings: list[str] = []
        self.problems: list[str] = []
        self.calls = 0

    def request(self) -> pb.GenerateRequest:
        length = self.random.choice([20, 150, 400])
        request = build_request(self.prompt[:length], max_tokens=self.random.choice([1, 8, 40]), ignore_eos=True,
                                temperature=1, seed=self.random.randrange(100), n=self.random.choice([1, 1, 1, 3]),
                                compression=dict(self.random.choice(POLICIES)))
        request.priority = self.random.randrange(-4, 5)
        request.prefix_cache.bypass = self.random.random() < 0.2
        return request

    def run(self) -> None:
        channel = None
        while not self.stop_asked.is_set():
            try:
                if channel is None or self.random.random() < 0.1:
                    if channel is not None:
                        channel.close()
                    channel = grpc.insecure_channel(self.target, options=[("grpc.use_local_subchannel_pool", 1)])
                channel = self.one_call(channel)
            except Exception as error:  # shown by the test
                self.problems.append(repr(error))
        if channel is not None:
            channel.close()

    def one_call(self, channel):
        self.calls += 1
        stub = pb_grpc.InferenceStub(channel)
        behaviour = self.random.choice(["read", "read", "once", "cancel", "deadline", "slow", "hang_up"])
        metadata = [("x-tenant", f"tenant-{self.random.randrange(3)}")]
        timeout = self.random.uniform(0.001, 0.4) * SLOWNESS if behaviour == "deadline" else 300 * SLOWNESS
        try:
            if behaviour == "once":
                stub.GenerateOnce(self.request(), timeout=timeout, metadata=metadata)
                self.note(grpc.StatusCode.OK)
                return channel
            call = stub.Generate(self.request(), timeout=timeout, metadata=metadata)
            if behaviour == "cancel":
                time.sleep(self.random.uniform(0, 0.2))
                call.cancel()
            if behaviour == "hang_up":
                time.sleep(self.random.uniform(0, 0.1))
                channel.close()
                self.note(grpc.StatusCode.CANCELLED)
                return None
            if behaviour == "slow":
                for _ in call:
                    time.sleep(self.random.uniform(0, 0.05))
            else:
                collect(call)
            self.note(call.code())
        except grpc.RpcError as error:
            self.note(error.code())
        return channel

    def note(self, code: grpc.StatusCode) -> None:
        self.statuses[code] += 1


def test_chaos(long_prompt):
    prompt = long_prompt(400)
    with running_server("--kv-memory", str(48 << 20), "--max-running", "12", "--max-waiting", "24", "--swap-memory",
                        "16MiB", "--inject-faults", FAULTS, "--log-level", "info") as server:
        stop = threading.Event()
        workers = [Worker(server.target, seed, prompt, stop) for seed in range(WORKERS)]
        for worker in workers:
            worker.start()
        time.sleep(SECONDS)
        stop.set()
        for worker in workers:
            worker.join(120 * SLOWNESS)
        assert not any(worker.is_alive() for worker in workers), "a call without an end"
        assert not [p for worker in workers for p in worker.problems]
        statuses = sum((worker.statuses for worker in workers), collections.Counter())
        print(f"{sum(worker.calls for worker in workers)} calls: " +
              ", ".join(f"{code.name} {count}" for code, count in statuses.most_common()))
        assert set(statuses) <= EXPECTED, statuses
        assert sum(statuses.values()) == sum(worker.calls for worker in workers)
        assert statuses[grpc.StatusCode.OK] > 10, statuses

        wait_idle(server, 60)
        metrics = server.metrics()
        assert metrics["kvcrush_kv_blocks_used"] == 0
        assert metrics["kvcrush_swap_bytes_used"] == 0
        assert_each_sample_ended_once(server)
        # A fault may meet a call here too; one of a few comes through.
        eventually(lambda: answers(server), "an answer after all that")

        long_one = server.stub.Generate(build_request(prompt[:50], max_tokens=30, ignore_eos=True, temperature=0))
        with a_fault_may_end_it():
            next(iter(long_one))
        server.terminate()  # once, wherever the fault falls: a second signal would end the server at once
        with a_fault_may_end_it():
            for _ in long_one:
                pass
        assert server.wait(60 * SLOWNESS) == 0, server.log()[-3000:]


@contextlib.contextmanager
def a_fault_may_end_it() -> Iterator[None]:
    """One of a call's steps may meet a fault, which must not keep the server from ending as it should."""
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INTERNAL, error


def answers(server) -> bool:
    try:
        server.stub.GenerateOnce(build_request("The sky is", max_tokens=4), timeout=30 * SLOWNESS)
        return True
    except grpc.RpcError:
        return False


def assert_each_sample_ended_once(server) -> None:
    """In the log: samples of requests that arrived and were not refused, and how often each of them finished."""
    expected: collections.Counter = collections.Counter()
    finished: collections.Counter = collections.Counter()
    for line in server.log().splitlines():
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        if fields.get("event") == "arrived":
            for index in range(int(fields["n"])):
                expected[fields["request_id"], str(index)] += 1
        elif fields.get("event") == "rejected":
            for key in [key for key in expected if key[0] == fields["request_id"]]:
                del expected[key]
        elif fields.get("event") == "finished":
            finished[fields["request_id"], fields["index"]] += 1
    assert finished == expected
