"""Prompt lookup through the real server: the same answers in fewer steps, counted, and wrong requests refused."""

from __future__ import annotations

import grpc
import pytest

from harness import build_request, collect, generate, pb, rpc_fails, wait_idle

LOOKUP = {"lookup_tokens": 16}
DRAFTED, ACCEPTED = "kvcrush_spec_decode_num_draft_tokens_total", "kvcrush_spec_decode_num_accepted_tokens_total"
# The model goes on repeating it.
LIST = "".join(f"Item {i}: the red box is in the second room on the left, beside the window.\n" for i in range(1, 9))
PRUNED = {"policy": "snapkv", "budget_fraction": 0.5}


@pytest.mark.parametrize("compression", [{"policy": "off"}, PRUNED, {"policy": "off", "kv_dtype": "int8"},
                                         {"target_compression": 4}], ids=["full", "snapkv", "int8", "target"])
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.3, "seed": 3}],
                         ids=["greedy", "sampled"])
def test_a_repetitive_answer_takes_fewer_steps_and_is_the_same(server, compression, sampling):
    options = {"max_tokens": 100, "ignore_eos": True, "compression": compression, "prefix_cache": {"bypass": True}, **sampling}
    start = server.metrics()
    plain = generate(server, LIST, **options)
    assert plain.finish.usage.drafted_tokens == 0
    before = server.metrics()
    fast = generate(server, LIST, speculation=LOOKUP, **options)
    after = server.metrics()
    assert fast.token_ids == plain.token_ids
    assert fast.text == plain.text
    usage = fast.finish.usage
    assert 0 < usage.accepted_draft_tokens <= usage.drafted_tokens  # how many depends on the text, hence on the CPU
    assert usage.completion_tokens == 100
    assert after[DRAFTED] - before[DRAFTED] == usage.drafted_tokens
    assert after[ACCEPTED] - before[ACCEPTED] == usage.accepted_draft_tokens
    tokens = after["kvcrush_generation_tokens_total"] - before["kvcrush_generation_tokens_total"]
    assert tokens == 100
    steps = "kvcrush_iteration_tokens_count"
    assert after[steps] - before[steps] <= before[steps] - start[steps] - usage.accepted_draft_tokens + 2
    wait_idle(server)


def test_stop_strings_end_the_text_inside_a_run(server):
    options = {"max_tokens": 100, "ignore_eos": True, "logprobs": 2}
    whole = generate(server, LIST, **options).text
    late = next(whole[at:at + 12] for at in range(len(whole) * 6 // 10, len(whole)) if whole.find(whole[at:at + 12]) == at)
    options["stop"] = [late]
    plain = generate(server, LIST, **options)
    assert plain.finish.stop_match == late and len(plain.text) < len(whole)
    fast = generate(server, LIST, speculation=LOOKUP, **options)
    assert (fast.text, fast.token_ids, fast.finish.stop_match) == (plain.text, plain.token_ids, late)
    assert fast.finish.reason == pb.FINISH_REASON_STOP
    assert fast.finish.usage.completion_tokens == plain.finish.usage.completion_tokens
    assert fast.finish.usage.accepted_draft_tokens > 10
    assert [p.sampled.logprob for p in fast.logprobs] == [p.sampled.logprob for p in plain.logprobs]
    wait_idle(server)


def test_samples_variants_and_neighbours_keep_their_answers(server):
    options = {"max_tokens": 60, "ignore_eos": True, "temperature": 0.6, "seed": 11}
    plain = collect(server.stub.Generate(build_request(LIST, n=3, **options)))
    fast = collect(server.stub.Generate(build_request(LIST, n=3, speculation=LOOKUP, **options)))
    assert [fast[i].token_ids for i in range(3)] == [plain[i].token_ids for i in range(3)]
    assert sum(s.finish.usage.accepted_draft_tokens for s in fast.values()) > 20
    variants = [{"policy": "off"}, PRUNED, {"policy": "off", "kv_dtype": "int4"}]
    greedy = {"max_tokens": 60, "ignore_eos": True, "temperature": 0, "variants": variants}
    calls = [server.stub.Generate(build_request(LIST, speculation=speculation, **greedy)) for speculation in (None, LOOKUP)]
    plain, fast = (collect(call) for call in calls)
    assert [fast[i].token_ids for i in range(3)] == [plain[i].token_ids for i in range(3)]
    assert all(s.finish.usage.drafted_tokens == 0 for s in plain.values())


def test_once_tells_too(server):
    request = build_request(LIST, max_tokens=60, ignore_eos=True, temperature=0, speculation=LOOKUP)
    [completion] = server.stub.GenerateOnce(request).completions
    assert completion.finish.usage.accepted_draft_tokens > 10


@pytest.mark.parametrize("lookup_tokens", [-1, 65, 1 << 30])
def test_wrong_values_are_refused(server, lookup_tokens):
    with rpc_fails(grpc.StatusCode.INVALID_ARGUMENT, f"speculation.lookup_tokens is {lookup_tokens}", "[0, 64]"):
        list(server.stub.Generate(build_request("x", speculation={"lookup_tokens": lookup_tokens})))


def test_h2o_is_refused_beside_it(server):
    h2o = {"policy": "h2o", "budget_fraction": 0.5}
    for how in {"compression": h2o}, {"variants": [{"policy": "off"}, h2o]}:
        with rpc_fails(grpc.StatusCode.INVALID_ARGUMENT, "speculation.lookup_tokens is 16", "h2o", "allowed with it: 0"):
            list(server.stub.Generate(build_request(LIST, max_tokens=4, speculation=LOOKUP, **how)))
    assert generate(server, LIST, max_tokens=4, compression=h2o, speculation={"lookup_tokens": 0}).token_ids
