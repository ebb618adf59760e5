"""What a selection variant is, and how important it finds each cached token.

Candidates are the tokens between the first SINKS and the newest WINDOW; those always stay.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F

from . import lookahead
from . import model as llama
from .observe import LAST_QUERIES

SINKS = 4
WINDOW = 32


@dataclasses.dataclass(frozen=True)
class Variant:
    """The defaults are SnapKV: one token set per layer from the attention of the newest 32 queries."""

    base: str = "attention"  # streaming, key_norm, expected (attention), expected_mean: without the covariance
    queries: int = 32  # newest ones whose attention counts, at most LAST_QUERIES
    lookahead: tuple = ()  # (branches, tokens) of likely continuations whose attention counts too
    gold: int = 0  # the same of so many tokens of the gold answer: what a perfect lookahead would see
    history: float = 0.0  # exponent of accumulated attention in a geometric mix
    value_weight: str = ""  # "norm": |V|, "projected": |W_o V|
    weight_first: bool = False  # before pooling, not after
    pool: str = "max"  # or gauss
    pool_tokens: int = 7
    over_heads: str = "sum"  # of a group's query heads; or max, rms
    per_kv_head: bool = False  # each key-value head keeps a set of its own
    layer_mean: float = 0.0  # share of the layer's mean added to each key-value head's score
    representative_share: float = 0.0  # of the free budget
    representatives: str = ""  # first, best (KVCrush groups), recent, randomN (N: seed)
    head_floor: float = 1.0  # below 1: heads compete for the layer's budget, each sure of this part of an equal share
    layer_budgets: tuple = (1.0, 1.0)  # of the mean budget, in the first and the last layer, linear between


class Observed:
    """A prepared prompt with what the scores need, computed once per prompt."""

    def __init__(self, model, prompt):
        self.model = model
        self._prompt = prompt
        self.keys, self.values = prompt["keys"].float(), prompt["values"].float()
        self.layers, _, self.tokens, _ = self.keys.shape
        self.candidates = slice(SINKS, self.tokens - WINDOW)
        self.num_candidates = self.tokens - SINKS - WINDOW
        self.attention_sum = prompt["attention_sum"]
        self._query_mean, self._query_covariance = prompt["query_mean"], prompt["query_covariance"]
        self.probabilities = lookahead.attention(model, prompt["queries"], self.keys, self.tokens)
        self._kept = {}

    def to_query_heads(self, x):
        return x.repeat_interleave(self.model.group, 1)

    def candidate_values(self):
        """[L, H, candidates, D]"""
        return self.to_query_heads(self.values[:, :, self.candidates])

    def once(self, key, compute):
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def observed(self, variant):
        """Attention rows that a variant counts, [L, H, rows, n]."""
        parts = [self.probabilities[:, :, -variant.queries:]] if variant.queries else []
        data = self.model, self._prompt, self.keys, self.values
        if variant.lookahead:
            parts.append(self.once(variant.lookahead, lambda: lookahead.branches(*data, *variant.lookahead)))
        if variant.gold:
            parts.append(self.once(("gold", variant.gold), lambda: lookahead.given(*data, variant.gold)))
        return torch.cat(parts, 2)

    def projected_norm(self):
        """|W_o V| of each candidate, [L, H, candidates], through the Gram matrix of each head's slice of W_o."""
        model, dim = self.model, self.model.head_dim
        slices = torch.stack([layer.output.view(-1, model.heads, dim).permute(1, 0, 2) for layer in model.layers])
        gram = slices.transpose(2, 3) @ slices
        values = self.candidate_values()
        return ((values @ gram) * values).sum(-1).clamp_min(0).sqrt()

    def expected_attention(self, with_covariance):
        """Attention that a Gaussian of the prompt's queries, turned to the next 512 positions, would pay."""
        model, ahead = self.model, torch.arange(self.tokens, self.tokens + 512)
        cos, sin = (table.mean(0) for table in llama.rope_tables(model, ahead))
        turn = llama.rotate(torch.eye(model.head_dim), (cos, sin))
        keys = self.to_query_heads(self.keys)
        scores = (keys @ (self._query_mean @ turn)[..., None])[..., 0] / math.sqrt(model.head_dim)
        if with_covariance:
            covariance = turn.T @ self._query_covariance @ turn
            scores = scores + ((keys @ covariance) * keys).sum(-1) / model.head_dim / 2
        return scores.softmax(-1)[..., self.candidates]


