#!/usr/bin/env python3
"""What clients that do not read cost the one that does: its time between tokens, and the server's memory.

One stream is read and timed beside others that are read too, that nobody reads, or that nobody reads and that the server
ends at --max-unread-bytes. usage: tests/bench/slow_readers.py [--others N] [--tokens N]
"""

import argparse
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


def measure(name: str, reads: bool, max_unread_bytes: str, others: int, tokens: int) -> None:
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
        times = []
        for _ in server.stub.Generate(request("timed", tokens)):
            times.append(time.monotonic())
        gaps = sorted((b - a) * 1e3 for a, b in zip(times, times[1:]))
        metrics = server.metrics()
        print(f"{name:<34} {statistics.median(gaps):8.1f} {gaps[int(len(gaps) * 0.99)]:8.1f} {gaps[-1]:8.1f} "
              f"{metrics['process_resident_memory_bytes'] / 2**20:10.1f} {metrics['kvcrush_num_requests_running']:8.0f} "
              f"{metrics['kvcrush_kv_blocks_used']:8.0f}", flush=True)
        for call in calls:
            call.cancel()
        for channel in channels:
            channel.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=300)
    arguments = parser.parse_args()
    print(f"{'the others':<34} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'RSS MiB':>10} {'running':>8} {'blocks':>8}")
    for name, reads, bound in (("none", True, "0"), ("are read", True, "0"), ("are not read, without bound", False, "0"),
                               ("are not read, ended at 64 KiB", False, "64KiB")):
        measure(name, reads, bound, 0 if name == "none" else arguments.others, arguments.tokens)


if __name__ == "__main__":
    main()
