import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from fake_server import FakeServer, serving  # noqa: E402
from kvcrush_eval import cli, store  # noqa: E402


@pytest.fixture
def fake():
    return FakeServer()


@pytest.fixture
def target(fake):
    with serving(fake) as address:
        yield address


def _write_rows(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data_dir(tmp_path):
    """A data folder of two or so samples of everything, in the layout of the real one."""
    root = tmp_path / "data"
    for folder in ("longbench", "needle", "ppl"):
        (root / folder).mkdir(parents=True)

    def row(name: str, answers: list[str], **more) -> dict:
        return {"_id": name, "input": f"question {name} {{context}}", "context": f"context {name} {{input}}", "answers": answers,
                "all_classes": None, "prompt_tokens": 100, **more}

    from kvcrush_eval.metrics import DATASETS
    for dataset in DATASETS:
        _write_rows(root / f"longbench/{dataset}.jsonl", [])
    _write_rows(root / "longbench/qasper.jsonl", [row("q0", ["red fox", "fox"]), row("q1", ["blue"]), row("long", ["x"], prompt_tokens=9999)])
    _write_rows(root / "longbench/trec.jsonl", [row("t0", ["City"], all_classes=["City", "State"])])
    templates = {name: "Read {context}\nQ: {input}\nA:" for name in DATASETS}
    (root / "longbench/dataset2prompt.json").write_text(json.dumps(templates))
    (root / "longbench/dataset2maxlen.json").write_text(json.dumps(dict.fromkeys(DATASETS, 32)))
    _write_rows(root / "needle/niah_noise.jsonl", [
        {"_id": f"n{length}-{i}", "prompt": f"hay {i}", "answer_prefix": " number is", "answers": [f"77{i}"], "depth": depth,
         "target_tokens": length, "prompt_tokens": length} for length in (1000, 2000) for i, depth in enumerate((0.05, 0.95))])
    records = [[f"key{i}", f"value{i}"] for i in range(10)]
    _write_rows(root / "needle/kv_retrieval_75_keys.jsonl", [{"ordered_kv_records": records, "key": "key9", "value": "value9"}])
    (root / "ppl/book.txt").write_text("abcdefghij" * 1000)
    return root


@pytest.fixture
def evaluate(target, data_dir, tmp_path):
    """evaluate(*options): `run.py run` against the fake server; exit code and records."""
    def call(*options: str, out: str = "results.jsonl"):
        path = tmp_path / out
        code = cli.main(["run", "--server", target, "--data", str(data_dir), "--out", str(path), *options])
        return code, store.read(path)[1] if path.exists() else []

    return call
