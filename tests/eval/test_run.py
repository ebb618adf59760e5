"""Every task from the command line against the fake server."""

import json

import grpc
import pytest

from kvcrush_eval import cli, data
from kvcrush_eval.stubs import pb


def by_key(records: list[dict], *fields: str) -> dict:
    return {tuple(r[f] for f in fields): r for r in records}


def test_longbench(fake, evaluate):
    fake.reply = lambda prompt, variant, request: "fox" if variant.policy == pb.BASE_POLICY_OFF else "City\nState"
    code, records = evaluate("--tasks", "longbench", "--variants", "full", "snapkv:0.5")
    assert code == 0
    scores = {key: r["score"] for key, r in by_key(records, "sample", "variant").items()}
    assert scores == {("q0", "full"): 1, ("q1", "full"): 0, ("t0", "full"): 0,
                      ("q0", "snapkv:0.5"): 0, ("q1", "snapkv:0.5"): 0, ("t0", "snapkv:0.5"): 1}
    one = by_key(records, "sample", "variant")["q0", "snapkv:0.5"]
    assert one["kv_bytes_held"] * 2 == one["kv_bytes_full_16bit"]
    assert one["applied"] == "snapkv f16 share 0"


def test_longbench_prompts(fake, evaluate):
    evaluate("--tasks", "longbench", "--variants", "full")
    requests = {request.WhichOneof("prompt"): request for request in fake.generate_requests}
    # Braces in a sample are text, not places to fill.
    assert requests["text"].text == "Read context t0 {input}\nQ: question t0 {context}\nA:"
    assert requests["chat"].chat.messages[0].role == "user"
    assert (requests["text"].sampling.temperature, requests["text"].sampling.max_tokens) == (0, 32)
    assert list(requests["text"].sampling.stop) == ["\n"]
    assert list(requests["chat"].sampling.stop) == []


def test_a_text_that_opens_with_a_new_line_is_asked_for_again(fake, evaluate):
    fake.reply = lambda prompt, variant, request: "\n\nCity\nState" if variant.policy == pb.BASE_POLICY_OFF else "State\n"
    _, records = evaluate("--tasks", "longbench", "--datasets", "trec", "--variants", "full", "snapkv:0.5")
    assert [r["score"] for r in records] == [1, 0]
    assert [len(request.variants) for request in fake.generate_requests] == [2, 1]
    assert records[0]["text"] == "\n\nCity"
    assert all(len(request.sampling.stop) <= 16 for request in fake.generate_requests)  # more are refused


def test_needle(fake, evaluate):
    fake.reply = lambda prompt, variant, request: " 770."
    code, records = evaluate("--tasks", "needle", "--variants", "full", "--max-prompt-tokens", "1500")
    assert code == 0
    assert {(r["sample"], r["depth"], r["length"], r["score"]) for r in records} == {("n1000-0", 0.05, 1000, 1), ("n1000-1", 0.95, 1000, 0)}
    assert fake.generate_requests[0].text == "hay 0 number is"


def test_kv_retrieval(fake, evaluate):
    fake.reply = lambda prompt, variant, request: 'value9"'
    _, records = evaluate("--tasks", "kv_retrieval", "--variants", "full", "--kv-keys", "4")
    assert [r["score"] for r in records] == [1]
    prompt = fake.generate_requests[0].text
    assert '"key6": "value6"' in prompt and "key5" not in prompt and prompt.count('"key9"') == 2


def test_kv_retrieval_says_when_the_prompt_is_too_long(evaluate, capsys):
    assert evaluate("--tasks", "kv_retrieval", "--variants", "full", "--max-prompt-tokens", "20")[0] == 2
    assert "--kv-keys" in capsys.readouterr().err


@pytest.mark.parametrize(("wanted", "expected"), [(0, [0, 1, 2]), (9, [7, 8, 9]), (5, [4, 5, 6])])
def test_kept_keys_surround_the_wanted_one(wanted, expected):
    assert data.keep_keys(list(range(10)), wanted, 3) == expected
    assert data.keep_keys(list(range(10)), wanted, 99) == list(range(10))


def test_probe(fake, evaluate):
    code, records = evaluate("--tasks", "probe", "--variants", "full", "snapkv:0.5", "full:int4")
    assert code == 0
    found = by_key(records, "sample", "variant")
    assert len(found) == 3 * (3 + 4)
    one = found["q0", "snapkv:0.5"]
    assert (one["kl"], one["logprob"], one["full_logprob"]) == pytest.approx((0.1, -1.1, -1), abs=1e-6)
    assert one["positions"] == len("red fox") - 1
    assert one["agreement"] == 0.5
    assert found["q0", "full"]["kl"] == 0
    continuations = {bytes(r.continuation_token_ids.ids) for r in fake.score_requests}
    assert {b"red fox", b" City", b" 770"} <= continuations
    assert all(r.compare_to_full for r in fake.score_requests)


def test_a_one_token_answer_is_followed_by_the_end_token(fake, evaluate, data_dir):
    rows = [{"_id": "c", "input": "", "context": "", "answers": ["6"], "all_classes": None, "prompt_tokens": 9}]
    (data_dir / "longbench/passage_count.jsonl").write_text(json.dumps(rows[0]) + "\n")
    _, records = evaluate("--tasks", "probe", "--datasets", "passage_count", "--variants", "full")
    assert list(fake.score_requests[0].continuation_token_ids.ids) == [ord("6"), 2]
    assert records[0]["positions"] == 1


