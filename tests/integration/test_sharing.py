"""Prefix cache, tenants, priorities and deadlines through the real server."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from harness import build_request, collect, generate, rpc_fails, running_request, running_server, wait_idle

PRUNED = {"policy": "snapkv", "budget_fraction": 0.3}


@pytest.mark.parametrize("compression", [{"policy": "off"}, PRUNED, {"policy": "off", "kv_dtype": "int8"}],
                         ids=["full", "snapkv", "int8"])
def test_a_shared_beginning_is_not_computed_again(server, long_prompt, compression):
    prompt = long_prompt(700)
    salt = {"salt": repr(compression)}
    alone = generate(server, prompt, max_tokens=16, compression=compression, prefix_cache={"bypass": True})
    assert alone.finish.usage.cached_prompt_tokens == 0
    first = generate(server, prompt[:650] + [5, 6, 7], max_tokens=4, compression=compression, prefix_cache=salt)
    assert first.finish.usage.cached_prompt_tokens == 0
    before = server.metrics()
    second = generate(server, prompt, max_tokens=16, compression=compression, prefix_cache=salt)
    after = server.metrics()
    assert second.finish.usage.cached_prompt_tokens >= 600
    assert second.token_ids == alone.token_ids
    assert second.finish.compression.pruned == alone.finish.compression.pruned
    hits = "kvcrush_prefix_cache_hit_tokens_total"
    assert after[hits] - before[hits] == second.finish.usage.cached_prompt_tokens
    assert after["kvcrush_prefix_cache_queried_tokens_total"] - before["kvcrush_prefix_cache_queried_tokens_total"] == 700
    stats = server.client.stats()
    assert stats.prefix_hit_tokens == after[hits]
    assert stats.prefix_cache_blocks > 0
    wait_idle(server)


def test_tenants_do_not_share(server, long_prompt):
    request = build_request(long_prompt(200), max_tokens=1, prefix_cache={"salt": "tenants"})

    def cached_for(tenant: str) -> int:
        stream = server.stub.Generate(request, metadata=[("x-tenant", tenant)])
        return collect(stream)[0].finish.usage.cached_prompt_tokens

    assert cached_for("one") == 0
    assert cached_for("two") == 0
    assert cached_for("one") > 0


def test_samples_share_their_prompt(server, long_prompt):
    samples = collect(server.stub.Generate(build_request(long_prompt(600), n=4, max_tokens=24, ignore_eos=True, seed=3,
                                                         compression={"policy": "off"})))
    assert len(samples) == 4
    alone = generate(server, long_prompt(600), max_tokens=24, ignore_eos=True, seed=5, temperature=1)
    assert samples[2].token_ids == alone.token_ids


def test_a_deadline_ends_queued_and_running_calls_and_frees_their_blocks(long_prompt):
    with running_server("--kv-memory", "64MiB", "--max-running", "1") as server:
        long_one = build_request(long_prompt(50), max_tokens=1000, ignore_eos=True)
        running = server.stub.Generate(long_one, timeout=3)
        next(running)
        started = time.monotonic()
        with rpc_fails(grpc.StatusCode.DEADLINE_EXCEEDED):
            list(server.stub.Generate(build_request("hello", max_tokens=4), timeout=0.5))
        assert time.monotonic() - started < 2
        with rpc_fails(grpc.StatusCode.DEADLINE_EXCEEDED):
            list(running)
        wait_idle(server)
        metrics = server.metrics()
        ended = sum(metrics[f'kvcrush_request_success_total{{finished_reason="{reason}"}}']
                    for reason in ("deadline", "abort"))
        assert ended == 2
        assert metrics['kvcrush_request_success_total{finished_reason="deadline"}'] >= 1


def test_a_flood_of_one_tenant_does_not_hold_another_back(long_prompt):
    prompt = long_prompt(120)
    with running_server("--kv-memory", "64MiB", "--max-running", "2", "--max-waiting", "100") as server:
        finished = []
        lock = threading.Lock()

        def call(tenant: str, index: int) -> None:
            request = build_request(prompt[index:], max_tokens=12, ignore_eos=True)
            collect(server.stub.Generate(request, metadata=[("x-tenant", tenant)]))
            with lock:
                finished.append(tenant)

        flood = [threading.Thread(target=call, args=("flood", i)) for i in range(24)]
        for thread in flood:
            thread.start()
        running_request_count = 0
        while running_request_count < 20:
            running_request_count = server.client.stats().requests_waiting
            time.sleep(0.01)
        quiet = threading.Thread(target=call, args=("quiet", 30))
        quiet.start()
        quiet.join()
        assert finished.index("quiet") < 12
        for thread in flood:
            thread.join()


def test_a_higher_priority_goes_first(long_prompt):
    prompt = long_prompt(120)
    with running_server("--kv-memory", "64MiB", "--max-running", "1", "--max-waiting", "100") as server:
        blocker = server.stub.Generate(build_request(prompt, request_id="blocker", max_tokens=60, ignore_eos=True))
        running_request(server, "blocker")
        order = []
        lock = threading.Lock()

        def call(priority: int, index: int) -> None:
            request = build_request(prompt[index:], max_tokens=2, ignore_eos=True, priority=priority)
            collect(server.stub.Generate(request))
            with lock:
                order.append(priority)

        threads = [threading.Thread(target=call, args=(-4 if i < 6 else 4, i)) for i in range(12)]
        for thread in threads[:6]:
            thread.start()
        while server.client.stats().requests_waiting < 6:
            time.sleep(0.01)
        for thread in threads[6:]:
            thread.start()
        for thread in threads:
            thread.join()
        list(blocker)
        assert order[:8].count(4) == 6, order


def test_preempted_caches_are_swapped_and_say_so(long_prompt):
    options = {"max_tokens": 220, "ignore_eos": True, "temperature": 0, "compression": {"policy": "off"}}
    prompts = [long_prompt(90 + 5 * i)[i:] for i in range(6)]
    with running_server("--kv-memory", "32MiB", "--kv-dtype", "f32", "--swap-memory", "64MiB") as server:
        calls = [server.stub.Generate(build_request(prompt, **options)) for prompt in prompts]
        samples = [collect(call)[0] for call in calls]
        metrics = server.metrics()
        swaps = metrics['kvcrush_num_preemptions_total{how="swap"}']
        assert swaps > 0
        assert sum(s.finish.usage.swaps for s in samples) == swaps
        assert metrics["kvcrush_swap_bytes_used"] == 0
        alone = generate(server, prompts[-1], **options)
        assert alone.token_ids == samples[-1].token_ids


def test_wrong_scheduling_is_refused(server):
    with rpc_fails(grpc.StatusCode.INVALID_ARGUMENT, "priority is 9", "[-4, 4]"):
        list(server.stub.Generate(build_request("x", priority=9)))
    with rpc_fails(grpc.StatusCode.INVALID_ARGUMENT, "prefix_cache.salt is 300 bytes", "256"):
        list(server.stub.Generate(build_request("x", prefix_cache={"salt": "s" * 300})))
