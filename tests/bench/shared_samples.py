#!/usr/bin/env python3
"""KV memory at its peak: one request with n samples, and as many requests that share nothing.

usage: tests/bench/shared_samples.py [--prompt-tokens N] [--output-tokens N]
"""

import argparse
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

from harness import Server, build_request, running_server  # noqa: E402

POLICIES = {"off": {"policy": "off"}, "snapkv, 25 %": {"policy": "snapkv", "budget_fraction": 0.25}}
LOOK_EVERY_S = 0.03


def drain(call) -> None:
    for _ in call:
        pass


def peak_mib(server: Server, requests: list) -> float:
    """Of all blocks in use, from the first request's arrival to the last one's end."""
    readers = [threading.Thread(target=drain, args=(server.stub.Generate(request),)) for request in requests]
    for reader in readers:
        reader.start()
    peak = 0
    while any(reader.is_alive() for reader in readers):
        peak = max(peak, server.client.stats().kv_bytes_used)
        time.sleep(LOOK_EVERY_S)
    return peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-tokens", type=int, default=600)
    parser.add_argument("--output-tokens", type=int, default=20)
    arguments = parser.parse_args()
    prompt = [i * 7919 % 40000 + 100 for i in range(arguments.prompt_tokens)]

    def request(n: int, compression: dict):
        result = build_request(prompt, max_tokens=arguments.output_tokens, ignore_eos=True, temperature=1, seed=1, n=n,
                               compression=compression)
        result.prefix_cache.bypass = True
        return result

    print(f"{'policy':<14} {'n':>2} {'MiB together':>13} {'MiB apart':>10}")
    with running_server("--kv-memory", "1GiB", "--kv-dtype", "f16") as server:
        for name, compression in POLICIES.items():
            for n in (1, 4, 8):
                together = peak_mib(server, [request(n, compression)])
                apart = peak_mib(server, [request(1, compression) for _ in range(n)])
                print(f"{name:<14} {n:>2} {together:>13.1f} {apart:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
