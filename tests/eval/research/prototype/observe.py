"""Prefill that also writes down what selection rules look at.

Linear layers run in bfloat16 and the cache is rounded to float16: full and pruned caches share this prefill, so their
comparison does not see it. Attention goes block by block over the queries, so no n x n matrix is ever whole.
"""

import math

import torch

from . import model as llama

LAST_QUERIES = 64
QUERY_BLOCK = 256
SINKS = 4  # their queries are outliers and are left out of the query statistics


def prefill(model, ids):
    """Dictionary of float32 tensors unless said otherwise, stacked over L layers.

    keys, values [L, K, n, D] float16; queries [L, H, 64, D], the newest, rotated;
    attention_sum [L, H, n], probabilities that a token got from all queries;
    query_mean [L, H, D] and query_covariance [L, H, D, D], before rotation.
    """
    x, tables = model.embedding[ids], llama.rope_tables(model, torch.arange(len(ids)))
    seen = {name: [] for name in ("keys", "values", "queries", "attention_sum", "query_mean", "query_covariance")}
    linear = llama.linear_bfloat16
    for layer in model.layers:
        q, k, v = llama.project(model, layer, x, linear)
        mean, covariance = _moments(q[:, SINKS:])
        q, k, v = llama.rotate(q, tables), llama.rotate(k, tables).half(), v.half()
        attended, attention_sum = _attend(model, q, k.float(), v.float())
        x = llama.finish_layer(model, layer, x, attended, linear)
        parts = (k, v, q[:, -LAST_QUERIES:].clone(), attention_sum, mean, covariance)
        for name, tensor in zip(seen, parts):
            seen[name].append(tensor)
    return {name: torch.stack(tensors) for name, tensors in seen.items()}


def _moments(queries):
    """Mean [H, D] and covariance [H, D, D] over the tokens of [H, T, D]."""
    mean = queries.mean(1)
    centred = queries - mean[:, None]
    return mean, centred.transpose(1, 2) @ centred / queries.shape[1]


def _attend(model, queries, keys, values):
    """Causal attention output [H, T, D] and the probability mass each key received, [H, T]."""
    heads, tokens, dim = queries.shape
    output, received = torch.empty(heads, tokens, dim), torch.zeros(heads, tokens)
    for begin in range(0, tokens, QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, tokens)
        count = end - begin
        block = (queries[:, begin:end] / math.sqrt(dim)).reshape(model.kv_heads, -1, dim)
        scores = (block @ keys[:, :end].transpose(1, 2)).view(heads, count, end)
        scores[..., begin:] += torch.full((count, count), -math.inf).triu(1)
        # Not softmax(): its last bits differ, bfloat16 rounding carries them on, and figures move by some percent.
        weights = (scores - scores.logsumexp(-1, keepdim=True)).exp()
        grouped = weights.view(model.kv_heads, -1, end)
        output[:, begin:end] = (grouped @ values[:, :end]).view(heads, count, dim)
        received[:, :end] += weights.sum(1)
    return output, received
