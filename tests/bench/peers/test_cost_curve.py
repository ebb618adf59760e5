"""The arithmetic of cost_curve.py; what it measures needs a server and minutes."""

import types

import cost_curve
import pytest


def test_growth_of_a_line_is_one():
    assert cost_curve.growth([512, 1024, 4096], [1.0, 2.0, 8.0]) == pytest.approx([1.0, 1.0])


def test_growth_of_a_square_rises():
    at = [1, 2, 3, 4]
    found = cost_curve.growth(at, [x * x for x in at])
    assert found == pytest.approx([0.6, 1.0, 1.4])


def test_nothing_grows():
    assert cost_curve.growth([1, 2, 4], [5.0, 5.0, 4.0]) == [0.0, 0.0]


def test_figures_of_one_request():
    times = [1000.0 + 10 * i for i in range(cost_curve.speed.NEW_TOKENS)]
    full = types.SimpleNamespace(kv_bytes_full_16bit=8 * 2**20, compression_ratio=4.0)
    found = cost_curve.figures(cost_curve.Point("context", 500), {"times_ms": [times], "reports": [full]})
    assert found == {"kv_mib": 2.0, "prefill_us_per_token": 2000.0, "tpot_ms": pytest.approx(10.0)}


def test_figures_of_a_batch():
    times = [[1000.0 + 10 * i for i in range(cost_curve.speed.NEW_TOKENS)]] * 4
    found = cost_curve.figures(cost_curve.Point("batch", 4), {"times_ms": times, "reports": []})
    assert found["step_ms"] == pytest.approx(10.0)
    assert found["together_per_s"] == pytest.approx(400.0)
    assert found["kv_mib"] == 0


def test_tables_have_a_line_for_each_point():
    records = [{"round": 0, "axis": "context", "at": at, "row": row, "tpot_ms": at / 100, "kv_mib": 1.0, "prefill_us_per_token": 300.0}
               for at in (512, 1024, 2048) for row in cost_curve.ROWS]
    curves = cost_curve.summarise(records)
    meta = {"date": "2026-01-01", "machine": "m", "model": "f", "threads": 2, "batch_tokens": 512, "load_average": "0", "load_average_after": "0",
            "command": "c", "notes": []}
    text = cost_curve.markdown(curves, meta, "x.png")
    assert "| 2048 | 300 (300-300) | 300 (300-300) | 20.5 (20.5-20.5) |" in text
    assert "| context | time per output token | full | 1.00, 1.00 |" in text
