"""The C++ selection against the numpy reference, index for index.

Needs select_tool from the build folder named by KVCRUSH_BUILD_DIR (default build/cpu-release).
"""

import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import kvcrush_reference as reference  # noqa: E402

HEADS = (1, 3, 9, 24, 32, 64, 65, 128)
SCORE_KINDS = ("random", "attention_like", "ties", "equal", "zero", "signed", "signed_zeros")
SELECT, PLAN, SCORES = range(3)


class Tool:
    """One process for all cases; it keeps its scratch between them, as the engine does."""

    def __init__(self):
        folder = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release")
        self.process = subprocess.Popen(
            [folder / "tests/unit/kvcrush/select_tool"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, mode, data, dtype, **case):
        header = struct.pack(
            "=dQ15i",
            case.get("share", 0.0),
            case.get("seed", 0),
            mode,
            data.shape[0],
            case.get("num_kv_heads", 1),
            case.get("first_head", 0),
            case["num_tokens"],
            case["budget"],
            case["num_sinks"],
            case["window"],
            case.get("num_queries", 1),
            case.get("pool_kernel", 1),
            case.get("layer", 0),
            reference.ANCHORS.index(case.get("anchor", "mean")),
            reference.PICKS.index(case.get("pick", "first")),
            int(case.get("per_kv_head", False)),
            data.size,
        )
        header += b"\0" * (-len(header) % 8)
        self.process.stdin.write(header + np.ascontiguousarray(data, np.float32).tobytes())
        self.process.stdin.flush()
        count = struct.unpack("=i", self.process.stdout.read(4))[0]
        return np.frombuffer(self.process.stdout.read(4 * count), dtype)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def tool():
    running = Tool()
    yield running
    running.close()


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


def check_select(tool, scores, **case):
    expected = reference.select(
        scores, case["num_tokens"], case["budget"], case["num_sinks"], case["window"], case["share"],
        case["anchor"], case["pick"], case["seed"], case["layer"], case["first_head"],
    )  # fmt: skip
    np.testing.assert_array_equal(tool.ask(SELECT, scores, np.int32, **case), expected, err_msg=str(case))


@st.composite
def selection_cases(draw, max_tokens=600):
    num_sinks = draw(st.integers(0, 8))
    window = draw(st.integers(1, 40))
    budget = num_sinks + window + draw(st.integers(1, 150))
    num_tokens = draw(st.one_of(st.integers(budget + 1, budget + 3), st.integers(1, max_tokens)))
    return {
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
        check_select(tool, scores, num_tokens=300, budget=120, num_sinks=4, window=32, share=0.3,
                     anchor=anchor, pick=pick, seed=7, layer=3, first_head=5)  # fmt: skip


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("num_heads", HEADS)
@pytest.mark.parametrize("budget", [37, 2048, 8191])
def test_long_sequences(tool, kind, num_heads, budget):
    rng = np.random.default_rng(budget + num_heads)
    scores = make_scores(kind, (num_heads, 8192 - 36), rng)
    check_select(tool, scores, num_tokens=8192, budget=budget, num_sinks=4, window=32, share=0.25,
                 anchor="mean", pick="best", seed=1, layer=29, first_head=0)  # fmt: skip


def test_tiny_cases_meet_every_border(tool):
    """Few tokens and heads: exact halves in the mean anchor, groups of one, tied buckets come up often."""
    rng = np.random.default_rng(20)
    for _ in range(2000):
        num_candidates = int(rng.integers(2, 14))
        free = int(rng.integers(1, num_candidates))
        num_heads = int(rng.integers(1, 6))
        scores = rng.integers(0, 4, (num_heads, num_candidates)).astype(np.float32)
        check_select(tool, scores, num_tokens=num_candidates + 1, budget=free + 1, num_sinks=0, window=1,
                     share=float(rng.integers(0, 5)) / 4, anchor=str(rng.choice(reference.ANCHORS)),
                     pick=str(rng.choice(reference.PICKS)), seed=int(rng.integers(100)),
                     layer=int(rng.integers(3)), first_head=int(rng.integers(4)))  # fmt: skip


@st.composite
def plan_cases(draw):
    case = draw(selection_cases(max_tokens=400))
    num_kv_heads = draw(st.sampled_from((1, 2, 3, 4, 8)))
    case["num_heads"] = num_kv_heads * draw(st.sampled_from((1, 2, 3, 4, 8, 16)))
    case["kind"] = draw(st.sampled_from(("random", "attention_like", "ties", "equal", "zero")))
    case["num_kv_heads"] = num_kv_heads
    case["per_kv_head"] = draw(st.booleans())
    case["num_queries"] = draw(st.integers(1, 40))
    case["pool_kernel"] = draw(st.integers(0, 31)) * 2 + 1
    return case


def check_plan(tool, sums, **case):
    names = {name: value for name, value in case.items() if name != "num_tokens"}
    expected = reference.plan_layer(sums, **names)
    np.testing.assert_array_equal(
        tool.ask(PLAN, sums, np.int32, **case).reshape(expected.shape), expected, err_msg=str(case)
    )


@settings(max_examples=600, derandomize=True, deadline=None)
@given(case=plan_cases())
def test_plans_equal_the_reference(tool, case):
    rng = np.random.default_rng(case.pop("data_seed"))
    sums = make_scores(case.pop("kind"), (case.pop("num_heads"), case["num_tokens"]), rng)
    check_plan(tool, sums, **case)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(case=plan_cases())
def test_scores_equal_the_reference_bit_for_bit(tool, case):
    case["num_tokens"] = case["num_sinks"] + case["window"] + 1 + case["num_tokens"]
    rng = np.random.default_rng(case.pop("data_seed"))
    sums = make_scores(case.pop("kind"), (case.pop("num_heads"), case["num_tokens"]), rng)
    expected = reference.snapkv_scores(
        sums, case["num_queries"], case["num_sinks"], case["window"], case["pool_kernel"]
    )
    actual = tool.ask(SCORES, sums, np.float32, **case).reshape(expected.shape)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("per_kv_head", [False, True])
@pytest.mark.parametrize("anchor", reference.ANCHORS)
@pytest.mark.parametrize("pool_kernel", [1, 7, 15])
@pytest.mark.parametrize("heads", [(9, 3), (32, 8)])
def test_attention_of_random_queries_and_keys(tool, per_kv_head, anchor, pool_kernel, heads):
    num_heads, num_kv_heads = heads
    rng = np.random.default_rng(num_heads)
    n, window = 400, 32
    # A direction common to all queries makes some keys popular, as in real attention.
    queries = (rng.normal(size=(num_heads, n, 16)) + 1.5 * rng.normal(size=16)).astype(np.float32)
    keys = (1.3 * rng.normal(size=(num_kv_heads, n, 16))).astype(np.float32)
    sums = reference.observe(queries, keys, window)
    assert np.allclose(sums.sum(axis=1), window, rtol=1e-4)
    for pick in reference.PICKS:
        for share in (0.0, 0.1, 0.25, 1.0):
            check_plan(tool, sums, num_tokens=n, num_queries=window, num_kv_heads=num_kv_heads, budget=120,
                       num_sinks=4, window=window, pool_kernel=pool_kernel, per_kv_head=per_kv_head,
                       share=share, anchor=anchor, pick=pick, seed=11, layer=17)  # fmt: skip
