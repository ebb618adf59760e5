"""KVCrush selection in plain numpy, written from the specification: the oracle for the C++ and CUDA code.

Clarity over speed: full sorts, one boolean per signature bit, no packing.
"""

import math
from fractions import Fraction

import numpy as np

# In the order of the C++ enumerators.
POLICIES = ("snapkv", "h2o", "tova", "streaming", "knorm", "keydiff")
ATTENTION_POLICIES = ("snapkv", "h2o", "tova")
ANCHORS = ("random", "zeros", "ones", "mean", "alternating")
PICKS = ("first", "best")
GRANULARITIES = ("token", "block")
SIGNATURE_HEADS = ("query", "kv")
LAYER_BUDGETS = ("uniform", "pyramid", "rising")
POOL_SHAPES = ("max", "gaussian")
BLOCK = 16
_MASK64 = (1 << 64) - 1


def splitmix64(state):
    z = (state + 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def observe(queries, keys, num_observed):
    """Sums of causal softmax probabilities over the last `num_observed` queries.

    queries [num_heads, n, head_dim], keys [num_kv_heads, n, head_dim] -> [num_heads, n] float32.
    """
    num_heads, n, head_dim = queries.shape
    group = num_heads // keys.shape[0]
    sums = np.zeros((num_heads, n), np.float32)
    for head in range(num_heads):
        for position in range(n - num_observed, n):
            visible = keys[head // group, : position + 1]
            logits = visible @ queries[head, position] / np.float32(math.sqrt(head_dim))
            weights = np.exp(logits - logits.max())
            sums[head, : position + 1] += weights / weights.sum()
    return sums


def max_pool(values, kernel):
    """Largest of the kernel's neighbours along the last axis, inside the row."""
    half = kernel // 2
    pooled = np.empty_like(values)
    for t in range(values.shape[1]):
        pooled[:, t] = values[:, max(0, t - half) : t + half + 1].max(axis=1)
    return pooled


def gaussian_weights(kernel):
    """[kernel] float32 that sum to about 1: a bell of standard deviation kernel / 4."""
    deviations = [(i - kernel // 2) / (kernel / 4.0) for i in range(kernel)]
    bell = [math.exp(-0.5 * (d * d)) for d in deviations]
    total = 0.0
    for weight in bell:
        total += weight
    return np.array([weight / total for weight in bell]).astype(np.float32)


def gaussian_pool(values, kernel):
    """Sum over taps in ascending order of weight times neighbour, float32; nothing comes from beyond the row."""
    half = kernel // 2
    padded = np.pad(values, ((0, 0), (half, half)))
    pooled = np.zeros_like(values)
    for i, weight in enumerate(gaussian_weights(kernel)):
        pooled = pooled + weight * padded[:, i : i + values.shape[1]]
    return pooled


def token_scores(
    policy, sums, num_queries, num_sinks, window, pool_kernel, key_scores=None, value_norms=None, pool_shape="max"
):
    """Step 1. [num_heads, num_candidates] float32.

    sums [num_heads, n] gives the shape even where the policy does not read it; key_scores [num_kv_heads, n];
    value_norms [num_heads, n], or None; only policies that read attention may have them or a pool.
    """
    num_heads, n = sums.shape
    candidates = slice(num_sinks, n - window)
    if policy in ATTENTION_POLICIES:
        values = sums[:, candidates].astype(np.float32)
        if policy != "h2o":
            values = values / np.float32(num_queries)
        if value_norms is not None:
            values = values * value_norms[:, candidates]
        return (max_pool if pool_shape == "max" else gaussian_pool)(values, pool_kernel)
    if policy == "streaming":
        return np.tile(np.arange(n, dtype=np.float32)[candidates], (num_heads, 1))
    return np.repeat(key_scores[:, candidates], num_heads // len(key_scores), axis=0)


def key_scores(policy, keys):
    """[num_kv_heads, n] float32 of keys [num_kv_heads, n, head_dim]."""
    norms = np.linalg.norm(keys, axis=2)
    if policy == "knorm":
        return (-norms).astype(np.float32)
    mean = keys.mean(axis=1, keepdims=True)
    return (-(keys * mean).sum(axis=2) / (norms * np.linalg.norm(mean, axis=2))).astype(np.float32)


def largest(values, count):
    """Indices of the `count` largest; among equals the lower index goes first."""
    return np.argsort(-values, kind="stable")[:count]


def float32_sum(rows):
    total = np.zeros(rows.shape[1:], np.float32)
    for row in rows:
        total = total + row
    return total


def importance_of(scores, num_sets=1, layer_weight=0.0):
    """[num_sets, num_candidates] float32 of scores [num_heads, num_candidates]."""
    own = np.stack([float32_sum(rows) for rows in np.split(scores, num_sets)])
    if layer_weight == 0:
        return own
    return own + np.float32(layer_weight) * (float32_sum(own) / np.float32(num_sets))


def anchor_bits(kind, first_bit, num_bits, seed, layer, evicted_signatures):
    indices = range(first_bit, first_bit + num_bits)
    if kind == "random":
        return np.array([splitmix64((seed + layer * 2**32 + i) & _MASK64) & 1 for i in indices], bool)
    if kind == "zeros":
        return np.zeros(num_bits, bool)
    if kind == "ones":
        return np.ones(num_bits, bool)
    if kind == "alternating":
        return np.array([i % 2 == 1 for i in indices], bool)
    if kind == "mean":
        return evicted_signatures.sum(axis=0) > len(evicted_signatures) / 2
    raise ValueError(kind)


def keep_units(importance, free, share, sign, anchor, pick, seed, layer, first_bit):
    """Steps 2, 3 and 5-7 for units of any kind. Kept units, ascending; sign() gives bits [num_units, num_bits]."""
    num_representatives = math.floor(share * free)
    important = set(largest(importance, free - num_representatives).tolist())
    evicted = [u for u in range(len(importance)) if u not in important]
    representatives = set()
    if num_representatives > 0:
        signatures = sign()
        bits = anchor_bits(anchor, first_bit, signatures.shape[1], seed, layer, signatures[evicted])
        distance = (signatures != bits).sum(axis=1)
        order = sorted(evicted, key=lambda u: (distance[u], u))
        borders = [g * len(order) // num_representatives for g in range(num_representatives + 1)]
        for begin, end in zip(borders, borders[1:]):
            group = order[begin:end]
            best = min(group, key=lambda u: (-importance[u], u))
            representatives.add(group[0] if pick == "first" else best)
    assert len(important | representatives) == free
    return sorted(important | representatives)


def select(
    importance, scores, num_tokens, budget, num_sinks, window, share, anchor, pick, seed, layer, first_head=0, heads_per_bit=1
):
    """Steps 3-8. Kept slots, ascending; importance [num_candidates], scores [num_heads, num_candidates], float32."""
    if num_tokens <= budget:
        return np.arange(num_tokens)
    num_heads, num_candidates = scores.shape
    assert num_candidates == num_tokens - num_sinks - window
    free = budget - num_sinks - window

    def sign():
        wanted = np.zeros((num_heads, num_candidates), bool)
        for head in range(num_heads):
            wanted[head, largest(scores[head], free)] = True
        return wanted.reshape(num_heads // heads_per_bit, heads_per_bit, num_candidates).any(axis=1).T

    kept = keep_units(importance, free, share, sign, anchor, pick, seed, layer, first_head // heads_per_bit)
    slots = list(range(num_sinks)) + [num_sinks + t for t in kept] + list(range(num_tokens - window, num_tokens))
    assert len(slots) == budget
    return np.array(slots)


def select_blocks(token_importance, num_tokens, budget, num_sinks, window, share, anchor, pick, seed, layer):
    """Kept slots when whole aligned blocks stay or go; token_importance [num_candidates] float32."""
    if num_tokens <= budget:
        return np.arange(num_tokens)
    importance = np.zeros(num_tokens, np.float32)
    importance[num_sinks : num_tokens - window] = token_importance
    starts = [b for b in range(0, num_tokens, BLOCK) if b >= num_sinks and b + BLOCK <= num_tokens - window]
    slots_of = np.array([range(b, b + BLOCK) for b in starts])
    fixed = sorted(set(range(num_tokens)) - set(slots_of.ravel().tolist()))
    free = (budget - len(fixed)) // BLOCK
    assert 1 <= free < len(starts)

    def sign():
        tokens = importance[slots_of].ravel()
        wanted = np.zeros(len(tokens), bool)
        wanted[largest(tokens, len(tokens) // 2)] = True
        return wanted.reshape(-1, BLOCK)

    kept = keep_units(float32_sum(importance[slots_of].T), free, share, sign, anchor, pick, seed, layer, 0)
    slots = np.sort(np.concatenate([fixed, slots_of[kept].ravel()])).astype(int)
    assert budget - BLOCK < len(slots) <= budget
    return slots


def min_budget(num_sinks, window, granularity="token"):
    return num_sinks + window + (1 if granularity == "token" else BLOCK + 2 * (BLOCK - 1))


def layer_budget(kind, budget, layer, num_layers, num_sinks, window, granularity="token"):
    """Budget of one layer when the mean over layers is `budget`."""
    if kind == "uniform" or num_layers == 1:
        return budget
    slope = Fraction(layer, num_layers - 1)
    free = (budget - num_sinks - window) * (Fraction(1, 2) + slope if kind == "rising" else Fraction(3, 2) - slope)
    return max(num_sinks + window + math.floor(free), min_budget(num_sinks, window, granularity))


def plan_layer(
    sums, num_queries, num_kv_heads, budget, num_sinks, window, pool_kernel, per_kv_head, policy="snapkv",
    key_scores=None, value_norms=None, pool_shape="max", layer_weight=0.0, granularity="token",
    signature_heads="query", **selection,
):  # fmt: skip
    """Kept slots [num_sets, kept] of one layer; `sums`, `key_scores`, `value_norms` as in token_scores."""
    num_heads, num_tokens = sums.shape
    num_sets = num_kv_heads if per_kv_head else 1
    if num_tokens <= budget:
        return np.tile(np.arange(num_tokens), (num_sets, 1))
    scores = token_scores(
        policy, sums, num_queries, num_sinks, window, pool_kernel, key_scores, value_norms, pool_shape
    )
    importance = importance_of(scores, num_sets, layer_weight)
    rows = num_heads // num_sets
    sets = []
    for i in range(num_sets):
        if granularity == "block":
            sets.append(select_blocks(importance[i], num_tokens, budget, num_sinks, window, **selection))
            continue
        bits = {"first_head": i * rows, "heads_per_bit": num_heads // num_kv_heads if signature_heads == "kv" else 1}
        set_scores = scores[i * rows : (i + 1) * rows]
        sets.append(select(importance[i], set_scores, num_tokens, budget, num_sinks, window, **bits, **selection))
    return np.stack(sets)
