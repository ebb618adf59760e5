"""More than the server can take: full queues, clients that do not read, old connections, deadlines; and traces."""

import contextlib
import json
import threading
import time

import grpc
import pytest

from harness import (SLOWNESS, Server, build_request, collect, eventually, generate, pb, pb_grpc, rpc_fails, running_request,
                     running_server, wait_idle)

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def endless(request_id: str, max_tokens: int = 2000, **options) -> pb.GenerateRequest:
    return build_request("Count: one two three", request_id=request_id, temperature=0, max_tokens=max_tokens,
                         ignore_eos=True, compression={"policy": "off"}, **options)


@contextlib.contextmanager
def own_channel(server: Server, *options):
    """A connection that no other test shares."""
    with grpc.insecure_channel(server.target, options=[("grpc.use_local_subchannel_pool", 1), *options]) as channel:
        yield pb_grpc.InferenceStub(channel)


def events(server: Server, request_id: str) -> list[str]:
    """The log lines of a request, in order, by what they tell."""
    lines = [dict(part.split("=", 1) for part in line.split(" ") if "=" in part) for line in server.log().splitlines()]
    return [line["event"] for line in lines if line.get("request_id") == request_id]


def hint_ms(error: grpc.RpcError) -> int:
    metadata = error.trailing_metadata()
    hints = [int(value) for key, value in metadata if key in ("retry-after-ms", "grpc-retry-pushback-ms")]
    assert len(hints) == 2 and hints[0] == hints[1], metadata
    return hints[0]


