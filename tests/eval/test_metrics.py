import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge import Rouge

from kvcrush_eval import metrics


@pytest.mark.parametrize(("prediction", "gold", "expected"), [
    ("The red fox!", "a red, fox", 1.0),
    ("red fox", "red", 2 * 1 * 0.5 / 1.5),
    ("red red fox", "red fox fox", 2 / 3),
    ("dog", "cat", 0.0),
    ("", "cat", 0.0),
    ("the", "a", 0.0),
])
def test_qa_f1(prediction, gold, expected):
    assert metrics.qa_f1(prediction, gold) == pytest.approx(expected)


def test_rouge_l_by_hand():
    # Longest common subsequence "the cat sat": 3 of 4 words on either side.
    assert metrics.rouge_l("the cat sat here", "the cat sat down") == pytest.approx(0.75, abs=1e-6)


def test_rouge_l_is_the_package_of_the_official_code():
    prediction = "The report says that costs rose. It asks for a plan. Nothing else."
    gold = "Costs rose, the report says. A plan is asked for."
    assert metrics.rouge_l(prediction, gold) == Rouge().get_scores([prediction], [gold], avg=True)["rouge-l"]["f"]


@pytest.mark.parametrize("prediction", ["", " ", "...", "\n\n"])
def test_rouge_l_of_nothing_is_zero(prediction):
    assert metrics.rouge_l(prediction, "some words") == 0


def test_rouge_l_of_long_sentences():
    words = " ".join(f"w{i}" for i in range(900))
    assert metrics.rouge_l(words, words) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("prediction", "expected"), [
    ("City", 1.0), ("City or State", 0.5), ("Date", 0.0), ("Other City name", 1.0)])
def test_classification(prediction, expected):
    assert metrics.classification(prediction, "City", ["City", "State", "Date"]) == expected


def test_classification_drops_parts_of_the_gold():
    assert metrics.classification("Other location", "Other location", ["location", "Other location"]) == 1
    assert metrics.classification("Other location", "location", ["location", "Other location"]) == 0.5


@pytest.mark.parametrize(("prediction", "gold", "expected"), [
    ("Paragraph 6", "Paragraph 6", 1.0), ("6 or 16, say 6", "Paragraph 6", 2 / 3), ("none", "Paragraph 6", 0.0), ("16", "6", 0.0)])
def test_number_match(prediction, gold, expected):
    assert metrics.number_match(prediction, gold) == pytest.approx(expected)


def test_code_similarity_takes_the_first_line_of_code():
    assert metrics.code_similarity("\n```python\n# why\n// no\nreturn x\nmore", "return x") == 1
    assert metrics.code_similarity("# only a comment", "return x") == 0
    assert metrics.code_similarity("return y", "return x") == 0.88  # 7 of 8 letters match: 87.5, rounded to even


@given(st.text(max_size=40), st.text(max_size=40))
def test_edit_ratio_is_difflib_in_whole_percents(first, second):
    ratio = metrics.edit_ratio(first, second)
    assert ratio == pytest.approx(round(100 * ratio) / 100)
    if first and second:
        assert abs(ratio - difflib.SequenceMatcher(None, first, second).ratio()) <= 0.005 + 1e-9


@pytest.mark.parametrize(("dataset", "prediction", "expected"), [
    ("triviaqa", "\n\nfox\nwolf", 1.0),   # leading new lines go, then the first line counts
    ("qasper", "fox\nwolf", 2 / 3),       # here all of it does
])
def test_first_line_rule(dataset, prediction, expected):
    assert metrics.longbench_score(dataset, prediction, ["cat", "fox"], None) == pytest.approx(expected)


def test_best_of_the_answers():
    assert metrics.longbench_score("hotpotqa", "red fox", ["dog", "red", "red fox"], None) == 1
    assert metrics.longbench_score("trec", "City\nState", ["City"], ["City", "State"]) == 1
