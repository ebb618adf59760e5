"""Figures from the times at which tokens were there, in ms from when their prompts were handed over."""

from __future__ import annotations

from collections.abc import Sequence


def tpot_ms(times_ms: Sequence[float], skip: int = 0) -> float:
    """Time per output token after the first `skip + 1`: by then a cache that is pruned after its prompt has been."""
    steps = len(times_ms) - 1 - skip
    return (times_ms[-1] - times_ms[skip]) / steps if steps > 0 else 0.0


def together_per_s(sequences: Sequence[Sequence[float]]) -> float | None:
    """Tokens a second of all sequences while all decode: from the last one's first token to the first one's last. None: never."""
    begin_ms, end_ms = max(times[0] for times in sequences), min(times[-1] for times in sequences)
    num_tokens = sum(begin_ms < time_ms <= end_ms for times in sequences for time_ms in times)
    return 1000 * num_tokens / (end_ms - begin_ms) if begin_ms < end_ms else None
