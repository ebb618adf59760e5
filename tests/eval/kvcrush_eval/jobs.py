"""What one sample asks of the server, and how its answer is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

Prompt = str | list[dict[str, str]] | list[int]  # text, chat messages or token ids


@dataclasses.dataclass(frozen=True)
class Job:
    task: str
    dataset: str
    sample: str  # unique within task and dataset
    prompt: Prompt
    extra: dict = dataclasses.field(default_factory=dict, kw_only=True)  # goes into the result as it is


@dataclasses.dataclass(frozen=True)
class GenerateJob(Job):
    max_tokens: int
    score: Callable[[str], float] | None  # of the generated text; None: only bytes and speed matter
    stop_at_newline: bool = False  # only the first line that is not empty counts
    ignore_eos: bool = False
    one_variant_per_request: bool = False  # nothing else may run beside it


@dataclasses.dataclass(frozen=True)
class ScoreJob(Job):
    continuation: str | list[int] | None  # text is cut to max_continuation_tokens; None: what the full cache writes, greedily
    max_continuation_tokens: int
    compare_to_full: bool
