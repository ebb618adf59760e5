"""`kvcrush bench` and `kvcrush top` against the real server: their figures must be the server's."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

import harness
from harness import eventually, wait_idle

SMALL = ["--prompt-tokens", "16:48", "--output-tokens", "8", "--seed", "5"]


def environment(server) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KVCRUSH_")}
    return clean | {"KVCRUSH_SERVER": server.target, "COLUMNS": "120"}


def kvcrush(server, *arguments: str, code: int = 0) -> str:
    done = subprocess.run([str(harness.CLI), *arguments], capture_output=True, text=True, timeout=120, env=environment(server))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def totals(server) -> dict[str, float]:
    wait_idle(server)
    metrics = server.metrics()
    return {"ended": sum(value for name, value in metrics.items() if name.startswith("kvcrush_request_success_total")),
            "prompt": metrics["kvcrush_prompt_tokens_total"],
            "generated": metrics["kvcrush_generation_tokens_total"]}


def bench(server, tmp_path, *arguments: str) -> tuple[dict, dict[str, float], str]:
    """What the bench wrote, what the server counted meanwhile, and what was printed."""
    before = totals(server)
    path = tmp_path / "bench.json"
    out = kvcrush(server, "bench", *SMALL, *arguments, "--json", str(path))
    after = totals(server)
    return json.loads(path.read_text()), {name: after[name] - before[name] for name in after}, out


def test_closed_loop_counts_what_the_server_counts(server, tmp_path):
    result, counted, out = bench(server, tmp_path, "--concurrency", "4", "--requests", "12", "--policy", "off",
                                 "--slo-ttft-ms", "100000", "--slo-itl-ms", "100000")
    counts = result["counts"]
    assert counts["by_code"] == {"OK": 12} and (counts["measured"], counts["failed"], counts["warmup"]) == (12, 0, 0)
    assert counts["generated_tokens"] == 12 * 8 == counted["generated"]
    assert counts["prompt_tokens"] == counted["prompt"] and 12 * 16 <= counted["prompt"] <= 12 * 48
    assert counted["ended"] == 12
    assert result["goodput"]["share"] == 1
    assert result["throughput"]["requests_per_s"] == pytest.approx(12 / result["measured_s"])
    assert result["latency"]["itl_ms"]["count"] <= 12 * 7 and result["latency"]["ttft_ms"]["count"] == 12
    assert 0 < result["latency"]["ttft_ms"]["p50"] <= result["latency"]["e2e_ms"]["p50"] <= result["latency"]["e2e_ms"]["max"]
    assert max(result["seconds"]["in_flight"]) <= 4 and sum(result["seconds"]["ok"]) == 12
    assert "closed loop, 4 in flight" in out and "TTFT" in out


def test_open_loop_sends_every_arrival_and_the_plot_draws_it(server, tmp_path):
    result, counted, out = bench(server, tmp_path, "--rate", "8", "--warmup", "0.5", "--duration", "2.5",
                                 "--tenants", "gold:3,free:1", "--budget", "24", "--policy", "snapkv", "--window", "8")
    counts = result["counts"]
    sent = counts["measured"] + counts["warmup"]
    assert sent == sum(result["seconds"]["due"]) == counted["ended"]
    assert counts["generated_tokens"] + counts["warmup_generated_tokens"] == counted["generated"] == sent * 8
    assert counts["ok"] == counts["measured"] > 0
    assert sum(tenant["counts"]["measured"] for tenant in result["tenants"].values()) == counts["measured"]
    assert result["measured_s"] == pytest.approx(2.5)
    assert result["latency"]["start_lag_ms"]["p50"] < 50
    assert "open loop, 8.00 requests/s" in out
    drawn = subprocess.run([sys.executable, str(harness.ROOT / "tools" / "plot_bench.py"), str(tmp_path / "bench.json")],
                           capture_output=True, text=True, timeout=120)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_prompts_from_a_file_and_failures_by_code(server, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text('The capital of France is\n"Two\\nlines"\n')
    path = tmp_path / "bench.json"
    load = ["--concurrency", "2", "--json", str(path)]
    kvcrush(server, "bench", *load, "--requests", "4", "--prompt-file", str(prompts), "--output-tokens", "4")
    tokens = [len(server.client.tokenize(text).token_ids) for text in ("The capital of France is", "Two\nlines")]
    assert json.loads(path.read_text())["counts"]["prompt_tokens"] == 2 * sum(tokens)
    kvcrush(server, "--timeout", "1", "bench", *load, "--requests", "2", "--output-tokens", "4000", code=1)
    assert json.loads(path.read_text())["counts"]["by_code"] == {"DEADLINE_EXCEEDED": 2}
    wait_idle(server)
    for usage in [], ["--rate", "1", "--concurrency", "1"], ["--rate", "1", "--prompt-tokens", "9000"]:
        kvcrush(server, "bench", *usage, code=2)


def test_ctrl_c_ends_a_bench_with_its_report(server, tmp_path):
    path = tmp_path / "bench.json"
    process = subprocess.Popen([str(harness.CLI), "bench", "--concurrency", "2", "--duration", "600", "--output-tokens", "3000",
                                "--json", str(path)], stdout=subprocess.PIPE, env=environment(server), text=True)
    eventually(lambda: server.client.stats().requests_running == 2, "both requests to run")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and "cut off by the bench" in out
    result = json.loads(path.read_text())
    assert result["interrupted"] and result["counts"]["cut_off"] == 2 and result["measured_s"] < 30
    wait_idle(server)


@pytest.fixture
def one_running(server):
    stream = server.client.generate("Count: one two", request_id="top-shows-me", max_tokens=4000, ignore_eos=True)
    next(stream)
    yield
    stream.close()
    wait_idle(server)


def test_top_once(server, one_running):
    out = kvcrush(server, "top", "--once", "--interval", "0.5")
    assert "1 running, 0 waiting" in out
    assert float(re.search(r"prompt, ([\d.]+) generated; so far", out)[1]) > 0, out
    [row] = [line for line in out.splitlines() if line.startswith("top-shows-me ")]
    assert "decode" in row and all(len(line) <= 120 for line in out.splitlines())


def test_top_on_a_pipe_writes_lines(server):
    process = subprocess.Popen([str(harness.CLI), "top", "--interval", "0.1"], stdout=subprocess.PIPE, text=True,
                               env=environment(server))
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert all(re.match(r"up \S+  \d+ running, ", line) and "\033" not in line for line in lines), lines


def read_until(master: int, wanted: bytes, seen: bytes = b"") -> bytes:
    deadline = time.monotonic() + 20 * harness.SLOWNESS
    while wanted not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([master], [], [], 0.1)[0]:
            seen += os.read(master, 65536)
    return seen


@pytest.mark.parametrize("how", ["q", "ctrl-c", "terminate"])
def test_top_on_a_terminal_draws_and_restores(server, one_running, how):
    master, slave = pty.openpty()
    before = subprocess.run(["stty", "-a"], stdin=slave, capture_output=True, check=True).stdout
    process = subprocess.Popen([str(harness.CLI), "top", "--interval", "0.2"], stdin=slave, stdout=slave, stderr=slave,
                               env=environment(server))
    try:
        seen = read_until(master, b"top-shows-me")
        assert b"\033[?1049h" in seen and b"\033[?1049l" not in seen
        if how == "q":
            os.write(master, b"q")
        else:
            process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        assert process.wait(20) == {"q": 0, "ctrl-c": 130, "terminate": -signal.SIGTERM}[how]
        read_until(master, b"\033[?1049l")
        assert subprocess.run(["stty", "-a"], stdin=slave, capture_output=True, check=True).stdout == before
    finally:
        process.kill()
        os.close(master)
        os.close(slave)