def refused(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


@pytest.fixture(scope="module")
def tight():
    """Four sequences run, four wait, streams may leave 32 KiB unread."""
    with running_server("--kv-memory", "768MiB", "--max-running", "4", "--max-waiting", "4", "--max-unread-bytes", "32KiB",
                        "--stalled-client-timeout", "3") as server:
        yield server


def fill(server: Server) -> list:
    """Calls that take every place to run and every place to wait."""
    calls = [server.stub.Generate(endless("running", n=4))]
    next(calls[0])
    calls.append(server.stub.Generate(endless("waiting", n=4, max_tokens=3)))
    eventually(lambda: server.client.stats().requests_waiting == 4, "the second request to wait")
    return calls


def test_shed_answers_say_when_to_come_back(tight):
    running, waiting = fill(tight)
    before = tight.metrics()
    for call in (lambda: list(tight.stub.Generate(endless("third"))), lambda: tight.stub.GenerateOnce(endless("third"))):
        error = refused(call)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "waiting sequences" in error.details()
        assert 100 <= hint_ms(error) <= 60_000
    name = 'kvcrush_shed_requests_total{reason="queue_requests"}'
    assert tight.metrics()[name] - before[name] == 2
    assert tight.metrics()['kvcrush_shed_requests_total{reason="queue_tokens"}'] == 0
    running.cancel()
    assert [sample.finish.usage.completion_tokens for sample in collect(waiting).values()] == [3] * 4
    wait_idle(tight)


def test_what_can_never_wait_is_not_told_to_retry(tight):
    for request, field in ((endless("many", n=5), "sampling.n is 5"),
                           (build_request("Varied", variants=[{"policy": "off"}] * 5), "variants has 5 entries")):
        error = refused(lambda: tight.stub.GenerateOnce(request))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert field in error.details() and "allowed: at most 4" in error.details() and "--max-waiting" in error.details()
        assert "retry-after-ms" not in dict(error.trailing_metadata())


def test_grpc_retries_as_told(tight):
    """A client with a retry policy gets in by itself: the server says after how long to try again."""
    policy = {"methodConfig": [{"name": [{"service": "kvcrush.v1.Inference"}], "retryPolicy": {
        "maxAttempts": 5, "initialBackoff": "300s", "maxBackoff": "300s", "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}
    running, waiting = fill(tight)
    with own_channel(tight, ("grpc.service_config", json.dumps(policy)), ("grpc.enable_retries", 1)) as stub:
        retried = stub.GenerateOnce.future(endless("retried", max_tokens=2), timeout=60 * SLOWNESS)
        eventually(lambda: "rejected" in events(tight, "retried"), "the first try to be refused")
        running.cancel()
        waiting.cancel()
        assert retried.result().completions[0].finish.usage.completion_tokens == 2
    wait_idle(tight)
    assert events(tight, "retried").count("finished") == 1


def loud(request_id: str) -> pb.GenerateRequest:
    """Fills a connection's window within some fifty steps."""
    return endless(request_id, logprobs=20, n=4)


def slow_channel(server: Server):
    return own_channel(server, ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))


def test_unread_output_is_bounded(tight):
    before = tight.metrics()
    with slow_channel(tight) as stub:
        call = stub.Generate(loud("slow"))
        next(call)
        eventually(lambda: "client_slow" in events(tight, "slow"), "the bound to be reached", 60)
        wait_idle(tight)  # the engine is free at once, though the client has not read yet
        error = refused(lambda: list(call))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--max-unread-bytes" in error.details() and "32768" in error.details()
    name = "kvcrush_ended_slow_streams_total"
    assert tight.metrics()[name] - before[name] == 1
    assert events(tight, "slow").count("finished") == 4


def test_client_that_never_reads_is_cut_off(tight):
    before = tight.metrics()
    with slow_channel(tight) as stub:
        call = stub.Generate(loud("deaf"))
        eventually(lambda: "client_stalled" in events(tight, "deaf"), "the client to be cut off", 60)
        wait_idle(tight)
        assert refused(lambda: list(call)).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert events(tight, "deaf").count("finished") == 4
    name = "kvcrush_ended_slow_streams_total"
    assert tight.metrics()[name] - before[name] == 1


def test_slow_reader_of_text_gets_everything(tight):
    with slow_channel(tight) as stub:
        num_tokens = 0
        for chunk in stub.Generate(endless("patient", max_tokens=60)):
            num_tokens += len(chunk.token_ids)
            time.sleep(0.1)
        assert num_tokens == 60
    wait_idle(tight)


def test_deadline_in_the_queue_and_while_running(tight):
    before = tight.metrics()
    name = 'kvcrush_request_success_total{finished_reason="deadline"}'
    running = tight.stub.Generate(endless("late-running", n=4), timeout=2 * SLOWNESS)
    next(running)
    with rpc_fails(grpc.StatusCode.DEADLINE_EXCEEDED):
        list(tight.stub.Generate(endless("late-waiting"), timeout=0.5 * SLOWNESS))
    with rpc_fails(grpc.StatusCode.DEADLINE_EXCEEDED):
        list(running)
    wait_idle(tight)
    assert tight.metrics()[name] - before[name] == 5
    for request_id, samples in (("late-waiting", 1), ("late-running", 4)):
        assert events(tight, request_id).count("finished") == samples
        assert "cancelled" not in events(tight, request_id)
    assert "scheduled" not in events(tight, "late-waiting")


def test_cancelled_is_not_called_a_deadline(tight):
    call = tight.stub.Generate(endless("given-up"), timeout=300)
    next(call)
    call.cancel()
    eventually(lambda: "cancelled" in events(tight, "given-up"), "the cancellation to be logged")
    wait_idle(tight)
    assert "deadline" not in events(tight, "given-up")


def test_metadata_has_a_limit(tight):
    with own_channel(tight) as stub:
        with rpc_fails(grpc.StatusCode.RESOURCE_EXHAUSTED):
            stub.GetStats(pb.GetStatsRequest(), metadata=[("big", "x" * 20_000)])
    with own_channel(tight) as stub:
        stub.GetStats(pb.GetStatsRequest(), metadata=[("big", "x" * 10_000)])


def test_old_connections_are_left_while_their_streams_end():
    with running_server("--kv-memory", "128MiB", "--max-connection-age", "1", "--max-connection-age-grace", "0") as server:
        with own_channel(server) as stub:
            max_tokens = 120
            call = stub.Generate(endless("old", max_tokens=max_tokens))
            next(call)
            for i in range(4):
                stub.GenerateOnce(endless(f"new-{i}", max_tokens=1))
                time.sleep(0.7)
            assert len(list(call)) > 0 and call.code() == grpc.StatusCode.OK
            peers = {line.split("peer=")[1].split(" ")[0] for line in server.log().splitlines() if "peer=" in line}
            assert len(peers) >= 2, "all calls came over one connection"
        wait_idle(server)
        assert events(server, "old")[-1] == "finished"


def test_grace_ends_streams_on_old_connections():
    with running_server("--kv-memory", "128MiB", "--max-connection-age", "0.5", "--max-connection-age-grace", "0.5") as server:
        with own_channel(server) as stub, rpc_fails(grpc.StatusCode.UNAVAILABLE):
            collect(stub.Generate(endless("old")))
        wait_idle(server)
        assert events(server, "old").count("finished") == 1


def test_trace_is_in_every_line_of_its_request():
    with running_server("--kv-memory", "128MiB", "--log-format", "json", "--log-level", "debug") as server:
        metadata = [("traceparent", TRACEPARENT), ("tracestate", "vendor=1")]
        call = server.stub.Generate(build_request("Count: " + "one two three " * 30, request_id="traced", max_tokens=20,
                                                  temperature=0, ignore_eos=True,
                                                  compression={"policy": "snapkv", "budget_fraction": 0.3}), metadata=metadata)
        assert collect(call)[0].finish is not None
        given_back = dict(call.initial_metadata())
        assert (given_back["traceparent"], given_back["tracestate"]) == (TRACEPARENT, "vendor=1")
        with rpc_fails(grpc.StatusCode.INVALID_ARGUMENT, "max_tokens"):
            server.stub.GenerateOnce(endless("traced", max_tokens=10**9), metadata=metadata)
        malformed = server.stub.Generate(endless("untraced", max_tokens=2), metadata=[("traceparent", TRACEPARENT.upper())])
        collect(malformed)
        assert "traceparent" not in dict(malformed.initial_metadata())
        wait_idle(server)
        lines = [json.loads(line) for line in server.log().splitlines()]
        traced = [line for line in lines if line.get("request_id") == "traced"]
        assert {line["event"] for line in traced} >= {"arrived", "queued", "scheduled", "first_token", "pruned", "finished",
                                                      "rejected"}
        assert all((line["trace_id"], line["span_id"], line["trace_flags"]) == (TRACE_ID, SPAN_ID, "01") for line in traced)
        assert not any("trace_id" in line for line in lines if line.get("request_id") != "traced")
        assert all(line["severity_number"] == {"debug": 5, "info": 9, "warning": 13}[line["level"]] for line in lines)


def test_every_call_of_a_storm_ends_with_one_status(tight):
    """Forty callers at a server that holds eight: each is served, or told to come back and when."""
    outcomes: list = []

    def one(index: int) -> None:
        try:
            with own_channel(tight) as stub:
                answer = stub.GenerateOnce(endless(f"storm-{index}", max_tokens=2), timeout=60 * SLOWNESS)
                outcomes.append(answer.completions[0].finish.usage.completion_tokens)
        except grpc.RpcError as error:
            outcomes.append((error.code(), hint_ms(error)))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 40
    served = [outcome for outcome in outcomes if outcome == 2]
    shed = [outcome for outcome in outcomes if outcome != 2]
    assert served and all(code == grpc.StatusCode.RESOURCE_EXHAUSTED for code, _ in shed), outcomes
    wait_idle(tight)
    for index in range(40):
        ends = [event for event in events(tight, f"storm-{index}") if event in ("finished", "rejected")]
        assert len(ends) == 1, ends
    assert generate(tight, "Still there?", max_tokens=2, ignore_eos=True).finish is not None
