"""Base policies, KV dtypes and compression targets over the wire: what is asked for is what is done and reported."""

import itertools

import grpc
import pytest

from harness import build_request, collect, eventually, generate, pb, rpc_fails, running_request, running_server, wait_idle

POLICIES = ("snapkv", "h2o", "tova", "streaming", "knorm", "keydiff")
PROMPT_TOKENS = 700


@pytest.mark.parametrize("share", [0.0, 0.25])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_prunes_alone_and_with_kvcrush(server, long_prompt, policy, share):
    options = {"policy": policy, "budget_tokens": 128, "representative_share": share, "layer_budgets": "uniform"}
    first, again = (generate(server, long_prompt(PROMPT_TOKENS), max_tokens=40, ignore_eos=True, compression=options)
                    for _ in range(2))
    report = first.finish.compression
    assert report.pruned and report.tokens_kept.min == report.tokens_kept.max == 128
    assert report.prune_count == 2, "after the prompt, and when 32 more tokens were cached"
    assert report.applied.representative_share == share
    assert report.applied.policy == pb.BasePolicy.Value(f"BASE_POLICY_{policy.upper()}")
    assert first.token_ids == again.token_ids


def test_policies_choose_differently(server, long_prompt):
    texts = {policy: tuple(generate(server, long_prompt(PROMPT_TOKENS), max_tokens=24, ignore_eos=True,
                                    compression={"policy": policy, "budget_tokens": 64}).token_ids) for policy in POLICIES}
    assert len(set(texts.values())) >= 4, texts


def test_pyramid_gives_early_layers_more(server, long_prompt):
    options = {"policy": "snapkv", "budget_tokens": 200, "layer_budgets": "pyramid"}
    report = generate(server, long_prompt(PROMPT_TOKENS), max_tokens=4, ignore_eos=True, compression=options).finish.compression
    free = 200 - 36
    assert report.tokens_kept.max == 36 + int(free * 1.5) and report.tokens_kept.min == 36 + int(free * 0.5)
    assert report.tokens_kept.mean == pytest.approx(200, abs=1)


def test_block_granularity_keeps_whole_blocks(server, long_prompt):
    options = {"policy": "snapkv", "budget_tokens": 200, "granularity": "block", "representative_share": 0.25,
               "layer_budgets": "uniform"}
    report = generate(server, long_prompt(PROMPT_TOKENS), max_tokens=4, ignore_eos=True, compression=options).finish.compression
    assert 200 - 15 <= report.tokens_kept.min == report.tokens_kept.max <= 200


# float32 is the server's; a block holds 16 of its tokens, 32 of 16 bit, 56 of int8 and 112 of int4.
@pytest.mark.parametrize(("dtype", "ratio"), [("f32", 0.5), ("bf16", 1.0), ("f16", 1.0), ("int8", 1.75), ("int4", 3.5)])
def test_dtype_decides_how_many_blocks_a_sequence_takes(server, long_prompt, dtype, ratio):
    call = server.stub.Generate(build_request(long_prompt(2016), request_id=dtype, temperature=0, max_tokens=24, ignore_eos=True,
                                              compression={"policy": "off", "kv_dtype": dtype}))
    early = list(itertools.islice(call, 3))
    running_request(server, dtype, "decode")
    blocks = server.metrics()["kvcrush_kv_blocks_used"]
    sample = collect(itertools.chain(early, call))[0]
    wait_idle(server)
    report = sample.finish.compression
    info = server.client.model_info()
    full_16bit = (2016 + 23) * info.num_layers * 2 * info.num_kv_heads * info.head_dim * 2
    assert report.kv_bytes_full_16bit == full_16bit
    # The newest 32 to 96 tokens stay in float16, and blocks are whole.
    slack = 96 * (1 - 1 / ratio) / 2016 + 3 / (2016 / 32) if ratio > 1 else 0.03
    assert report.compression_ratio <= ratio * 1.001
    assert 1 / report.compression_ratio <= 1 / ratio + slack
    assert blocks * info.block_bytes == pytest.approx(full_16bit / report.compression_ratio, rel=0.05)
    assert report.applied.kv_dtype == pb.KvDtype.Value(f"KV_DTYPE_{dtype.upper()}")
    assert report.applied.policy == pb.BASE_POLICY_OFF
    eventually(lambda: server.metrics()["kvcrush_kv_blocks_used"] == 0, "the gauge to follow the pool")


