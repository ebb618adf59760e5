"""KVCrush on what the real model attends to: the observation pass and the selections, against the numpy reference."""

import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import kvcrush_reference as reference  # noqa: E402
from test_kvcrush import check_plan, tool  # noqa: E402, F401
from tokenize_tool import MODEL, ROOT, TokenizeTool  # noqa: E402

LAYERS = (0, 7, 15, 29)
WINDOW = 32
NUM_TOKENS = 1500


@pytest.fixture(scope="module")
def observed():
    """Per layer: queries [H, n, D] (only the last WINDOW rows are set), keys [Hkv, n, D], sums [H, n] over the window
    and over all queries."""
    folder = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release")
    text = (ROOT / "tools/demo_prompt.txt").read_text(encoding="utf-8")
    tokenizer = TokenizeTool("--model", MODEL)
    ids = tokenizer.encode(text)[:NUM_TOKENS]
    tokenizer.close()
    raw = subprocess.run([folder / "tests/tools/observe_tool", MODEL, str(WINDOW), *map(str, LAYERS)], check=True,
                         capture_output=True, input=" ".join(map(str, ids)).encode()).stdout
    layers = []
    for _ in LAYERS:
        heads, kv_heads, dim, n, window = struct.unpack_from("=5i", raw)
        raw = raw[20:]
        parts = []
        for shape in ((window, heads, dim), (kv_heads, n, dim), (heads, n), (heads, n)):
            count = int(np.prod(shape))
            parts.append(np.frombuffer(raw, np.float32, count).reshape(shape))
            raw = raw[4 * count:]
        queries = np.zeros((heads, n, dim), np.float32)
        queries[:, n - window:] = parts[0].transpose(1, 0, 2)
        layers.append((queries, parts[1], parts[2], parts[3]))
    assert not raw
    return layers


@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_observation_equals_softmax_of_real_queries_and_keys(observed, index):
    queries, keys, sums, all_sums = observed[index]
    expected = reference.observe(queries, keys, WINDOW)
    # Scores reach about 100 here, each good to some 64 units of 2^-24: 4e-4 relative in a probability, at most WINDOW of them.
    np.testing.assert_allclose(sums, expected, rtol=1e-3, atol=1e-6)
    assert np.isclose(sums.sum(), WINDOW * len(sums), rtol=1e-4)
    # H2O's sums are over all queries: each spends one probability, and the window's are among them.
    assert np.isclose(all_sums.sum(), keys.shape[1] * len(all_sums), rtol=1e-4)
    assert (all_sums >= sums - 1e-5).all()


@pytest.mark.parametrize("index", range(len(LAYERS)))
@pytest.mark.parametrize("anchor", reference.ANCHORS)
@pytest.mark.parametrize("per_kv_head", [False, True])
def test_selections_on_real_attention_equal_the_reference(tool, observed, index, anchor, per_kv_head):  # noqa: F811
    sums = observed[index][2]
    for budget, share, pick in ((NUM_TOKENS // 4, 0.25, "first"), (NUM_TOKENS // 8, 0.5, "best"), (NUM_TOKENS // 2, 0.0, "first")):
        check_plan(tool, sums, num_tokens=sums.shape[1], budget=budget, num_sinks=4, window=WINDOW, num_queries=WINDOW,
                   pool_kernel=7, share=share, anchor=anchor, pick=pick, seed=11, layer=LAYERS[index], num_kv_heads=3,
                   per_kv_head=per_kv_head)
    check_plan(tool, sums, num_tokens=sums.shape[1], budget=NUM_TOKENS // 4, num_sinks=4, window=WINDOW, num_queries=WINDOW,
               pool_kernel=21, pool_shape="gaussian", share=0.0, anchor=anchor, pick="first", seed=11, layer=LAYERS[index],
               num_kv_heads=3, per_kv_head=per_kv_head, layer_weight=1.0 if per_kv_head else 0.0)
