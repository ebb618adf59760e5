"""Health, metrics, draining, abort, deadlines and full queues."""

import signal
import threading
import time

import grpc

from harness import SLOWNESS, build_request, collect, eventually, generate, pb, rpc_fails, running_request, running_server, wait_idle

NOT_SERVING, SERVING = b"\x08\x02", b"\x08\x01"  # HealthCheckResponse.status


def endless(request_id: str = "", max_tokens: int = 2000) -> pb.GenerateRequest:
    return build_request("Count: one two three", request_id=request_id, temperature=0, max_tokens=max_tokens,
                         ignore_eos=True, compression={"policy": "off"})


def started(server, request: pb.GenerateRequest):
    """A stream whose first chunk has come."""
    call = server.stub.Generate(request)
    next(call)
    return call


class Background:
    """Collects a stream on a thread of its own."""

    def __init__(self, call) -> None:
        self.samples = self.error = None
        self._thread = threading.Thread(target=self._read, args=(call,), daemon=True)
        self._thread.start()

    def _read(self, call) -> None:
        try:
            self.samples = collect(call)
        except Exception as error:  # noqa: BLE001 (handed to the test)
            self.error = error

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive(), "the stream did not end"
        return self


def check_health(server, service: bytes = b"") -> bytes:
    call = server.channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=bytes,
                                      response_deserializer=bytes)
    return call(b"\x0a" + bytes([len(service)]) + service)


def test_health_service(server):
    assert check_health(server) == SERVING
    assert check_health(server, b"kvcrush.v1.Inference") == SERVING
    with rpc_fails(grpc.StatusCode.NOT_FOUND):
        check_health(server, b"no.such.Service")


def test_reflection_lists_the_service(server):
    call = server.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                        request_serializer=bytes, response_deserializer=bytes)
    list_services = b"\x3a\x01*"
    answer = next(iter(call(iter([list_services]))))
    assert b"kvcrush.v1.Inference" in answer
    assert b"grpc.health.v1.Health" in answer


def test_http_endpoints(server):
    assert server.get("/healthz")[0] == 200
    assert server.get("/readyz")[0] == 200
    assert server.get("/nothing-here")[0] == 404


def test_metrics_count(server):
    before = server.metrics()
    sample = generate(server, "The capital of France is", max_tokens=7, ignore_eos=True)
    wait_idle(server)
    eventually(lambda: server.metrics()["kvcrush_kv_blocks_used"] == 0, "the gauge to follow the pool")
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert after["kvcrush_kv_blocks_total"] == server.client.model_info().num_blocks
    assert grown("kvcrush_generation_tokens_total") == 7
    assert grown("kvcrush_prompt_tokens_total") == sample.finish.usage.prompt_tokens
    assert after["kvcrush_num_requests_running"] == after["kvcrush_num_requests_waiting"] == 0
    assert grown("kvcrush_time_to_first_token_seconds_count") == 1
    assert grown("kvcrush_e2e_request_latency_seconds_count") == 1


def test_stats_show_the_running_request(server):
    before = server.client.stats()
    call = started(server, endless("stats-1"))
    request = running_request(server, "stats-1")
    assert request.index == 0
    stats = server.client.stats()
    assert request.blocks > 0 and request.prompt_tokens > 0 and request.age_ms > 0
    assert stats.blocks_used >= request.blocks
    assert stats.kv_bytes_used == stats.blocks_used * server.client.model_info().block_bytes
    assert stats.requests_running == 1
    call.cancel()
    wait_idle(server)
    after = server.client.stats()
    assert after.prompt_tokens - before.prompt_tokens == request.prompt_tokens
    assert after.generation_tokens > before.generation_tokens
    assert after.uptime_s > 0


def test_abort(server):
    call = started(server, endless("abort-me"))
    server.client.abort("abort-me")
    sample = collect(call)[0]
    assert sample.finish.reason == pb.FINISH_REASON_ABORT
    assert call.code() == grpc.StatusCode.OK
    wait_idle(server)
    with rpc_fails(grpc.StatusCode.NOT_FOUND, "abort-me"):
        server.client.abort("abort-me")


def test_deadline_gives_the_blocks_back(server):
    with rpc_fails(grpc.StatusCode.DEADLINE_EXCEEDED):
        list(server.stub.Generate(endless(), timeout=0.5))
    wait_idle(server)


