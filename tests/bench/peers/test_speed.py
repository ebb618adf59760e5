import argparse

import pytest

import report
import speed
import speed_report
from kvcrush_eval import EvalError, variants

POINTS = ["512", "memory"]
ENGINES = {"engines": {"OpenVINO": {"version": "2"}, "llama.cpp": {"version": "1", "system": "AMX_INT8 = 1"}, "ours": {"version": "3"}}}
ABOUT = {**ENGINES, "date": "D", "machine": "M", "model": "G", "threads": 2, "batch_tokens": 512, "server_flags": "", "load_average": "0",
         "load_average_after": "1", "command": "C", "notes": ["Something else ran."], "method": ["so"]}


def record(turn: int, row: str, point: str = "512", **figures) -> dict:
    of_row = speed.ROWS[row]
    return {"round": turn, "row": row, "engine": of_row.engine, "cache": of_row.cache, "point": point, "num_sequences": 1, **figures}


def timed(turn: int, row: str, decode_per_s: float) -> dict:
    return record(turn, row, ttft_ms=1000, prefill_per_s=512, tpot_ms=1000 / decode_per_s, decode_per_s=decode_per_s, together_per_s=decode_per_s)


RECORDS = [
    record(0, "ours bf16", "memory", peak_rss_bytes=300, rss_bytes=200), record(0, "OpenVINO f16", "memory", peak_rss_bytes=600, rss_bytes=200),
    record(0, "llama.cpp f16", "memory", peak_rss_bytes=150, rss_bytes=100), record(0, "ours pruned", "memory", peak_rss_bytes=150, rss_bytes=100),
    # Round 1 is twice as slow for all: ratios within a round do not see it. llama.cpp is the best peer of round 0, OpenVINO of round 1.
    timed(0, "ours bf16", 60), timed(0, "llama.cpp f16", 40), timed(0, "llama.cpp f16 no-flash", 30), timed(0, "OpenVINO f16", 20),
    timed(1, "ours bf16", 30), timed(1, "llama.cpp f16", 10), timed(1, "llama.cpp f16 no-flash", 15), timed(1, "OpenVINO f16", 20),
    timed(0, "ours pruned", 120), timed(1, "ours pruned", 60), timed(0, "OpenVINO pruned", 10), timed(1, "OpenVINO pruned", 10),
]


def ratio(summary: dict, point: str, row: str, figure: str) -> dict:
    return next(r["over"] for r in summary["ratios"] if (r["point"], r["row"], r["figure"]) == (point, row, figure))


@pytest.fixture
def summary():
    return speed_report.summarise(RECORDS, list(speed.ROWS), POINTS)


def test_ratios_are_taken_within_a_round_over_each_peers_best_row(summary):
    over = ratio(summary, "512", "ours bf16", "decode_per_s")
    assert over["llama.cpp"] == report.spread([60 / 40, 30 / 15])
    assert over["OpenVINO"] == report.spread([60 / 20, 30 / 20])
    assert over["best peer"] == report.spread([60 / 40, 30 / 20])


def test_rows_are_compared_with_rows_of_the_same_cache(summary):
    over = ratio(summary, "512", "ours pruned", "decode_per_s")
    assert set(over) == {"OpenVINO", "best peer"}
    assert over["OpenVINO"]["median"] == pytest.approx(9)


def test_of_memory_the_smallest_peer_is_best(summary):
    assert ratio(summary, "memory", "ours bf16", "peak_rss_bytes")["best peer"]["median"] == pytest.approx(2)


def test_pruning_is_measured_against_the_engines_own_full_cache(summary):
    found = {(p["point"], p["row"]): p for p in summary["pruning"]}
    assert found["512", "ours pruned"]["base"] == "ours bf16"
    assert found["512", "ours pruned"]["tpot_ms"] == report.spread([0.5, 0.5])
    assert found["512", "OpenVINO pruned"]["tpot_ms"] == report.spread([2, 2])
    assert found["memory", "ours pruned"]["peak_rss_bytes"]["median"] == pytest.approx(0.5)


def test_report_and_picture(summary, tmp_path):
    text = speed_report.markdown(summary, ABOUT, "x.png")
    assert "| 512 | ours bf16 | 1000 (1000-1000) | 512 (512-512) | 25.0 (16.7-33.3) | 45.0 (30.0-60.0) | 2 |" in text
    assert "| 512 | decode | ours pruned | 9.00 (6.00-12.00) | - | 9.00 (6.00-12.00) |" in text
    assert "Something else ran." in text and "AMX_INT8 = 1" in text
    speed_report.draw(summary, list(speed.ROWS), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_only_what_was_measured_is_reported():
    summary = speed_report.summarise([record(0, "ours bf16", "memory", peak_rss_bytes=2**20, rss_bytes=2**20)], ["ours bf16"], POINTS)
    text = speed_report.markdown(summary, ABOUT, "x.png")
    assert "| ours bf16 | 1 (1-1) | 1 (1-1) |" in text
    assert "One request" not in text and "Ratios" not in text


def test_figures_of_one_request():
    times = [100.0] + [200.0] * speed.STEADY_AFTER + [200.0 + 5 * i for i in range(1, speed.NEW_TOKENS - speed.STEADY_AFTER)]
    found = speed.figures(speed.POINTS["512"], [times])
    assert found["prefill_per_s"] == pytest.approx(5120)
    assert (found["tpot_ms"], found["decode_per_s"]) == (pytest.approx(5), pytest.approx(200))
    assert "together_per_s" not in speed.figures(speed.POINTS["2048"], [times])


def test_figures_of_a_batch():
    times = [10.0 * i for i in range(1, speed.NEW_TOKENS + 1)]
    assert speed.figures(speed.POINTS["batch 4"], [times] * 4) == {"together_per_s": pytest.approx(400)}


def test_missing_tokens_are_no_figures():
    with pytest.raises(EvalError, match="--kv-memory"):
        speed.figures(speed.POINTS["128"], [[1.0, 2.0]])


def test_default_plan_leaves_optional_rows_out():
    plan = speed.chosen([])
    assert list(plan) == list(speed.EVERYWHERE)
    assert plan["6000"] == ["ours bf16", "llama.cpp f16", "llama.cpp f16 no-flash", "OpenVINO f16", "ours int8", "OpenVINO u8", "ours pruned",
                            "ours pruned no-lookahead", "OpenVINO pruned"]


def test_patterns_choose_rows_and_points():
    assert speed.chosen(["*no-flash/128", "ours int8/*"]) == {
        "128": ["llama.cpp f16 no-flash"], **{point: ["ours int8"] for point in ("6000", "batch 8", "memory")}}
    assert speed.chosen(["nothing"]) == {}


def test_prompts_begin_differently():
    prompts = speed.Prompts(lambda text: list(text.encode()))
    taken = [*prompts.take(16, 600), *prompts.take(1, 600)]
    assert {len(ids) for ids in taken} == {600}
    assert len({tuple(ids[:16]) for ids in taken}) == len(taken)


def test_our_rows_are_settings_of_the_server():
    for row in speed.ROWS.values():
        if row.engine == "ours":
            variants.parse(row.setting(argparse.Namespace()))
