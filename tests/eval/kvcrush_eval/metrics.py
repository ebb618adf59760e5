"""LongBench's official metrics: a prediction against one gold answer, 0 to 1.

ROUGE-L is the PyPI package the official code uses. Its other package, fuzzywuzzy, computes `fuzz.ratio` with
difflib and rounds to whole percents, which is done here directly.
"""

from __future__ import annotations

import collections
import contextlib
import difflib
import functools
import re
import string
import sys
from collections.abc import Callable, Iterator, Sequence

from rouge import Rouge

FIRST_LINE_ONLY = frozenset({"trec", "triviaqa", "samsum"})
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ROUGE_RECURSION = 20000  # rouge walks an alignment recursively, one frame a word; Python's default is 1000


def _words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()


def qa_f1(prediction: str, gold: str) -> float:
    predicted, expected = _words(prediction), _words(gold)
    num_shared = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    return 2 * num_shared / (len(predicted) + len(expected)) if num_shared else 0.0


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _ROUGE_RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@functools.lru_cache(maxsize=4096)  # variants often agree word for word, and this is the slowest metric
def rouge_l(prediction: str, gold: str) -> float:
    try:
        with _deep_recursion():
            return Rouge(metrics=["rouge-l"], stats=["f"]).get_scores([prediction], [gold], avg=True)["rouge-l"]["f"]
    except ValueError:  # no word in one of the two; counted as 0 by the official code too
        return 0.0


def classification(prediction: str, gold: str, classes: Sequence[str]) -> float:
    named = [name for name in classes if name in prediction]
    named = [name for name in named if name == gold or name not in gold]
    return 1 / len(named) if gold in named else 0.0


def number_match(prediction: str, gold: str) -> float:
    """Share of the prediction's numbers that equal the gold's first number."""
    wanted = re.findall(r"\d+", gold)[0]
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(wanted) / len(numbers) if numbers else 0.0


def edit_ratio(first: str, second: str) -> float:
    if first == second:
        return 1.0
    if not first or not second:
        return 0.0
    return round(100 * difflib.SequenceMatcher(None, first, second).ratio()) / 100


def code_similarity(prediction: str, gold: str) -> float:
    lines = prediction.lstrip("\n").split("\n")
    code = next((line for line in lines if "`" not in line and "#" not in line and "//" not in line), "")
    return edit_ratio(code, gold)


METRICS: dict[str, Callable[[str, str], float]] = {
    "qasper": qa_f1, "multifieldqa_en": qa_f1, "hotpotqa": qa_f1, "2wikimqa": qa_f1, "triviaqa": qa_f1,
    "gov_report": rouge_l, "multi_news": rouge_l, "samsum": rouge_l,
    "passage_retrieval_en": number_match, "passage_count": number_match,
    "lcc": code_similarity, "repobench-p": code_similarity,
}
DATASETS = (*METRICS, "trec")


def longbench_score(dataset: str, prediction: str, answers: Sequence[str], classes: Sequence[str] | None) -> float:
    """The best score over the gold answers."""
    if dataset in FIRST_LINE_ONLY:
        prediction = prediction.lstrip("\n").split("\n")[0]
    if dataset == "trec":
        return max(classification(prediction, gold, classes or ()) for gold in answers)
    return max(METRICS[dataset](prediction, gold) for gold in answers)


def contains_answer(prediction: str, answers: Sequence[str]) -> float:
    return float(any(answer in prediction for answer in answers))
