"""The C++ selection (through select_tool.py) against the numpy reference, index for index."""

import pathlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import kvcrush_reference as reference  # noqa: E402
from select_cases import HEADS, SCORE_KINDS, make_observation, make_scores, plan_cases, selection_cases  # noqa: E402
from select_tool import BUDGETS, PLAN, SCORES, SELECT, SelectTool  # noqa: E402


@pytest.fixture(scope="module")
def tool():
    running = SelectTool()
    yield running
    running.close()


def check_select(tool, scores, granularity="token", signature_heads="query", num_kv_heads=1, **case):
    bits = {"granularity": granularity, "signature_heads": signature_heads, "num_kv_heads": num_kv_heads}
    names = dict(case)
    first_head = names.pop("first_head", 0)
    importance = reference.importance_of(scores)[0]
    if granularity == "block":
        expected = reference.select_blocks(importance, **names)
    else:
        group = len(scores) // num_kv_heads if signature_heads == "kv" else 1
        expected = reference.select(importance, scores, first_head=first_head, heads_per_bit=group, **names)
    actual = tool.ask(SELECT, np.int32, scores, num_heads=len(scores), **bits, **case)
    np.testing.assert_array_equal(actual, expected, err_msg=f"{case} {bits}")
    return actual


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(case=selection_cases(), first_head=st.integers(0, 40))
def test_kept_slots_equal_the_reference(tool, case, first_head):
    rng = np.random.default_rng(case.pop("data_seed"))
    num_candidates = max(0, case["num_tokens"] - case["num_sinks"] - case["window"])
    scores = make_scores(case.pop("kind"), (case.pop("num_heads"), num_candidates), rng)
    check_select(tool, scores, first_head=first_head, **case)


@pytest.mark.parametrize("num_heads", HEADS)
@pytest.mark.parametrize("anchor", reference.ANCHORS)
@pytest.mark.parametrize("pick", reference.PICKS)
def test_every_head_count_anchor_and_pick(tool, num_heads, anchor, pick):
    rng = np.random.default_rng(num_heads)
    for kind in SCORE_KINDS:
        scores = make_scores(kind, (num_heads, 300 - 36), rng)
        for granularity in reference.GRANULARITIES:
            check_select(tool, scores, granularity=granularity, num_tokens=300, budget=120, num_sinks=4, window=32,
                         share=0.3, anchor=anchor, pick=pick, seed=7, layer=3, first_head=5)  # fmt: skip


@pytest.mark.parametrize("num_kv_heads", [1, 2, 3, 65])
@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("anchor", reference.ANCHORS)
def test_kv_signatures(tool, num_kv_heads, group, anchor):
    rng = np.random.default_rng(group)
    for kind in SCORE_KINDS:
        scores = make_scores(kind, (num_kv_heads * group, 200 - 36), rng)
        check_select(tool, scores, signature_heads="kv", num_kv_heads=num_kv_heads, num_tokens=200, budget=90,
                     num_sinks=4, window=32, share=0.4, anchor=anchor, pick="first", seed=3, layer=2,
                     first_head=4 * group)  # fmt: skip


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("num_heads", (1, 9, 65))
@pytest.mark.parametrize("budget", [82, 2048, 8191])
@pytest.mark.parametrize("granularity", reference.GRANULARITIES)
def test_long_sequences(tool, kind, num_heads, budget, granularity):
    rng = np.random.default_rng(budget + num_heads)
    scores = make_scores(kind, (num_heads, 8192 - 36), rng)
    check_select(tool, scores, granularity=granularity, num_tokens=8192, budget=budget, num_sinks=4, window=32,
                 share=0.25, anchor="mean", pick="best", seed=1, layer=29, first_head=0)  # fmt: skip


