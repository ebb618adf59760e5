import pytest

import timing


def test_tpot_leaves_out_the_first_token():
    assert timing.tpot_ms([1000, 1010, 1020, 1030]) == pytest.approx(10)
    assert timing.tpot_ms([1000]) == 0


def test_tpot_after_the_prune():
    assert timing.tpot_ms([1000, 1500, 1500, 1510, 1520], skip=2) == pytest.approx(10)
    assert timing.tpot_ms([1000, 1500, 1500], skip=2) == 0


def test_together_counts_only_while_all_decode():
    slow_start = [400, 410, 420, 430]
    early = [100, 200, 300, 400, 410, 420]
    # From 400 to 420 ms each has two tokens; what the early one had before does not count.
    assert timing.together_per_s([early, slow_start]) == pytest.approx(4 / 0.020)


def test_together_of_one_is_its_own_rate():
    assert timing.together_per_s([[100, 110, 120]]) == pytest.approx(100)


def test_never_together():
    assert timing.together_per_s([[100, 200], [300, 400]]) is None