def test_own_scores_what_the_full_cache_writes(fake, evaluate):
    fake.reply = lambda prompt, variant, request: "own words" if variant.policy == pb.BASE_POLICY_OFF else "others"
    code, records = evaluate("--tasks", "own", "--variants", "snapkv:0.5", "--own-tokens", "20")
    assert code == 0 and len(records) == 3 + 4
    assert {bytes(r.continuation_token_ids.ids) for r in fake.score_requests} == {b"own words"}
    assert {(len(r.variants), r.sampling.max_tokens, r.sampling.temperature) for r in fake.generate_requests} == {(1, 20, 0)}
    assert {r["task"] for r in records} == {"own"} and records[0]["kl"] == pytest.approx(0.1)


def test_ppl(fake, evaluate):
    code, records = evaluate("--tasks", "ppl", "--variants", "full", "snapkv:0.5", "--ppl-prompt-tokens", "100", "--ppl-tokens", "900",
                             "--ppl-windows", "3")
    assert code == 0
    assert [r["sample"] for r in records[::2]] == ["0+100+900", "4500+100+900", "9000+100+900"]
    assert {r["positions"] for r in records} == {899}
    first = fake.score_requests[0]
    assert (len(first.token_ids.ids), len(first.continuation_token_ids.ids), first.compare_to_full) == (100, 900, False)


def test_speed_runs_one_variant_at_a_time(fake, evaluate):
    code, records = evaluate("--tasks", "speed", "--variants", "full", "snapkv:0.5", "--parallel", "4")
    assert code == 0
    assert len(records) == 2 * 2 * 3
    assert {len(r.variants) for r in fake.generate_requests} == {1}
    assert fake.most_running == 1
    assert records[0]["total_ms"] == 600


def test_variants_are_split_over_requests(fake, evaluate):
    _, records = evaluate("--tasks", "needle", "--variants", "frontier", "--variants-per-request", "100", "--limit", "1")
    assert sorted(len(r.variants) for r in fake.generate_requests) == [63, 63, 100, 100]
    assert len(by_key(records, "sample", "variant")) == 2 * 163


def test_a_second_run_asks_only_for_what_is_missing(fake, evaluate):
    evaluate("--tasks", "probe", "--variants", "full", "snapkv:0.5")
    before = len(fake.score_requests)
    code, records = evaluate("--tasks", "probe", "--variants", "full", "snapkv:0.5")
    assert (code, len(fake.score_requests)) == (0, before)
    code, records = evaluate("--tasks", "probe", "--variants", "full", "snapkv:0.5", "full:int8")
    assert len(by_key(records, "dataset", "sample", "variant")) == len(records) == 3 * 7
    assert all(len(r.variants) == 1 for r in fake.score_requests[before:])


def test_a_torn_line_is_measured_again(evaluate, tmp_path):
    evaluate("--tasks", "needle", "--variants", "full")
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    _, records = evaluate("--tasks", "needle", "--variants", "full")
    assert len(by_key(records, "sample")) == len(records) == 4
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_failures_are_told_and_tried_again(fake, evaluate, capsys):
    fake.fail = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the pool is full")
    code, records = evaluate("--tasks", "needle", "--variants", "full")
    assert (code, records) == (1, [])
    assert "the pool is full" in capsys.readouterr().err
    fake.fail = None
    code, records = evaluate("--tasks", "needle", "--variants", "full")
    assert (code, len(records)) == (0, 4)


def test_a_server_that_goes_away_ends_the_run(fake, evaluate, capsys):
    fake.fail = (grpc.StatusCode.UNAVAILABLE, "draining")
    assert evaluate("--tasks", "probe", "--variants", "full")[0] == 2
    assert "same command again" in capsys.readouterr().err


def test_settings_and_models_do_not_mix(fake, evaluate, capsys):
    assert evaluate("--tasks", "needle", "--variants", "x=budget=0.5")[0] == 0
    assert evaluate("--tasks", "needle", "--variants", "x=budget=0.25")[0] == 2
    assert "'x'" in capsys.readouterr().err
    fake.model = "another"
    assert evaluate("--tasks", "needle", "--variants", "full")[0] == 2
    assert "another" in capsys.readouterr().err


@pytest.mark.parametrize(("file", "tasks"), [("longbench/qasper.jsonl", "longbench"), ("needle/niah_noise.jsonl", "needle")])
def test_missing_data_is_named(evaluate, data_dir, capsys, file, tasks):
    (data_dir / file).unlink()
    assert evaluate("--tasks", tasks)[0] == 2
    assert file in capsys.readouterr().err


def test_no_server(data_dir, tmp_path, capsys, monkeypatch):
    from kvcrush_eval import server
    monkeypatch.setattr(server, "READY_TIMEOUT_S", 0.5)
    assert cli.main(["run", "--server", "127.0.0.1:1", "--data", str(data_dir), "--out", str(tmp_path / "r.jsonl")]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_all_writes_tables_and_pictures(fake, target, data_dir, tmp_path, capsys):
    fake.reply = lambda prompt, variant, request: "fox 770"
    out = tmp_path / "deep" / "r.jsonl"
    code = cli.main(["all", "--server", target, "--data", str(data_dir), "--out", str(out), "--tasks", "probe,longbench,needle,speed",
                     "--variants", "frontier16", "--limit", "1"])
    assert code == 0
    assert json.loads(out.with_suffix(".json").read_text())["meta"]["model"] == "fake"
    assert "## Needle" in out.with_suffix(".md").read_text()
    assert {p.name for p in out.with_suffix("").iterdir()} == {"frontier_kl.png", "crush_on_off.png", "longbench.png", "needle.png",
                                                             "speed.png"}
    assert cli.main(["summary", "--out", str(out), "--compare", "default:0.25", "snapkv:0.25"]) == 0
    assert "geometric" in capsys.readouterr().out
