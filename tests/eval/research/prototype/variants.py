"""Named selection variants and the groups of them that one table compares."""

import dataclasses

from .scores import Variant

SNAPKV = Variant()
PAPER = Variant(representative_share=0.25, representatives="first")
# The base of the first rounds, and what it grew into.
EARLY = Variant(per_kv_head=True, pool_tokens=15, value_weight="projected")
SIMPLE = dataclasses.replace(EARLY, weight_first=True, layer_mean=1.0)
OURS = dataclasses.replace(SIMPLE, queries=16, pool="gauss", pool_tokens=21)
RISING = dataclasses.replace(OURS, layer_budgets=(0.5, 1.5))
BLIND = dataclasses.replace(RISING, value_weight="norm")  # the server's, but for the lookahead


def _ours(**changes):
    return dataclasses.replace(OURS, **changes)


def _representatives():
    rules = ("first", "best", "random1", "random2", "random3")
    return {f"ours, {rule} {share}": _ours(representative_share=share, representatives=rule)
            for share in (0.25, 0.1) for rule in rules}


def _bases():
    rows = {}
    for base in ("streaming", "key_norm"):
        plain = Variant(base=base)
        rows[base] = plain
        for rule in ("first", "random1"):
            rows[f"{base}, {rule} 0.25"] = dataclasses.replace(plain, representative_share=0.25, representatives=rule)
    return rows


@dataclasses.dataclass(frozen=True)
class Group:
    about: str
    variants: dict  # name -> Variant
    fractions: tuple  # of the prompt's tokens that stay
    baselines: tuple = ("snapkv",)  # one table each


GROUPS = {
    "ours": Group(
        "the published method and ours against SnapKV; budgets that rise over layers against uniform ones",
        {"snapkv": SNAPKV, "paper": PAPER, "ours": OURS, "ours, rising": RISING}, (0.75, 0.5, 0.25, 0.125),
        ("snapkv", "ours")),
    "heads": Group(
        "budgets per key-value head: equal or adaptive",
        {"snapkv": SNAPKV, "ours": OURS, "ours, adaptive, floor 0.5": _ours(head_floor=0.5),
         "ours, adaptive, floor 0.2": _ours(head_floor=0.2), "ours, rising": RISING}, (0.25, 0.125)),
    "pyramid": Group(
        "budgets that fall over layers, on the simpler base of an earlier round",
        {"snapkv": SNAPKV, "simple": SIMPLE,
         "simple, pyramid": dataclasses.replace(SIMPLE, layer_budgets=(1.5, 0.5))}, (0.25, 0.125)),
    "lookahead": Group(
        "queries of likely continuations beside the prompt's last: (branches x tokens)",
        {"snapkv": SNAPKV, "no lookahead": BLIND,
         **{f"{count} x {tokens}": dataclasses.replace(BLIND, lookahead=(count, tokens))
            for count, tokens in ((1, 8), (1, 16), (1, 32), (2, 4), (2, 8), (4, 4), (8, 1))},
         "gold answer's 8": dataclasses.replace(BLIND, queries=0, gold=8)}, (0.25, 0.125)),
    "expected": Group(
        "expected attention, published and its best form",
        {"snapkv": SNAPKV, "expected": Variant(base="expected", pool_tokens=1, value_weight="norm", per_kv_head=True),
         "expected, mean only": dataclasses.replace(EARLY, base="expected_mean")}, (0.5, 0.25, 0.125)),
    "representatives": Group(
        "KVCrush representatives and random tokens on top of ours",
        {"ours": OURS, **_representatives()}, (0.5, 0.25, 0.125), ("ours",)),
    "bases": Group(
        "representatives on top of poor base policies",
        {"snapkv": SNAPKV, **_bases()}, (0.75, 0.5, 0.25, 0.125), ("snapkv", "streaming", "key_norm")),
    "details": Group(
        "single changes of ours: queries observed, weights, reductions, accumulated attention, recency",
        {"snapkv": SNAPKV, "ours": OURS, "early": EARLY, "early, 64 queries": dataclasses.replace(EARLY, queries=64),
         "ours, norm of V": _ours(value_weight="norm"), "ours, no weight": _ours(value_weight=""),
         "ours, 32 queries": _ours(queries=32), "ours, max over heads": _ours(over_heads="max"),
         "ours, rms over heads": _ours(over_heads="rms"), "ours, accumulated 0.15": _ours(history=0.15),
         "ours, recent 0.1": _ours(representative_share=0.1, representatives="recent")}, (0.25, 0.125),
        ("snapkv", "ours")),
}
