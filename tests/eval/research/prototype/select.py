"""Which tokens of a prompt's cache stay, given scores and a budget, and the probe of what is left."""

import torch

from . import probe
from .scores import SINKS, WINDOW, importance, per_query_head


def largest(scores, count):
    """Mask of the `count` largest along the last dimension; ties go to the lower slot."""
    order = torch.sort(scores, dim=-1, descending=True, stable=True)[1][..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def ranks(scores):
    """0 for the largest."""
    return torch.sort(torch.sort(scores, dim=-1, descending=True, stable=True)[1], dim=-1)[1]


def keep_mask(observed, variant, fraction):
    """Bool [L, K, n]: what each key-value head keeps when `fraction` of the prompt's tokens may stay."""
    free = round(observed.tokens * fraction) - SINKS - WINDOW
    scores = importance(observed, variant)
    if variant.head_floor < 1:
        kept = _adaptive_heads(scores, free, variant.head_floor)
    elif variant.layer_budgets != (1.0, 1.0):
        kept = ranks(scores) < layer_budgets(free, variant.layer_budgets, scores.shape)[:, None, None]
    else:
        num_representatives = int(variant.representative_share * free)
        kept = largest(scores, free - num_representatives)
        if num_representatives:
            kept = kept | _representatives(observed, variant, scores, kept, free, num_representatives)
    mask = torch.ones(observed.layers, observed.model.kv_heads, observed.tokens, dtype=torch.bool)
    mask[..., observed.candidates] = kept
    return mask


def _adaptive_heads(scores, free, floor):
    """Heads of a layer compete for `free` tokens each, as in Ada-KV; a head's best `floor` of them are safe."""
    layers, heads, candidates = scores.shape
    place = ranks(scores)
    safe = scores.amax() * 2 + 1 - place * 1e-6
    scores = torch.where(place < int(floor * free), safe, scores)
    return largest(scores.reshape(layers, -1), free * heads).view(layers, heads, candidates)


def layer_budgets(free, ends, shape):
    """Tokens per layer, [L], linear from ends[0] to ends[1] times `free`.

    No layer gets more than there are candidates; what it cannot use goes to the others.
    """
    layers, _, candidates = shape
    budgets = free * torch.linspace(ends[0], ends[1], layers)
    for _ in range(20):  # each round fills at least one layer or ends; 20 are plenty for 30 layers
        surplus = (budgets - candidates).clamp_min(0).sum()
        budgets = budgets.clamp_max(candidates)
        if surplus < 1:
            break
        has_room = budgets < candidates
        budgets[has_room] *= 1 + surplus / budgets[has_room].sum()
    return budgets.round().clamp(1, candidates).long()


def _representatives(observed, variant, scores, kept, free, count):
    """Mask of `count` of the tokens that `kept` leaves out."""
    rule, evicted = variant.representatives, ~kept
    if rule == "recent":
        slots = torch.arange(1.0, scores.shape[-1] + 1).expand_as(scores)
        return largest(slots.masked_fill(kept, -1), count)
    if rule.startswith("random"):
        generator = torch.Generator().manual_seed(int(rule[len("random"):]) + 1000)
        return largest(torch.rand(scores.shape, generator=generator).masked_fill(kept, -1), count)
    assert rule in ("first", "best")
    order = _by_distance(observed, variant, kept, free)
    num_evicted = order.shape[-1]
    edges = torch.arange(count + 1) * num_evicted // count
    if rule == "best":
        # Sort by (group, rank): each group's first entry is then its most important token.
        group = torch.bucketize(torch.arange(num_evicted), edges[1:], right=True)
        place = ranks(scores).gather(-1, order)
        order = order.gather(-1, torch.sort(group * scores.shape[-1] * 2 + place, dim=-1)[1])
    return torch.zeros_like(evicted).scatter_(-1, order[..., edges[:-1]], True)


def _by_distance(observed, variant, kept, free):
    """Evicted candidates in order of (distance of signature and anchor, slot), [L, S, evicted].

    Bit h of a signature: the token is among query head h's `free` largest. The anchor is the majority of the evicted.
    """
    candidates = kept.shape[-1]
    num_evicted = candidates - int(kept[0, 0].sum())
    signature = largest(per_query_head(observed, variant), free)[:, None]  # [L, 1, H, candidates]
    evicted = ~kept
    anchor = (signature & evicted[:, :, None]).sum(-1) * 2 > num_evicted  # [L, S, H]
    distance = (signature ^ anchor[..., None]).sum(2)
    slots = torch.arange(candidates)
    key = torch.where(evicted, distance * candidates, 10**9) + slots  # kept ones sort behind all evicted
    return torch.sort(key, dim=-1)[1][..., :num_evicted]


def gather(observed, mask):
    """(keys, values, valid) as model.decode wants them: per layer [K, kept, D], in slot order."""
    keys, values, valid = [], [], []
    for layer in range(observed.layers):
        counts = mask[layer].sum(-1)
        longest = int(counts.max())
        slots = torch.sort((~mask[layer]).to(torch.int8), dim=-1, stable=True)[1][:, :longest]
        index = slots[..., None].expand(-1, -1, observed.model.head_dim)
        keys.append(observed.keys[layer].gather(1, index))
        values.append(observed.values[layer].gather(1, index))
        even = int(counts.min()) == longest
        valid.append(None if even else torch.arange(longest) < counts[:, None])
    return keys, values, valid


def measure(model, prompt, observed, variant, fraction):
    """Probe of the pruned cache against the whole one; both in float16."""
    keys, values, valid = gather(observed, keep_mask(observed, variant, fraction))
    return probe.compare(model, prompt, prompt["reference"], keys, values, valid)
