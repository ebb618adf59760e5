"""Results on disk, and tables from them.

Results: {row: {prompt: [KL, agreement, needle]}}. Ratios are paired: prompts that both rows have, drawn together.
"""

import json
import os
import pathlib

import torch

BOOTSTRAP_DRAWS = 4000
SMALLEST_KL = 1e-9


def load(path):
    path = pathlib.Path(path)
    return json.loads(path.read_text()) if path.exists() else {}


def save(path, results):
    """Whole or not at all: a run may be stopped at any time."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results))
    os.replace(partial, path)


def _interval(statistic, count):
    """5 % and 95 % quantiles of statistic(drawn prompt indices [draws, count])."""
    drawn = torch.randint(count, (BOOTSTRAP_DRAWS, count), generator=torch.Generator().manual_seed(0))
    return statistic(drawn).quantile(torch.tensor([0.05, 0.95])).tolist()


def _paired(row, base):
    names = [name for name in base if name in row]
    return [torch.tensor([source[name][0] for name in names]) for source in (row, base)]


def ratio_of_means(row, base):
    """(mean KL over mean KL of base, low, high)"""
    kl, base_kl = _paired(row, base)
    low, high = _interval(lambda drawn: kl[drawn].mean(1) / base_kl[drawn].mean(1), len(kl))
    return (kl.mean() / base_kl.mean()).item(), low, high


def mean_of_ratios(row, base):
    """(geometric mean over prompts of KL over KL of base, low, high)"""
    kl, base_kl = _paired(row, base)
    logs = (kl.clamp_min(SMALLEST_KL) / base_kl.clamp_min(SMALLEST_KL)).log()
    low, high = _interval(lambda drawn: logs[drawn].mean(1).exp(), len(logs))
    return logs.mean().exp().item(), low, high


def _mean(row, column):
    values = [measured[column] for measured in row.values()]
    return sum(values) / len(values)


def _span(ratio):
    return "{:.2f} ({:.2f}-{:.2f})".format(*ratio)


def _needles(row):
    asked = [measured[2] for measured in row.values() if measured[2] >= 0]
    return f"{sum(asked)}/{len(asked)}"


def _head(*columns):
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def quantise_table(results, bits, baseline):
    """`bits`: {scheme: (K, V) per element}"""
    lines = _head("scheme", "bits K / V", "prompts", "mean KL", "ratio, geometric", "agreement")
    for name, row in results.items():
        keys, values = bits[name]
        ratio = _span(mean_of_ratios(row, results[baseline]))
        lines.append(f"| {name} | {keys:.2f} / {values:.2f} | {len(row)} | {_mean(row, 0):.5f} | {ratio} "
                     f"| {_mean(row, 1):.3f} |")
    return "\n".join(lines)


def drift_table(results, schemes):
    lines = _head("scheme", "prompts", "KL once", "KL after all prunes", "ratio, geometric", "agreement once / after")
    for name in schemes:
        once, after = results[f"{name}, once"], results[f"{name}, after"]
        lines.append(f"| {name} | {len(once)} | {_mean(once, 0):.5f} | {_mean(after, 0):.5f} "
                     f"| {_span(mean_of_ratios(after, once))} | {_mean(once, 1):.3f} / {_mean(after, 1):.3f} |")
    return "\n".join(lines)


def row_name(variant, fraction):
    return f"{variant}@{fraction}"


def select_table(results, group, baseline):
    lines = _head("variant", "kept", "prompts", "mean KL", f"ratio to {baseline}", "agreement", "needles")
    for variant in group.variants:
        for fraction in group.fractions:
            row, base = (results.get(row_name(name, fraction), {}) for name in (variant, baseline))
            if row and base:
                lines.append(f"| {variant} | {fraction:.1%} | {len(row)} | {_mean(row, 0):.4f} "
                             f"| {_span(ratio_of_means(row, base))} | {_mean(row, 1):.3f} | {_needles(row)} |")
    return "\n".join(lines)


def random_table(results, group):
    """Each representative rule against the mean of the random seeds of the same share, prompt by prompt."""
    lines = _head("variant", "kept", "ratio to random tokens")
    for variant in group.variants:
        rule, _, share = variant.rpartition(" ")
        if not rule.endswith(("first", "best")):
            continue
        for fraction in group.fractions:
            seeds = [results[row_name(f"ours, random{seed} {share}", fraction)] for seed in (1, 2, 3)]
            mean = {name: [sum(row[name][0] for row in seeds) / len(seeds)] for name in seeds[0]}
            ratio = ratio_of_means(results[row_name(variant, fraction)], mean)
            lines.append(f"| {variant} | {fraction:.1%} | {_span(ratio)} |")
    return "\n".join(lines)