def test_int8_says_what_full_precision_says(server, long_prompt):
    full = generate(server, long_prompt(PROMPT_TOKENS), max_tokens=24, ignore_eos=True)
    int8 = generate(server, long_prompt(PROMPT_TOKENS), max_tokens=24, ignore_eos=True,
                    compression={"policy": "off", "kv_dtype": "int8"})
    assert int8.token_ids[:8] == full.token_ids[:8]


def test_dtypes_share_the_pool_in_one_batch(server, long_prompt):
    """The same tokens in a batch of five dtypes as alone."""
    options = [{"policy": "off", "kv_dtype": dtype} for dtype in ("f32", "f16", "int8", "int4")]
    options.append({"policy": "snapkv", "budget_fraction": 0.25, "kv_dtype": "int4"})
    alone = [generate(server, long_prompt(PROMPT_TOKENS), max_tokens=40, ignore_eos=True, compression=o).token_ids for o in options]
    calls = [server.stub.Generate(build_request(long_prompt(PROMPT_TOKENS), temperature=0, max_tokens=40, ignore_eos=True,
                                                compression=o)) for o in options]
    assert [collect(call)[0].token_ids for call in calls] == alone


@pytest.mark.parametrize("target", [2, 4, 8, 16])
def test_target_is_reached_and_the_choice_is_told(server, long_prompt, target):
    report = generate(server, long_prompt(3000), max_tokens=8, ignore_eos=True,
                      compression={"target_compression": target}).finish.compression
    # Met at the prompt's end; each layer has taken one more block since, one of seven at 16.
    assert report.compression_ratio >= 0.85 * target
    assert report.applied.kv_dtype in (pb.KV_DTYPE_INT8, pb.KV_DTYPE_INT4)


def test_a_short_prompt_says_why_nothing_was_done(server, long_prompt):
    report = generate(server, long_prompt(30), max_tokens=4, ignore_eos=True,
                      compression={"policy": "snapkv", "budget_tokens": 64, "kv_dtype": "int4"}).finish.compression
    assert report.enabled and not report.pruned
    assert "nothing pruned" in report.note and "64" in report.note and "nothing quantised" in report.note


def test_int4_holds_more_sequences_in_the_same_pool(long_prompt):
    """Room for 4096 float32 tokens: two prompts of 2000, or fourteen of them in int4 once they are packed."""
    with running_server("--kv-memory", "90MiB") as server:
        requests = [build_request(long_prompt(1500), request_id=f"r{i}", temperature=0, max_tokens=60, ignore_eos=True,
                                  compression={"policy": "snapkv", "budget_fraction": 0.25, "kv_dtype": "int4"}) for i in range(8)]
        calls = [server.stub.Generate(request) for request in requests]
        most = 0

        def all_decode():
            nonlocal most
            most = max(most, int(server.client.stats().requests_running))
            return most >= 6
        eventually(all_decode, "six sequences at a time", timeout_s=60)
        samples = [collect(call)[0] for call in calls]
        assert len({tuple(sample.token_ids) for sample in samples}) == 1


BAD = [
    ({"policy": "snapkv", "budget_tokens": 36}, "budget_tokens"),
    ({"policy": "snapkv", "budget_tokens": 80, "granularity": "block"}, "budget_tokens"),
    ({"policy": "snapkv", "budget_tokens": 80, "representative_share": 1.5}, "representative_share"),
    ({"policy": "knorm", "budget_tokens": 80, "pool_kernel_tokens": 7}, "pool_kernel_tokens"),
    ({"policy": "streaming", "budget_tokens": 80, "value_norm": True}, "value_norm"),
    ({"policy": "off", "budget_tokens": 80}, "budget_tokens"),
    ({"target_compression": 3}, "target_compression"),
    ({"target_compression": 4, "policy": "snapkv"}, "policy"),
]


@pytest.mark.parametrize(("compression", "field"), BAD, ids=str)
def test_what_cannot_be_done_is_refused_by_name(server, long_prompt, compression, field):
    with rpc_fails(grpc.StatusCode.INVALID_ARGUMENT, field, "allowed"):
        generate(server, long_prompt(100), max_tokens=2, compression=compression)
