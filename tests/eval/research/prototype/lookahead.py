"""What tokens that may come next would ask of a prompt's cache."""

import math

import torch

from . import model as llama


def branches(model, prompt, keys, values, count, tokens):
    """Attention of `count` likely continuations of `tokens` each to the prompt, [L, H, count * tokens, n].

    They begin with the likeliest first tokens and go on with the likeliest.
    """
    before = [k[:, :-1] for k in keys], [v[:, :-1] for v in values]
    last = prompt["ids"][-1:]
    first = llama.decode(model, last, len(prompt["ids"]) - 1, *before)[-1].topk(count)[1]
    return torch.cat([_branch(model, prompt, keys, values, token[None], tokens) for token in first], 2)


def _branch(model, prompt, keys, values, token, tokens):
    start = len(prompt["ids"])
    grown_keys, grown_values, queries = list(keys), list(values), []
    for position in range(start, start + tokens):
        seen = []
        logits = llama.decode(model, token, position, grown_keys, grown_values, seen=seen)
        grown_keys = [torch.cat([k, new[1]], 1) for k, new in zip(grown_keys, seen)]
        grown_values = [torch.cat([v, new[2]], 1) for v, new in zip(grown_values, seen)]
        queries.append(torch.stack([new[0] for new in seen]))
        token = logits[-1].argmax()[None]
    return attention(model, torch.cat(queries, 2), torch.stack(grown_keys), start)


def given(model, prompt, keys, values, tokens):
    """The same of the gold answer's first tokens."""
    seen = []
    llama.decode(model, prompt["answer"][:tokens], len(prompt["ids"]), keys, values, seen=seen)
    grown = torch.stack([torch.cat([k, new[1]], 1) for k, new in zip(keys, seen)])
    return attention(model, torch.stack([new[0] for new in seen]), grown, len(prompt["ids"]))


def attention(model, queries, keys, num_prompt):
    """Causal softmax of the newest queries [L, H, T, D] over keys [L, K, n + T, D]; what it gives the prompt."""
    layers, heads, count, dim = queries.shape
    grouped = (queries / math.sqrt(dim)).reshape(layers, model.kv_heads, -1, dim)
    scores = (grouped @ keys.transpose(2, 3)).view(layers, heads, count, -1)
    scores[..., -count:] += torch.full((count, count), -math.inf).triu(1)
    return scores.softmax(-1)[..., :num_prompt]