def per_query_head(observed, variant):
    """Scores [L, H, candidates], weighted and pooled; cached, since variants share them."""
    fields = ("base", "queries", "lookahead", "gold", "history", "value_weight", "weight_first", "pool", "pool_tokens")
    key = tuple(getattr(variant, field) for field in fields)
    return observed.once(key, lambda: _per_query_head(observed, variant))


def _per_query_head(observed, variant):
    shape = observed.layers, observed.model.heads, observed.num_candidates
    if variant.base == "streaming":
        return torch.arange(1.0, shape[2] + 1).expand(shape)
    if variant.base == "key_norm":
        return -observed.to_query_heads(observed.keys[:, :, observed.candidates].norm(dim=-1))
    scores = _attention_scores(observed, variant)
    if variant.history:
        scores = scores.clamp_min(1e-9) ** (1 - variant.history) * _mean_attention(observed) ** variant.history
    weight = _value_weight(observed, variant.value_weight)
    if variant.weight_first:
        return pool(scores * weight, variant.pool, variant.pool_tokens)
    return pool(scores, variant.pool, variant.pool_tokens) * weight


def _attention_scores(observed, variant):
    if variant.base == "expected":
        # The published form: a floor keeps large values visible where no attention is expected.
        return observed.once("expected", lambda: observed.expected_attention(True)) + 0.02
    if variant.base == "expected_mean":
        return observed.once("expected_mean", lambda: observed.expected_attention(False))
    assert variant.base == "attention" and variant.queries <= LAST_QUERIES
    return observed.observed(variant)[..., observed.candidates].mean(2)


def _mean_attention(observed):
    """Attention that a candidate got from all the queries that could see it, over their number."""
    visible_to = torch.arange(observed.tokens - SINKS, WINDOW, -1)
    return (observed.attention_sum[..., observed.candidates] / visible_to).clamp_min(1e-9)


def _value_weight(observed, kind):
    if kind == "norm":
        return observed.once("norm", lambda: observed.candidate_values().norm(dim=-1))
    if kind == "projected":
        return observed.once("projected", observed.projected_norm)
    assert not kind
    return 1.0


def pool(scores, kind, width):
    """Over the tokens; `width` is odd. The Gaussian's standard deviation is a quarter of its width."""
    if width == 1:
        return scores
    if kind == "max":
        return F.max_pool1d(scores, width, 1, width // 2)
    assert kind == "gauss"
    kernel = torch.exp(-0.5 * ((torch.arange(width) - width // 2) / (width / 4)) ** 2)
    flat = scores.reshape(-1, 1, scores.shape[-1])
    return F.conv1d(flat, (kernel / kernel.sum())[None, None], padding=width // 2).view_as(scores)


def importance(observed, variant):
    """[L, S, candidates]: S is the number of key-value heads, or 1 where the layer shares one token set."""
    scores = per_query_head(observed, variant)
    if not variant.per_kv_head:
        return _reduce(scores, variant.over_heads, 1)[:, None]
    grouped = scores.reshape(observed.layers, observed.model.kv_heads, observed.model.group, -1)
    scores = _reduce(grouped, variant.over_heads, 2)
    if variant.layer_mean:
        scores = scores + variant.layer_mean * scores.mean(1, keepdim=True)
    return scores


def _reduce(x, how, dim):
    if how == "sum":
        return x.sum(dim)
    if how == "max":
        return x.amax(dim)
    assert how == "rms"
    return x.square().sum(dim).sqrt()