def test_duplicate_request_id(server):
    call = started(server, endless("twin"))
    with rpc_fails(grpc.StatusCode.ALREADY_EXISTS, "twin"):
        server.stub.GenerateOnce(endless("twin", max_tokens=1))
    call.cancel()
    wait_idle(server)
    server.stub.GenerateOnce(endless("twin", max_tokens=1))  # free again


def test_full_queue_refuses_and_recovers():
    with running_server("--max-running", "1", "--max-waiting", "1", "--kv-memory", "128MiB") as server:
        running = started(server, endless("running"))
        waiting = Background(server.stub.Generate(endless("waiting", max_tokens=3)))
        eventually(lambda: server.client.stats().requests_waiting == 1, "the second request to wait")
        with rpc_fails(grpc.StatusCode.RESOURCE_EXHAUSTED):
            server.stub.GenerateOnce(endless("third", max_tokens=1))
        running.cancel()
        assert waiting.join().samples[0].finish.usage.completion_tokens == 3
        server.stub.GenerateOnce(endless("third", max_tokens=1))


def test_waiting_request_can_be_aborted():
    with running_server("--max-running", "1", "--kv-memory", "128MiB") as server:
        running = started(server, endless("running"))
        waiting = Background(server.stub.Generate(endless("waiting")))
        eventually(lambda: server.client.stats().requests_waiting == 1, "the second request to wait")
        server.client.abort("waiting")
        assert waiting.join().samples[0].finish.reason == pb.FINISH_REASON_ABORT
        running.cancel()
        wait_idle(server)


def test_drain_finishes_what_runs():
    with running_server("--kv-memory", "128MiB") as server:
        max_tokens = int(200 / SLOWNESS)
        background = Background(started(server, endless("last", max_tokens)))
        server.terminate()
        eventually(lambda: server.get("/readyz")[0] == 503, "drain to start")
        with rpc_fails(grpc.StatusCode.UNAVAILABLE):
            server.stub.GenerateOnce(endless("late", max_tokens=1), timeout=20)
        sample = background.join().samples[0]
        assert sample.finish.reason == pb.FINISH_REASON_LENGTH
        assert sample.finish.usage.completion_tokens == max_tokens
        assert server.wait() == 0


def test_drain_has_a_limit():
    with running_server("--kv-memory", "512MiB", "--drain-timeout", "0.5") as server:
        background = Background(started(server, endless("never-ends", 8000)))
        start = time.monotonic()
        server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - start < 20
        background.join()
        # The stream ends with the abort, or the connection closed first.
        if background.error is None:
            assert background.samples[0].finish.reason == pb.FINISH_REASON_ABORT
        else:
            assert background.error.code() == grpc.StatusCode.UNAVAILABLE


def test_second_signal_ends_at_once():
    with running_server("--kv-memory", "512MiB") as server:
        call = started(server, endless("never-ends", 8000))
        server.terminate()
        eventually(lambda: server.get("/readyz")[0] == 503, "drain to start")
        server.terminate()
        assert server.wait(5) == 128 + signal.SIGTERM
        with rpc_fails(grpc.StatusCode.UNAVAILABLE):
            list(call)


def test_idle_server_ends_at_once():
    with running_server("--kv-memory", "64MiB") as server:
        start = time.monotonic()
        server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - start < 10


def test_hung_step_does_not_outlive_the_drain():
    stall_s = 60 * SLOWNESS
    with running_server("--kv-memory", "64MiB", "--inject-faults", f"stall=1,stall-ms={stall_s * 1000:.0f}",
                        "--drain-timeout", "1", "--step-stall-timeout", "1") as server:
        streamed = Background(server.stub.Generate(endless(max_tokens=100)))
        once = server.stub.GenerateOnce.future(endless(max_tokens=100))
        eventually(lambda: server.get("/readyz")[0] == 503, "a step to hang", timeout_s=stall_s / 4)
        start = time.monotonic()
        server.terminate()
        assert server.wait(stall_s) == 1
        assert time.monotonic() - start < stall_s / 2
        assert "engine_hangs" in server.log()
        for error in (streamed.join().error, once.exception(60)):
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert 750 <= int(dict(error.trailing_metadata())["retry-after-ms"]) <= 1250, "another server may answer"
