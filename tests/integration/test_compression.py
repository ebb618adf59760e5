"""KVCrush over the wire: blocks really go back to the pool, and the report tells the truth."""

import itertools
import math

import pytest

from harness import SLOWNESS, build_request, collect, eventually, generate, running_request, running_server, wait_idle

SNAPKV = {"policy": "snapkv", "layer_budgets": "uniform"}  # the default's rise over layers: figures by layer would differ
LONG_TOKENS = 4096 if SLOWNESS == 1 else 2048  # a sanitizer build is 20 times slower


def blocks_in_use(server) -> float:
    return server.metrics()["kvcrush_kv_blocks_used"]


def run_and_sample(server, prompt, compression):
    """The finished sample, and the blocks seen in /metrics while it decoded."""
    call = server.stub.Generate(build_request(prompt, request_id="sampled", temperature=0, max_tokens=24, ignore_eos=True,
                                              compression=compression))
    # The first token is sent before the prune that follows it, the third certainly after.
    early = list(itertools.islice(call, 3))
    running_request(server, "sampled", "decode")
    blocks = blocks_in_use(server)
    sample = collect(itertools.chain(early, call))[0]
    wait_idle(server)
    eventually(lambda: blocks_in_use(server) == 0, "the gauge to follow the pool")
    return sample, blocks


@pytest.fixture(scope="module")
def full_and_quarter(server, long_prompt):
    prompt = long_prompt(LONG_TOKENS)
    return (run_and_sample(server, prompt, {"policy": "off"}),
            run_and_sample(server, prompt, SNAPKV | {"budget_fraction": 0.25}))


def test_quarter_budget_holds_a_quarter_of_the_blocks(server, full_and_quarter):
    (_, full_blocks), (_, quarter_blocks) = full_and_quarter
    info = server.client.model_info()
    assert full_blocks == pytest.approx(LONG_TOKENS / info.block_size_tokens * info.num_layers, rel=0.02)
    assert quarter_blocks <= 0.26 * full_blocks


def test_report_is_consistent(server, full_and_quarter):
    _, (sample, blocks) = full_and_quarter
    info = server.client.model_info()
    report = sample.finish.compression
    assert report.enabled and report.pruned and report.prune_count >= 1
    assert report.budget_tokens == LONG_TOKENS // 4
    kept, evicted = report.tokens_kept, report.tokens_evicted
    assert kept.min == kept.max == report.budget_tokens == pytest.approx(kept.mean)
    assert LONG_TOKENS - report.budget_tokens <= evicted.min <= evicted.max <= LONG_TOKENS + 24 - report.budget_tokens
    assert evicted.min - 1e-6 <= evicted.mean <= evicted.max + 1e-6
    assert report.kv_bytes_before == pytest.approx(
        (LONG_TOKENS + 24) / info.block_size_tokens * info.num_layers * info.block_bytes, rel=0.01)
    assert report.kv_bytes_after == pytest.approx(blocks * info.block_bytes, rel=0.05)
    assert report.kv_bytes_after % info.block_bytes == 0
    assert report.blocks_freed >= 0.74 * LONG_TOKENS / info.block_size_tokens * info.num_layers
    assert 0 < report.prune_ms == pytest.approx(report.score_ms + report.select_ms + report.compact_ms, rel=0.05, abs=0.1)
    assert report.prune_ms < sample.finish.usage.total_ms


def test_full_cache_reports_nothing(full_and_quarter):
    (sample, _), _ = full_and_quarter
    report = sample.finish.compression
    assert not report.enabled and not report.pruned
    assert report.prune_count == report.blocks_freed == 0


def test_off_equals_no_compression(server, long_prompt):
    """The server's default is off."""
    prompt = long_prompt(200)
    off = generate(server, prompt, max_tokens=16, compression={"policy": "off"})
    unset = generate(server, prompt, max_tokens=16, compression=None)
    assert off.token_ids == unset.token_ids
    assert not unset.finish.compression.enabled


def test_fraction_one_changes_nothing(server, long_prompt):
    prompt = long_prompt(200)
    off = generate(server, prompt, max_tokens=8)
    whole = generate(server, prompt, max_tokens=8, compression=SNAPKV | {"budget_tokens": 400})
    assert whole.token_ids == off.token_ids
    assert whole.finish.compression.enabled and not whole.finish.compression.pruned


