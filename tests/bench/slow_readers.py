#!/usr/bin/env python3
"""What clients that do not read cost the one that does: its time between tokens, and the server's CPU time
for each of them (which says the same on a machine that is busy with other things).

One stream is read and timed beside others that are read too, that nobody reads, or that nobody reads and that the server
ends at --max-unread-bytes. usage: tests/bench/slow_readers.py [--others N] [--tokens N] [--rounds N]
"""

import argparse
import os
import pathlib
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import grpc  # noqa: E402
from harness import build_request, eventually, pb_grpc, running_request, running_server  # noqa: E402

SMALL_WINDOW = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]


def request(request_id: str, max_tokens: int, **options):
    return build_request("Count: one two three", request_id=request_id, temperature=0, max_tokens=max_tokens,
                         ignore_eos=True, compression={"policy": "off"}, **options)


def drain(call) -> None:
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass


def cpu_seconds(server) -> float:
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system


def measure(reads: bool, max_unread_bytes: str, others: int, tokens: int) -> tuple[float, float, int]:
    """p50 of the time between tokens and CPU time per token, both in ms; how many of the others still run at the end."""
    with running_server("--kv-memory", "768MiB", "--max-unread-bytes", max_unread_bytes) as server:
        channels = [grpc.insecure_channel(server.target, options=SMALL_WINDOW) for _ in range(others)]
        calls = []
        for i, channel in enumerate(channels):
            calls.append(pb_grpc.InferenceStub(channel).Generate(request(f"other-{i}", 2000, logprobs=20)))
            if reads:
                threading.Thread(target=drain, args=(calls[-1],), daemon=True).start()
            running_request(server, f"other-{i}")
        if max_unread_bytes != "0":
            eventually(lambda: server.metrics()["kvcrush_ended_slow_streams_total"] == others, "the others to be ended", 120)
        times, cpu = [], []
        for _ in server.stub.Generate(request("timed", tokens)):
            times.append(time.monotonic())
            cpu.append(cpu_seconds(server))
        gaps = [(b - a) * 1e3 for a, b in zip(times, times[1:])]
        running = len([r for r in server.client.stats().requests if r.request_id != "timed"])
        for call in calls:
            call.cancel()
        for channel in channels:
            channel.close()
    return statistics.median(gaps), (cpu[-1] - cpu[0]) * 1e3 / len(gaps), running


CASES = {
    "none": (True, "0"),
    "read": (True, "0"),
    "not read, without bound": (False, "0"),
    "not read, ended at 64 KiB": (False, "64KiB"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    results: dict[str, list] = {name: [] for name in CASES}
    for _ in range(arguments.rounds):  # interleaved: whatever else the machine does meets all of them
        for name, (reads, bound) in CASES.items():
            results[name].append(measure(reads, bound, 0 if name == "none" else arguments.others, arguments.tokens))
    print(f"{'the others are':<28} {'p50 ms, by round':>28} {'CPU ms per token, by round':>28} {'still running':>14}")
    for name, rounds in results.items():
        p50, cpu = ("  ".join(f"{r[i]:7.1f}" for r in rounds) for i in (0, 1))
        print(f"{name:<28} {p50:>28} {cpu:>28} {rounds[-1][2]:>14}")


if __name__ == "__main__":
    main()
