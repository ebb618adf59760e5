"""KVCrush selection in plain numpy, written from the specification: the oracle for the C++ and CUDA code.

Clarity over speed: full sorts, one boolean per signature bit, no packing.
"""

import math

import numpy as np

ANCHORS = ("random", "zeros", "ones", "mean", "alternating")
PICKS = ("first", "best")
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


def snapkv_scores(sums, num_queries, num_sinks, window, pool_kernel):
    """Step 1: mean, then max over the kernel's neighbours among the candidates.

    [num_heads, num_candidates] float32.
    """
    n = sums.shape[1]
    means = sums[:, num_sinks : n - window].astype(np.float32) / np.float32(num_queries)
    num_candidates = means.shape[1]
    half = pool_kernel // 2
    scores = np.empty_like(means)
    for t in range(num_candidates):
        scores[:, t] = means[:, max(0, t - half) : t + half + 1].max(axis=1)
    return scores


def largest(values, count):
    """Indices of the `count` largest; among equals the lower index goes first."""
    return np.argsort(-values, kind="stable")[:count]


def anchor_bits(kind, first_head, num_heads, seed, layer, evicted_signatures):
    heads = range(first_head, first_head + num_heads)
    if kind == "random":
        return np.array([splitmix64((seed + layer * 2**32 + h) & _MASK64) & 1 for h in heads], bool)
    if kind == "zeros":
        return np.zeros(num_heads, bool)
    if kind == "ones":
        return np.ones(num_heads, bool)
    if kind == "alternating":
        return np.array([h % 2 == 1 for h in heads], bool)
    if kind == "mean":
        return evicted_signatures.sum(axis=0) > len(evicted_signatures) / 2
    raise ValueError(kind)


def select(scores, num_tokens, budget, num_sinks, window, share, anchor, pick, seed, layer, first_head=0):
    """Steps 2-8. Kept slots, ascending; scores [num_heads, num_candidates] float32."""
    if num_tokens <= budget:
        return np.arange(num_tokens)
    num_heads, num_candidates = scores.shape
    assert num_candidates == num_tokens - num_sinks - window
    free = budget - num_sinks - window
    num_representatives = math.floor(share * free)

    importance = np.zeros(num_candidates, np.float32)
    for head in range(num_heads):
        importance = importance + scores[head]
    important = set(largest(importance, free - num_representatives).tolist())
    evicted = [t for t in range(num_candidates) if t not in important]

    representatives = set()
    if num_representatives > 0:
        signatures = np.zeros((num_candidates, num_heads), bool)
        for head in range(num_heads):
            signatures[largest(scores[head], free), head] = True
        bits = anchor_bits(anchor, first_head, num_heads, seed, layer, signatures[evicted])
        distance = (signatures != bits).sum(axis=1)
        order = sorted(evicted, key=lambda t: (distance[t], t))
        borders = [g * len(order) // num_representatives for g in range(num_representatives + 1)]
        for begin, end in zip(borders, borders[1:]):
            group = order[begin:end]
            best = min(group, key=lambda t: (-importance[t], t))
            representatives.add(group[0] if pick == "first" else best)

    kept = [num_sinks + t for t in sorted(important | representatives)]
    slots = list(range(num_sinks)) + kept + list(range(num_tokens - window, num_tokens))
    assert len(slots) == budget
    return np.array(slots)


def plan_layer(
    sums, num_queries, num_kv_heads, budget, num_sinks, window, pool_kernel, per_kv_head, **selection
):
    """Kept slots [num_sets, kept] of one layer from probability sums [num_heads, num_tokens]."""
    num_heads, num_tokens = sums.shape
    num_sets = num_kv_heads if per_kv_head else 1
    if num_tokens <= budget:
        return np.tile(np.arange(num_tokens), (num_sets, 1))
    scores = snapkv_scores(sums, num_queries, num_sinks, window, pool_kernel)
    rows = num_heads // num_sets
    sets = []
    for i in range(num_sets):
        group_scores = scores[i * rows : (i + 1) * rows]
        first_head = i * rows
        sets.append(
            select(group_scores, num_tokens, budget, num_sinks, window, first_head=first_head, **selection)
        )
    return np.stack(sets)
