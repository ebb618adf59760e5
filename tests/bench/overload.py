#!/usr/bin/env python3
"""What the server does at twice its capacity, for as long as one likes: requests answered, calls without a status, and memory.

Capacity is what a closed loop gets out of it, measured before and after the overload, since machines change their mind.
usage: tests/bench/overload.py [--seconds 600] [--factor 2] [--plot OUT.png] [--json OUT.json]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import harness  # noqa: E402

SERVER_OPTIONS = ["--kv-memory", "512MiB", "--max-running", "16", "--max-waiting", "32"]
REQUESTS = ["--prompt-tokens", "64:192", "--output-tokens", "32"]
SAMPLE_EVERY_S = 5
GAUGES = ["kvcrush_kv_blocks_used", "kvcrush_num_requests_running", "kvcrush_num_requests_waiting"]


def bench(server: harness.Server, *options: str) -> dict:
    """One run of `kvcrush bench`, its progress on this terminal."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "bench.json")
        command = [harness.CLI, "bench", "--server", server.target, *REQUESTS, *options, "--json", report]
        # 1: some requests were refused, which is the point.
        assert subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL, check=False).returncode in (0, 1)
        return json.loads(report.read_text())


def resident_bytes(server: harness.Server) -> int:
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024


class Sampler:
    """The server's memory and gauges over time."""

    def __init__(self, server: harness.Server) -> None:
        self.server, self.samples, self._stop = server, [], threading.Event()
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            metrics = self.server.metrics()
            self.samples.append({"s": round(time.monotonic() - self._start, 1), "resident_bytes": resident_bytes(self.server)}
                                | {name: metrics[name] for name in GAUGES})


def run(seconds: float, factor: float) -> dict:
    with harness.running_server(*SERVER_OPTIONS) as server:
        closed = ["--concurrency", "16", "--warmup", "10", "--duration", "60"]
        before = bench(server, *closed)
        rate = factor * before["throughput"]["requests_per_s"]
        with Sampler(server) as sampler:
            overload = bench(server, "--rate", f"{rate:.2f}", "--warmup", "10", "--duration", str(seconds))
        after = bench(server, *closed)
        harness.wait_idle(server)
        server.terminate()
        exit_code = server.wait()
    return {"rate_per_s": rate, "capacity_before": before, "overload": overload, "capacity_after": after,
            "samples": sampler.samples, "exit_code": exit_code}


def summary(result: dict) -> str:
    overload, samples = result["overload"], result["samples"]
    capacities = [result[name]["throughput"]["requests_per_s"] for name in ("capacity_before", "capacity_after")]
    answered = overload["throughput"]["requests_per_s"]
    counts = overload["counts"]
    no_status = counts["measured"] - sum(counts["by_code"].values())
    settled = [s for s in samples if s["s"] >= 30] or samples
    memory = [s["resident_bytes"] / 1e6 for s in settled]
    return "\n".join([
        f"capacity, requests/s        {capacities[0]:.2f} before, {capacities[1]:.2f} after",
        f"sent, requests/s            {result['rate_per_s']:.2f} for {overload['measured_s']:.0f} s",
        f"answered, requests/s        {answered:.2f} = {answered / (sum(capacities) / 2):.2f} of capacity",
        f"calls by status             {counts['by_code']} of {counts['measured']}; without one {no_status}, cut off {counts['cut_off']}",
        f"TTFT p50, p99, ms           {overload['latency']['ttft_ms']['p50']:.0f}, {overload['latency']['ttft_ms']['p99']:.0f}",
        f"resident memory, MB         {memory[0]:.0f} after {settled[0]['s']:.0f} s, {memory[-1]:.0f} at the end, {max(memory):.0f} at most",
        f"exit code after SIGTERM     {result['exit_code']}",
    ])


def plot(result: dict, path: str) -> None:
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 6), sharex=True)
    seconds, window = result["overload"]["seconds"], 30

    def rolling(values: list[int]) -> list[float]:
        return [sum(values[max(0, i - window + 1):i + 1]) / min(i + 1, window) for i in range(len(values))]

    for name, label, color in (("due", "sent", "black"), ("ok", "answered", "#2e8b57"), ("failed", "refused", "#c0392b")):
        top.plot(rolling(seconds[name]), label=label, color=color)
    for name, style in (("capacity_before", "--"), ("capacity_after", ":")):
        top.axhline(result[name]["throughput"]["requests_per_s"], color="#2a7ab9", linestyle=style, label=name.replace("_", " "))
    top.set_ylabel(f"requests/s over {window} s")
    times = [s["s"] for s in result["samples"]]
    bottom.plot(times, [s["resident_bytes"] / 1e6 for s in result["samples"]], color="#2a7ab9", label="resident memory, MB")
    blocks = bottom.twinx()
    blocks.plot(times, [s["kvcrush_kv_blocks_used"] for s in result["samples"]], color="#888888", linewidth=0.8, label="KV blocks used (right)")
    bottom.set_ylabel("MB")
    bottom.set_xlabel("seconds")
    for axis in (top, bottom, blocks):
        axis.set_ylim(0, axis.get_ylim()[1] * 1.25)
    top.legend(fontsize=8, frameon=False, ncols=5, loc="upper left")
    bottom.legend(fontsize=8, frameon=False, loc="upper left")
    blocks.legend(fontsize=8, frameon=False, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--factor", type=float, default=2, help="of capacity")
    parser.add_argument("--plot", help="PNG to draw")
    parser.add_argument("--json", help="file for all figures")
    arguments = parser.parse_args()
    result = run(arguments.seconds, arguments.factor)
    print(summary(result))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(result))
    if arguments.plot:
        plot(result, arguments.plot)


if __name__ == "__main__":
    main()