VARIANTS = [
    *({"anchor": anchor} for anchor in ("random", "zeros", "ones", "mean", "alternating")),
    {"token_sets": "per_kv_head"}, {"token_sets": "per_layer"}, {"pick": "best"}, {"when": "during_prefill"},
    {"representative_share": 0.0}, {"representative_share": 1.0}, {"pool_kernel_tokens": 1}, {"num_sink_tokens": 0},
    {"granularity": "token"}, {"anchor": "random", "seed": 9, "token_sets": "per_kv_head", "pick": "best"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_keeps_the_budget(server, long_prompt, variant):
    options = SNAPKV | {"budget_tokens": 64, "window_tokens": 16} | variant
    first, again = (generate(server, long_prompt(400), max_tokens=12, ignore_eos=True, compression=options) for _ in range(2))
    report = first.finish.compression
    assert report.pruned
    assert report.tokens_kept.max == 64
    assert len(first.token_ids) == 12
    assert first.token_ids == again.token_ids, "pruning is deterministic"


def test_fraction_is_rounded_up_and_bounded_below(server, long_prompt):
    report = generate(server, long_prompt(401), max_tokens=2, compression=SNAPKV | {"budget_fraction": 0.3}).finish.compression
    assert report.budget_tokens == math.ceil(0.3 * 401)
    least = generate(server, long_prompt(401), max_tokens=2, compression=SNAPKV | {
        "budget_fraction": 0.001, "num_sink_tokens": 4, "window_tokens": 32}).finish.compression
    assert least.budget_tokens == 4 + 32 + 1


def test_decode_past_the_budget_prunes_again(server, long_prompt):
    sample = generate(server, long_prompt(100), max_tokens=120, ignore_eos=True,
                      compression=SNAPKV | {"budget_tokens": 64, "window_tokens": 16})
    report = sample.finish.compression
    assert report.prune_count >= 3
    assert report.tokens_kept.max == 64
    assert report.tokens_evicted.mean >= 100 + 120 - 64 - 32


def test_samples_of_one_prompt_are_pruned_alike(server, long_prompt):
    samples = collect(server.stub.Generate(build_request(
        long_prompt(300), n=3, temperature=0, max_tokens=8, ignore_eos=True, compression=SNAPKV | {"budget_tokens": 64})))
    assert len({tuple(sample.token_ids) for sample in samples.values()}) == 1
    assert all(sample.finish.compression.pruned for sample in samples.values())
    wait_idle(server)


def test_pruning_keeps_an_early_fact(server, long_prompt):
    """A needle near the start survives a budget of half the prompt."""
    client = server.client
    filler = client.detokenize(long_prompt(500))
    content = f"The secret code is 7421. {filler}\n\nWhat is the secret code? Answer with the number."
    messages = [{"role": "user", "content": content}]
    sample = generate(server, messages, max_tokens=24, compression=SNAPKV | {"budget_fraction": 0.5})
    assert sample.finish.compression.pruned
    assert "7421" in sample.text


def test_prompt_longer_than_the_pool(client, long_prompt):
    info = client.model_info()
    pool_tokens, prompt_tokens = 1024, 2500
    memory = pool_tokens // info.block_size_tokens * info.num_layers * info.block_bytes
    with running_server("--kv-memory", str(memory), "--max-batch-tokens", "256") as server:
        sample = generate(server, long_prompt(prompt_tokens), max_tokens=8, ignore_eos=True,
                          compression=SNAPKV | {"budget_tokens": 256, "when": "during_prefill"})
        assert len(sample.token_ids) == 8
        assert sample.finish.usage.prompt_tokens == prompt_tokens
        assert sample.finish.compression.prune_count > 1
        wait_idle(server)


def test_server_side_default(long_prompt):
    with running_server("--default-policy", "snapkv", "--default-budget", "0.25", "--kv-memory", "128MiB") as server:
        default = server.client.model_info().default_compression
        assert default.budget_fraction == 0.25
        by_default = generate(server, long_prompt(400), max_tokens=4, compression=None)
        assert by_default.finish.compression.budget_tokens == 100
        assert not generate(server, long_prompt(400), max_tokens=4).finish.compression.enabled
