import json
import math

import pytest

from kvcrush_eval import EvalError, plots, stats, tables
from kvcrush_eval.summary import Results, compare, summarise
from kvcrush_eval.variants import parse


def record(variant: str, task: str, sample: str, dataset: str = "qasper", **more) -> dict:
    return {"task": task, "dataset": dataset, "sample": sample, "variant": variant, "settings": parse(variant).settings,
            "kv_bytes_held": 25, "kv_bytes_full_16bit": 100, "prune_ms": 1.0, "applied": "snapkv f16", **more}


def probe(variant: str, sample: str, kl: float, held: int = 25) -> dict:
    return record(variant, "probe", sample, kl=kl, agreement=0.5, logprob=-2.0, full_logprob=-1.5, positions=3, kv_bytes_held=held)


RECORDS = [
    *(probe("full", str(i), 0.0, 100) for i in range(3)),
    *(probe("snapkv:0.25", str(i), kl) for i, kl in enumerate((0.1, 0.2, 0.4))),
    *(probe("default:0.25", str(i), kl, 20) for i, kl in enumerate((0.05, 0.1, 0.8))),
    probe("target:4", "0", 0.01), probe("target:4", "1", 0.02),
    *(record("full", "longbench", str(i), score=score) for i, score in enumerate((1.0, 0.5))),
    *(record("default:0.25", "longbench", str(i), score=score) for i, score in enumerate((0.8, 0.4))),
    *(record(v, "longbench", "t", dataset="trec", score=s) for v, s in (("full", 0.5), ("default:0.25", 0.5))),
    *(record(v, "needle", str(i), dataset="niah_1000", length=1000, depth=0.05 if i < 2 else 0.95, score=float(i in found))
      for v, found in (("full", (0, 1, 2, 3)), ("default:0.25", (0, 2, 3))) for i in range(4)),
    *(record(v, "ppl", str(i), positions=100, logprob=-loss) for v, losses in (("full", (1, 2)), ("default:0.25", (2, 2)))
      for i, loss in enumerate(losses)),
    *(record(v, "speed", str(i), dataset="speed_1000", ttft_ms=100, total_ms=600, completion_tokens=11)
      for v in ("full", "default:0.25", "default:0.5") for i in range(2)),
]


@pytest.fixture(scope="module")
def summary():
    return summarise(Results(RECORDS))


def test_probe_figures(summary):
    figures = summary["default:0.25"]["probe"]
    assert figures["bytes"].value == pytest.approx(0.2)
    assert figures["kl"].value == pytest.approx((0.05 + 0.1 + 0.8) / 3)
    assert figures["kl"].n == 3
    assert figures["kl_ratio_geometric"].value == pytest.approx((0.5 * 0.5 * 2) ** (1 / 3))
    assert figures["kl_ratio_of_means"].value == pytest.approx(0.95 / 0.7)
    assert figures["nll_increase"].value == pytest.approx(0.5)
    assert figures["agreement"].value == 0.5


def test_paired_figures_use_common_samples(summary):
    figures = summary["target:4"]["probe"]
    assert figures["kl"].n == figures["kl_ratio_geometric"].n == 2
    assert figures["kl_reference"] == "snapkv:0.25"
    assert figures["kl_ratio_of_means"].value == pytest.approx(0.1)


def test_reference_against_itself_is_exactly_one(summary):
    figures = summary["snapkv:0.25"]["probe"]["kl_ratio_geometric"]
    assert (figures.value, figures.low, figures.high) == (1, 1, 1)


def test_longbench_average_is_over_datasets(summary):
    assert summary["full"]["longbench"]["average"].value == pytest.approx((75 + 50) / 2)
    figures = summary["default:0.25"]["longbench"]
    assert figures["average"].value == pytest.approx((60 + 50) / 2)
    assert figures["drop"].value == pytest.approx(1 - 55 / 62.5)
    assert figures["datasets"]["trec"].value == 50
    assert summary["full"]["longbench"]["drop"].high == 0


def test_needle(summary):
    figures = summary["default:0.25"]["needle"]
    assert figures["found"].value == figures["of_full"].value * 100 == 75
    assert figures["grid"] == [{"length": 1000, "depth": 0.05, "found": 50.0, "n": 2}, {"length": 1000, "depth": 0.95, "found": 100.0, "n": 2}]


def test_perplexity(summary):
    assert summary["full"]["ppl"]["perplexity"].value == pytest.approx(math.exp(1.5))
    figures = summary["default:0.25"]["ppl"]["perplexity"]
    assert figures.value == pytest.approx(math.exp(2))
    assert figures.low == pytest.approx(figures.high)


def test_speed(summary):
    figures = summary["full"]["speed"]["speed_1000"]
    assert figures["tokens_per_s"].value == pytest.approx(10 / 0.5)
    assert figures["ttft_ms"].value == 100


def test_bootstrap_is_deterministic_and_sane():
    values = [float(i % 10) for i in range(200)]
    first = stats.mean(values)
    stats._resamples.cache_clear()
    assert stats.mean(values) == first
    assert first.low < first.value < first.high
    # A mean of 200 values of standard deviation 2.87: 1.96 * 2.87 / sqrt(200) = 0.398 either way.
    assert first.high - first.low == pytest.approx(0.796, rel=0.1)


def test_bootstrap_of_the_drop_is_paired():
    full = [[float(i) for i in range(1, 51)]]
    drop = stats.relative_drop([[0.9 * x for x in full[0]]], full)
    assert (drop.value, drop.low, drop.high) == pytest.approx((0.1, 0.1, 0.1))
    assert stats.relative_drop([[1.0]], [[0.0]]) is None


def test_strata_are_drawn_independently():
    # With one shared draw the two strata would cancel and the interval would vanish.
    up, down = [float(i) for i in range(50)], [float(49 - i) for i in range(50)]
    estimate = stats.macro_mean([up, down])
    assert estimate.high - estimate.low > 1


def test_compare():
    figures = compare(Results(RECORDS), "default:0.25", "snapkv:0.25")
    assert figures["ratio of mean KL"].value == pytest.approx(0.95 / 0.7)
    assert figures["ratio of mean KL"].low == pytest.approx(0.5)
    assert figures["ratio of mean KL"].high == pytest.approx(2)
    assert "ratio of mean KL" in tables.comparison(figures)
    with pytest.raises(EvalError, match="nothing:0.5"):
        compare(Results(RECORDS), "nothing:0.5", "full")


def test_tables(summary):
    text = tables.markdown(summary, {"model": "m"})
    row = next(line for line in text.split("\n") if line.startswith("| default:0.25 |"))
    assert row.split(" | ")[1:3] == ["0.2", "3"]
    for title in ("Teacher-forced probe", "LongBench", "Needle", "Perplexity", "Speed"):
        assert title in text
    loaded = json.loads(tables.as_json(summary, {"model": "m"}))
    assert loaded["variants"]["full"]["probe"]["kl"]["n"] == 3


def test_plots(summary, tmp_path):
    names = {path.name for path in plots.draw(summary, tmp_path / "plots")}
    assert names == {"frontier_kl.png", "longbench.png", "needle.png", "speed.png"}
    assert all((tmp_path / "plots" / name).stat().st_size > 5000 for name in names)
