"""Means and seeded bootstrap intervals over samples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

NUM_RESAMPLES = 2000
SEED = 20250301
KL_FLOOR = 1e-7  # nats; below it float32 rounding speaks, and a logarithm needs something


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict:
        return {"value": self.value, "ci95": [self.low, self.high], "n": self.n}


@functools.lru_cache(maxsize=64)
def _resamples(size: int, stratum: int) -> np.ndarray:
    """[NUM_RESAMPLES, size] indices; the same for every variant, so that differences are paired."""
    return np.random.default_rng([SEED, size, stratum]).integers(0, size, (NUM_RESAMPLES, size))


def _with_interval(value: float, draws: np.ndarray, n: int) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), n)


def mean(values: Sequence[float]) -> Estimate:
    x = np.asarray(values, dtype=float)
    return _with_interval(x.mean(), x[_resamples(len(x), 0)].mean(axis=1), len(x))


def ratio_of_sums(top: Sequence[float], bottom: Sequence[float]) -> Estimate:
    """Sum over sum of paired samples: of means too."""
    a, b = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    picks = _resamples(len(a), 0)
    return _with_interval(a.sum() / b.sum(), a[picks].sum(axis=1) / b[picks].sum(axis=1), len(a))


def geometric_mean_ratio(top: Sequence[float], bottom: Sequence[float]) -> Estimate:
    logs = np.log(np.maximum(top, KL_FLOOR)) - np.log(np.maximum(bottom, KL_FLOOR))
    return _with_interval(np.exp(logs.mean()), np.exp(logs[_resamples(len(logs), 0)].mean(axis=1)), len(logs))


def of_sums(top: Sequence[float], bottom: Sequence[float], function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """`function` of a ratio of sums; it must rise or fall throughout."""
    ratio = ratio_of_sums(top, bottom)
    low, high = sorted((float(function(ratio.low)), float(function(ratio.high))))
    return Estimate(float(function(ratio.value)), low, high, ratio.n)


def _macro_draws(strata: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of stratum means, per resample; each stratum is drawn by itself."""
    return np.mean([x[_resamples(len(x), i)].mean(axis=1) for i, x in enumerate(strata)], axis=0)


def macro_mean(strata: Sequence[Sequence[float]]) -> Estimate:
    """Mean of the strata's means (LongBench: datasets)."""
    arrays = [np.asarray(x, dtype=float) for x in strata]
    return _with_interval(np.mean([x.mean() for x in arrays]), _macro_draws(arrays), sum(map(len, arrays)))


def relative_drop(strata: Sequence[Sequence[float]], full: Sequence[Sequence[float]]) -> Estimate | None:
    """1 - macro mean / macro mean of the full cache on the same samples. None: the full cache scores 0."""
    ours = [np.asarray(x, dtype=float) for x in strata]
    theirs = [np.asarray(x, dtype=float) for x in full]
    baseline = np.mean([x.mean() for x in theirs])
    if baseline == 0:
        return None
    draws = _macro_draws(theirs)
    usable = draws > 0
    drop = 1 - _macro_draws(ours)[usable] / draws[usable]
    return _with_interval(1 - np.mean([x.mean() for x in ours]) / baseline, drop, sum(map(len, ours)))