def test_tiny_cases_meet_every_border(tool):
    """Few tokens and heads: exact halves in the mean anchor, groups of one, tied buckets come up often."""
    rng = np.random.default_rng(20)
    for _ in range(2000):
        num_candidates = int(rng.integers(1, 14))
        free = int(rng.integers(1, num_candidates + 1))
        num_heads = int(rng.integers(1, 6))
        group = int(rng.choice([g for g in range(1, num_heads + 1) if num_heads % g == 0]))
        scores = rng.integers(0, 4, (num_heads, num_candidates)).astype(np.float32)
        check_select(tool, scores, num_tokens=num_candidates + 1, budget=free + 1, num_sinks=0, window=1,
                     share=float(rng.integers(0, 5)) / 4, anchor=str(rng.choice(reference.ANCHORS)),
                     pick=str(rng.choice(reference.PICKS)), seed=int(rng.integers(100)),
                     layer=int(rng.integers(3)), first_head=group * int(rng.integers(4)),
                     signature_heads=str(rng.choice(reference.SIGNATURE_HEADS)),
                     num_kv_heads=num_heads // group)  # fmt: skip


def test_tiny_block_cases_meet_every_border(tool):
    """Few blocks, quantised scores; sinks and window at every phase of the 16-slot grid."""
    rng = np.random.default_rng(21)
    for _ in range(1000):
        num_sinks, window = int(rng.integers(0, 34)), int(rng.integers(1, 34))
        budget = reference.min_budget(num_sinks, window, "block") + int(rng.integers(0, 80))
        num_tokens = budget + int(rng.integers(0, 60))
        num_heads = int(rng.integers(1, 5))
        scores = rng.integers(0, 3, (num_heads, num_tokens - num_sinks - window)).astype(np.float32)
        check_select(tool, scores, granularity="block", num_tokens=num_tokens, budget=budget, num_sinks=num_sinks,
                     window=window, share=float(rng.integers(0, 5)) / 4, anchor=str(rng.choice(reference.ANCHORS)),
                     pick=str(rng.choice(reference.PICKS)), seed=int(rng.integers(100)),
                     layer=int(rng.integers(3)))  # fmt: skip


def test_kept_count_of_blocks_does_not_depend_on_scores(tool):
    rng = np.random.default_rng(22)
    for num_tokens in range(150, 200):
        counts = set()
        for kind in SCORE_KINDS:
            scores = make_scores(kind, (3, num_tokens - 36), rng)
            kept = check_select(tool, scores, granularity="block", num_tokens=num_tokens, budget=100, num_sinks=4,
                                window=32, share=0.5, anchor="mean", pick="best", seed=0, layer=0)  # fmt: skip
            counts.add(len(kept))
        assert len(counts) == 1


def ask_about(tool, mode, dtype, sums, **case):
    reads_sums = case.get("policy", "snapkv") in reference.ATTENTION_POLICIES
    return tool.ask(mode, dtype, sums if reads_sums else None, num_heads=len(sums), **case)


def check_plan(tool, sums, **case):
    names = {name: value for name, value in case.items() if name not in ("num_tokens", "layer_budgets", "num_layers")}
    names["budget"] = reference.layer_budget(
        case.get("layer_budgets", "uniform"), case["budget"], case["layer"], case.get("num_layers", 128),
        case["num_sinks"], case["window"], case.get("granularity", "token"),
    )  # fmt: skip
    expected = reference.plan_layer(sums, **names)
    actual = ask_about(tool, PLAN, np.int32, sums, **case)
    np.testing.assert_array_equal(actual.reshape(expected.shape), expected, err_msg=str(case))


@settings(max_examples=1500, derandomize=True, deadline=None)
@given(case=plan_cases())
def test_plans_equal_the_reference(tool, case):
    sums = make_observation(case, np.random.default_rng(case.pop("data_seed")))
    check_plan(tool, sums, **case)


@pytest.mark.parametrize("policy", reference.POLICIES)
@pytest.mark.parametrize("granularity,signature_heads", [("token", "query"), ("token", "kv"), ("block", "query")])
@pytest.mark.parametrize("per_kv_head", [False, True])
def test_every_policy_in_every_mode(tool, policy, granularity, signature_heads, per_kv_head):
    rng = np.random.default_rng(5)
    reads_attention = policy in reference.ATTENTION_POLICIES
    for anchor in reference.ANCHORS:
        for share in (0.0, 0.3, 1.0):
            case = {"num_heads": 6, "kind": "ties", "num_tokens": 190, "policy": policy, "num_kv_heads": 3,
                    "value_norm": reads_attention and share > 0}  # fmt: skip
            sums = make_observation(case, rng)
            check_plan(tool, sums, budget=100, num_sinks=4, window=16, num_queries=1,
                       pool_kernel=5 if reads_attention else 1, granularity=granularity,
                       pool_shape="gaussian" if reads_attention and share < 1 else "max",
                       layer_weight=0.5 if per_kv_head else 0.0,
                       signature_heads=signature_heads, per_kv_head=per_kv_head, share=share, anchor=anchor,
                       pick="best", seed=9, layer=1, num_layers=5, layer_budgets="pyramid", **case)  # fmt: skip


@settings(max_examples=400, derandomize=True, deadline=None)
@given(case=plan_cases())
def test_scores_equal_the_reference_bit_for_bit(tool, case):
    case["num_tokens"] = case["num_sinks"] + case["window"] + case["num_tokens"]
    sums = make_observation(case, np.random.default_rng(case.pop("data_seed")))
    names = ("policy", "num_queries", "num_sinks", "window", "pool_kernel", "pool_shape", "key_scores", "value_norms")
    expected = reference.token_scores(sums=sums, **{name: case[name] for name in names if name in case})
    actual = ask_about(tool, SCORES, np.float32, sums, **case).reshape(expected.shape)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("kernel", range(3, 64, 2))
def test_every_gaussian_kernel_bit_for_bit(tool, kernel):
    assert abs(reference.gaussian_weights(kernel).sum() - 1) < 1e-6
    rng = np.random.default_rng(kernel)
    for num_candidates in (1, 2, kernel // 2, kernel, 1024, 1025, 2300):
        sums = make_scores("attention_like", (2, num_candidates + 1), rng)
        case = {"num_queries": 3, "num_sinks": 0, "window": 1, "pool_kernel": kernel, "pool_shape": "gaussian"}
        expected = reference.token_scores("snapkv", sums, **case)
        actual = ask_about(tool, SCORES, np.float32, sums, num_tokens=num_candidates + 1, budget=2, **case)
        np.testing.assert_array_equal(actual.view(np.int32), expected.ravel().view(np.int32))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    kind=st.sampled_from(reference.LAYER_BUDGETS),
    granularity=st.sampled_from(reference.GRANULARITIES),
    num_layers=st.integers(1, 200),
    num_sinks=st.integers(0, 1024),
    window=st.integers(1, 256),
    extra=st.one_of(st.integers(0, 5), st.integers(0, 2_000_000)),
)
def test_layer_budgets_equal_the_reference(tool, kind, granularity, num_layers, num_sinks, window, extra):
    least = reference.min_budget(num_sinks, window, granularity)
    expected = [reference.layer_budget(kind, least + extra, layer, num_layers, num_sinks, window, granularity)
                for layer in range(num_layers)]  # fmt: skip
    actual = tool.ask(BUDGETS, np.int32, budget=least + extra, granularity=granularity, layer_budgets=kind,
                      num_layers=num_layers, num_sinks=num_sinks, window=window)  # fmt: skip
    assert actual.tolist() == [least, *expected]


@pytest.mark.parametrize("per_kv_head", [False, True])
@pytest.mark.parametrize("anchor", reference.ANCHORS)
@pytest.mark.parametrize(
    "policy,pool_kernel",
    [("snapkv", 1), ("snapkv", 7), ("snapkv", 21), ("h2o", 15), ("tova", 1), ("knorm", 1), ("keydiff", 1)],
)
@pytest.mark.parametrize("heads", [(9, 3), (32, 8)])
def test_attention_of_random_queries_and_keys(tool, attention, per_kv_head, anchor, policy, pool_kernel, heads):
    num_heads, num_kv_heads = heads
    keys, sums, num_queries = attention(num_heads, num_kv_heads, policy)
    data = {"key_scores": reference.key_scores(policy, keys)} if policy in ("knorm", "keydiff") else {}
    for pick in reference.PICKS:
        for share in (0.0, 0.1, 0.25, 1.0):
            check_plan(tool, sums, num_tokens=sums.shape[1], policy=policy, num_queries=num_queries,
                       num_kv_heads=num_kv_heads, budget=120, num_sinks=4, window=32, pool_kernel=pool_kernel,
                       pool_shape="gaussian" if pool_kernel == 21 else "max", per_kv_head=per_kv_head,
                       layer_weight=1.0 if per_kv_head and share < 1 else 0.0, share=share, anchor=anchor, pick=pick,
                       seed=11, layer=17, **data)  # fmt: skip


@pytest.fixture(scope="module")
def attention():
    """(num_heads, num_kv_heads, policy) -> keys, probability sums, observed queries; each made once."""
    made = {}

    def make(num_heads, num_kv_heads, policy):
        n = 400
        num_queries = {"tova": 1, "h2o": n}.get(policy, 32)
        name = (num_heads, num_kv_heads, num_queries)
        if name not in made:
            rng = np.random.default_rng(num_heads)
            # A direction common to all queries makes some keys popular, as in real attention.
            queries = (rng.normal(size=(num_heads, n, 16)) + 1.5 * rng.normal(size=16)).astype(np.float32)
            keys = (1.3 * rng.normal(size=(num_kv_heads, n, 16))).astype(np.float32)
            sums = reference.observe(queries, keys, num_queries)
            assert np.allclose(sums.sum(axis=1), num_queries, rtol=1e-4)
            made[name] = keys, sums, num_queries
        return made[name]

    return make
