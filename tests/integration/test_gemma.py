"""A model of another family behind the whole server: sliding windows, two RoPE bases, a vocabulary of 262,144."""

import itertools
import json

import pytest

from harness import ROOT, build_request, collect, eventually, generate, running_request, running_server, wait_idle

GEMMA = ROOT / ".cache" / "models" / "gemma-3-270m-q4_k_m.gguf"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "greedy_gemma3.json").read_text())["cases"]
WINDOW_TOKENS = 512
LONG = max(GOLDEN, key=lambda case: len(case["prompt"]))
BUDGET_TOKENS = 256
BLOCK_TOKENS = 16  # float32


@pytest.fixture(scope="module")
def gemma():
    with running_server("--weight-dtype", "f32", "--kv-memory", str(256 << 20), "--max-context", "4096", model=GEMMA) as server:
        yield server


def greedy(case, **options):
    return build_request(case["prompt"], temperature=0, max_tokens=len(case["output"]), ignore_eos=True, **options)


def test_the_long_case_leaves_the_window():
    assert len(LONG["prompt"]) > WINDOW_TOKENS + 200


@pytest.mark.parametrize("case", [GOLDEN[0], GOLDEN[7], LONG], ids=["short", "code", "long"])
def test_greedy_tokens_are_those_of_transformers(gemma, case):
    sample = collect(gemma.stub.Generate(greedy(case, compression={"policy": "off"})))[0]
    assert sample.token_ids == case["output"]
    wait_idle(gemma)


def test_all_cases_at_once(gemma):
    calls = [gemma.stub.Generate(greedy(case, compression={"policy": "off"})) for case in GOLDEN]
    assert [collect(call)[0].token_ids for call in calls] == [case["output"] for case in GOLDEN]
    wait_idle(gemma)


def test_a_shared_beginning_and_an_answer_longer_than_the_window_are_not_computed_again(gemma):
    prompt, shared = LONG["prompt"], len(LONG["prompt"]) - 100
    salt = {"prefix_cache": {"salt": "prefixes"}}
    generate(gemma, prompt[:shared] + [5] * (WINDOW_TOKENS + 40), max_tokens=1, **salt)  # the windows pass where prompts part
    hits = "kvcrush_prefix_cache_hit_tokens_total"
    before = gemma.metrics()[hits]
    second = collect(gemma.stub.Generate(greedy(LONG, compression={"policy": "off"}, **salt)))[0]
    assert second.finish.usage.cached_prompt_tokens == shared // BLOCK_TOKENS * BLOCK_TOKENS > WINDOW_TOKENS
    assert gemma.metrics()[hits] - before == second.finish.usage.cached_prompt_tokens
    assert second.token_ids == LONG["output"]

    turn = prompt + second.token_ids + prompt[-30:]
    third = generate(gemma, turn, max_tokens=12, **salt)
    computed = len(prompt) + len(LONG["output"]) - 1  # the last token of an answer is sampled and not computed
    assert third.finish.usage.cached_prompt_tokens == computed // BLOCK_TOKENS * BLOCK_TOKENS
    assert third.token_ids == generate(gemma, turn, max_tokens=12, prefix_cache={"bypass": True}).token_ids
    wait_idle(gemma)


def run_and_count_blocks(server, compression):
    call = server.stub.Generate(greedy(LONG, request_id="counted", compression=compression))
    early = list(itertools.islice(call, 3))
    running_request(server, "counted", "decode")
    blocks = server.metrics()["kvcrush_kv_blocks_used"]
    sample = collect(itertools.chain(early, call))[0]
    wait_idle(server)
    eventually(lambda: server.metrics()["kvcrush_kv_blocks_used"] == 0, "the gauge to follow the pool")
    return sample, blocks


@pytest.mark.parametrize("policy", ["snapkv", "h2o"])
def test_compression_prunes_and_stays_within_its_budget(gemma, policy):
    _, full_blocks = run_and_count_blocks(gemma, {"policy": "off"})
    sample, blocks = run_and_count_blocks(gemma, {"policy": policy, "budget_tokens": BUDGET_TOKENS, "layer_budgets": "uniform"})
    report = sample.finish.compression
    assert report.enabled and report.pruned and report.prune_count >= 1
    assert report.budget_tokens == BUDGET_TOKENS
    assert 0 < report.tokens_kept.min <= report.tokens_kept.max <= BUDGET_TOKENS
    assert report.tokens_evicted.max >= len(LONG["prompt"]) - BUDGET_TOKENS
    assert blocks < 0.6 * full_blocks  # 15 of 18 layers hold no more than the window without pruning either
    assert len(sample.token_ids) == len(LONG["output"])
