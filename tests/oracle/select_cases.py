"""Random cases for the selection tests: shapes and settings by hypothesis, data by numpy."""

import kvcrush_reference as reference
import numpy as np
from hypothesis import strategies as st

HEADS = (1, 3, 9, 24, 32, 64, 65, 128, 130)
SCORE_KINDS = ("random", "attention_like", "ties", "equal", "zero", "signed", "signed_zeros")


def make_scores(kind, shape, rng):
    if kind == "random":
        values = rng.random(shape)
    elif kind == "attention_like":
        values = np.exp(rng.normal(-8, 3, shape))
    elif kind == "ties":
        values = rng.integers(0, 4, shape) / 4
    elif kind == "equal":
        values = np.full(shape, 0.37)
    elif kind == "zero":
        values = np.zeros(shape)
    elif kind == "signed":
        values = rng.normal(0, 1, shape)
    else:
        values = np.where(rng.random(shape) < 0.5, -0.0, 0.0) + (rng.random(shape) < 0.05)
    return values.astype(np.float32)


@st.composite
def selection_cases(draw, max_tokens=600, granularities=("token", "token", "block")):
    granularity = draw(st.sampled_from(granularities))
    num_sinks = draw(st.integers(0, 20 if granularity == "block" else 8))
    window = draw(st.integers(1, 40))
    least = reference.min_budget(num_sinks, window, granularity)
    budget = least + draw(st.one_of(st.integers(0, 2), st.integers(0, 150)))
    num_tokens = draw(st.one_of(st.integers(budget, budget + 3), st.integers(1, max_tokens)))
    return {
        "granularity": granularity,
        "num_heads": draw(st.sampled_from(HEADS)),
        "kind": draw(st.sampled_from(SCORE_KINDS)),
        "data_seed": draw(st.integers(0, 2**32 - 1)),
        "num_sinks": num_sinks,
        "window": window,
        "budget": budget,
        "num_tokens": num_tokens,
        "share": draw(st.one_of(st.sampled_from((0.0, 0.1, 0.25, 0.5, 1.0)), st.floats(0, 1))),
        "anchor": draw(st.sampled_from(reference.ANCHORS)),
        "pick": draw(st.sampled_from(reference.PICKS)),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "layer": draw(st.integers(0, 100)),
    }


@st.composite
def plan_cases(draw):
    case = draw(selection_cases(max_tokens=400))
    num_kv_heads = draw(st.sampled_from((1, 2, 3, 4, 8)))
    policy = draw(st.sampled_from(reference.POLICIES))
    reads_attention = policy in reference.ATTENTION_POLICIES
    case["policy"] = policy
    case["num_heads"] = num_kv_heads * draw(st.sampled_from((1, 2, 3, 4, 8, 16)))
    case["kind"] = draw(st.sampled_from(("random", "attention_like", "ties", "equal", "zero")))
    case["num_kv_heads"] = num_kv_heads
    case["per_kv_head"] = draw(st.booleans())
    bits = reference.SIGNATURE_HEADS if case["granularity"] == "token" else ("query",)
    case["signature_heads"] = draw(st.sampled_from(bits))
    case["layer_budgets"] = draw(st.sampled_from(reference.LAYER_BUDGETS))
    case["num_layers"] = case["layer"] + draw(st.integers(1, 60))
    case["num_queries"] = 1 if policy == "tova" else draw(st.integers(1, 40))
    case["pool_kernel"] = draw(st.integers(0, 31)) * 2 + 1 if reads_attention else 1
    case["pool_shape"] = draw(st.sampled_from(reference.POOL_SHAPES if case["pool_kernel"] > 1 else ("max",)))
    case["value_norm"] = reads_attention and draw(st.booleans())
    weights = st.one_of(st.sampled_from((0.0, 1.0, 4.0)), st.floats(0, 4))
    case["layer_weight"] = draw(weights) if case["per_kv_head"] else 0.0
    return case


def make_observation(case, rng):
    """Takes what describes the data out of `case` and puts the data in."""
    num_heads, kind, num_tokens = case.pop("num_heads"), case.pop("kind"), case["num_tokens"]
    sums = make_scores(kind, (num_heads, num_tokens), rng)
    if case["policy"] not in reference.ATTENTION_POLICIES:
        sums = np.broadcast_to(np.float32(np.nan), sums.shape)  # only the shape may matter
    if case["policy"] in ("knorm", "keydiff"):
        case["key_scores"] = -make_scores(kind, (case["num_kv_heads"], num_tokens), rng)
    if case.pop("value_norm"):
        case["value_norms"] = make_scores("ties" if kind == "ties" else "random", (num_heads, num_tokens), rng)
    return sums
