"""From records to figures per variant."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kvcrush_eval import EvalError, stats
from kvcrush_eval.stats import Estimate
from kvcrush_eval.variants import Variant, restore

FULL = "full"
REFERENCE_POLICY = "snapkv"   # in 16 bit, at the variant's own budget
REFERENCE_BUDGET = "0.25"     # where the variant has no budget
Sample = tuple[str, str]      # dataset, sample


class Results:
    """Records by variant and task."""

    def __init__(self, records: Iterable[dict]) -> None:
        self.variants: dict[str, Variant] = {}
        self._records: dict[tuple[str, str], dict[Sample, dict]] = collections.defaultdict(dict)
        for record in records:
            name = record["variant"]
            if name not in self.variants:
                self.variants[name] = restore(name, record["settings"])
            self._records[name, record["task"]][record["dataset"], record["sample"]] = record
        if not self.variants:
            raise EvalError("the results file holds no result yet")

    def of(self, variant: str, task: str) -> Mapping[Sample, dict]:
        return self._records.get((variant, task), {})

    def column(self, variant: str, task: str, field: str) -> dict[Sample, float]:
        return {key: record[field] for key, record in self.of(variant, task).items() if field in record}

    def paired(self, task: str, field: str, first: str, second: str) -> tuple[list[float], list[float], list[Sample]]:
        """The field of both variants on the samples that both have."""
        a, b = self.column(first, task, field), self.column(second, task, field)
        common = sorted(a.keys() & b.keys())
        return [a[key] for key in common], [b[key] for key in common], common


def _strata(values: Sequence[float], keys: Sequence[Sample]) -> list[list[float]]:
    by_dataset: dict[str, list[float]] = collections.defaultdict(list)
    for value, (dataset, _) in zip(values, keys):
        by_dataset[dataset].append(value)
    return [by_dataset[name] for name in sorted(by_dataset)]


def bytes_ratio(results: Results, variant: str, task: str) -> Estimate | None:
    """KV bytes held over those of a full 16-bit cache."""
    rows = [r for _, r in sorted(results.of(variant, task).items()) if "kv_bytes_held" in r]
    if not rows:
        return None
    return stats.ratio_of_sums([r["kv_bytes_held"] for r in rows], [r["kv_bytes_full_16bit"] for r in rows])


def reference_of(results: Results, variant: Variant) -> str | None:
    budget = REFERENCE_BUDGET if variant.budget is None else str(variant.budget)
    name = f"{REFERENCE_POLICY}:{budget}"
    return name if name in results.variants else None


def _probe(results: Results, variant: Variant, task: str) -> dict:
    name = variant.name
    kl = results.column(name, task, "kl")
    if not kl:
        return {}
    keys = sorted(kl)
    rows = results.of(name, task)
    figures = {
        "bytes": bytes_ratio(results, name, task),
        "kl": stats.mean([kl[key] for key in keys]),
        "agreement": stats.mean([rows[key]["agreement"] for key in keys]),
        "nll_increase": stats.mean([rows[key]["full_logprob"] - rows[key]["logprob"] for key in keys]),
        "prune_ms": stats.mean([rows[key]["prune_ms"] for key in keys]),
    }
    if (reference := reference_of(results, variant)) is not None:
        ours, theirs, common = results.paired(task, "kl", name, reference)
        if common and max(ours) > stats.KL_FLOOR:  # a full cache has no ratio to tell
            figures["kl_ratio_geometric"] = stats.geometric_mean_ratio(ours, theirs)
            figures["kl_ratio_of_means"] = stats.ratio_of_sums(ours, theirs) if sum(theirs) > 0 else None
            figures["kl_reference"] = reference
    return figures


def _longbench(results: Results, name: str) -> dict:
    scores = results.column(name, "longbench", "score")
    if not scores:
        return {}
    keys = sorted(scores)
    by_dataset: dict[str, list[float]] = collections.defaultdict(list)
    for key in keys:
        by_dataset[key[0]].append(100 * scores[key])
    figures = {
        "bytes": bytes_ratio(results, name, "longbench"),
        "average": stats.macro_mean(_strata([100 * scores[key] for key in keys], keys)),
        "datasets": {dataset: stats.mean(values) for dataset, values in sorted(by_dataset.items())},
    }
    ours, full, common = results.paired("longbench", "score", name, FULL)
    if common:
        figures["drop"] = stats.relative_drop(_strata(ours, common), _strata(full, common))
    return figures


def _retrieval(results: Results, name: str, task: str) -> dict:
    scores = results.column(name, task, "score")
    if not scores:
        return {}
    figures = {"bytes": bytes_ratio(results, name, task), "found": stats.mean([100 * scores[key] for key in sorted(scores)])}
    ours, full, common = results.paired(task, "score", name, FULL)
    if common and sum(full) > 0:
        figures["of_full"] = stats.ratio_of_sums(ours, full)
    if task == "needle":
        grid: dict[tuple[int, float], list[float]] = collections.defaultdict(list)
        for record in results.of(name, task).values():
            grid[record["length"], record["depth"]].append(100 * record["score"])
        figures["grid"] = [{"length": length, "depth": depth, "found": sum(v) / len(v), "n": len(v)}
                           for (length, depth), v in sorted(grid.items())]
    return figures


def _ppl(results: Results, name: str) -> dict:
    rows = [record for _, record in sorted(results.of(name, "ppl").items())]
    if not rows:
        return {}
    losses, counts = [-r["logprob"] * r["positions"] for r in rows], [r["positions"] for r in rows]
    return {"bytes": bytes_ratio(results, name, "ppl"), "perplexity": stats.of_sums(losses, counts, np.exp)}


def _speed(results: Results, name: str) -> dict:
    by_length: dict[str, list[dict]] = collections.defaultdict(list)
    for (dataset, _), record in sorted(results.of(name, "speed").items()):
        by_length[dataset].append(record)
    figures = {}
    for dataset, rows in by_length.items():
        decode_s = [(r["total_ms"] - r["ttft_ms"]) / 1000 for r in rows]
        figures[dataset] = {
            "tokens_per_s": stats.ratio_of_sums([r["completion_tokens"] - 1 for r in rows], decode_s),
            "ttft_ms": stats.mean([r["ttft_ms"] for r in rows]),
        }
        held = [r["kv_bytes_held"] for r in rows if "kv_bytes_held" in r]
        if held:
            figures[dataset]["kv_bytes_held"] = stats.mean(held)
    return figures


def summarise(results: Results) -> dict[str, dict]:
    """Per variant: method, budget, dtype, and the figures of each task it was measured in."""
    summary = {}
    for name, variant in results.variants.items():
        applied = {r["applied"] for task in ("probe", "longbench", "needle") for r in results.of(name, task).values()}
        entry = {"method": variant.method, "budget": variant.budget, "dtype": variant.dtype, "settings": variant.settings,
                 "applied": sorted(applied), "probe": _probe(results, variant, "probe"), "own": _probe(results, variant, "own"),
                 "longbench": _longbench(results, name),
                 "needle": _retrieval(results, name, "needle"), "kv_retrieval": _retrieval(results, name, "kv_retrieval"),
                 "ppl": _ppl(results, name), "speed": _speed(results, name)}
        summary[name] = entry
    return summary


def compare(results: Results, first: str, second: str) -> dict[str, Estimate]:
    """Paired figures of two variants on the samples that both have. EvalError: one is not in the file."""
    for name in (first, second):
        if name not in results.variants:
            raise EvalError(f"variant {name!r} is not in the results; there are: {', '.join(results.variants)}")
    figures = {}
    ours, theirs, common = results.paired("probe", "kl", first, second)
    if common:
        figures[f"mean KL of {first}"] = stats.mean(ours)
        figures[f"mean KL of {second}"] = stats.mean(theirs)
        if sum(theirs) > 0:
            figures["ratio of mean KL"] = stats.ratio_of_sums(ours, theirs)
        figures["geometric mean of KL ratios"] = stats.geometric_mean_ratio(ours, theirs)
        ours, theirs, _ = results.paired("probe", "agreement", first, second)
        figures["agreement, difference"] = stats.mean(np.subtract(ours, theirs))
    ours, theirs, common = results.paired("longbench", "score", first, second)
    if common:
        figures["LongBench average, difference"] = stats.macro_mean(_strata(100 * np.subtract(ours, theirs), common))
    ours, theirs, common = results.paired("needle", "score", first, second)
    if common:
        figures["needles found, difference in %"] = stats.mean(100 * np.subtract(ours, theirs))
    if not figures:
        raise EvalError(f"{first} and {second} have no sample in common")
    return figures
