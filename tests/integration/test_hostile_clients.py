"""Calls of clients that mean harm or are broken, at a level where no gRPC library stops them."""

import pathlib
import re

import grpc
import pytest

from harness import SLOWNESS, build_request, eventually, pb, rpc_fails, running_server, wait_idle
from http2 import Connection

PATIENCE_S = 30 * SLOWNESS
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def small():
    with running_server("--kv-memory", "128MiB", "--max-message-bytes", "1MiB", "--stalled-client-timeout", "1") as server:
        yield server


def short(request_id: str) -> pb.GenerateRequest:
    return build_request("Hello", request_id=request_id, max_tokens=2, ignore_eos=True)


@pytest.mark.parametrize("state, given_back", [
    (b"vendor=1, b=2", True), (b"vendor=1,\tb=2", False), (b"vendor=\x01", False), (b"vendor=\x7f", False),
    (b"vendor=\xff", False), (b"v\xc3\xa4=1", False),
], ids=["plain", "tab", "control", "delete", "byte", "utf8"])
def test_tracestate_of_any_bytes(small, state, given_back):
    """gRPC takes any value in, and ends the process that sends one which is not printable."""
    with Connection(small.target) as connection:
        stream = connection.call("GenerateOnce", short("odd-state"), ((b"traceparent", TRACEPARENT), (b"tracestate", state)))
        answer = connection.wait(stream, PATIENCE_S)
    assert answer.has_status(0), answer
    assert TRACEPARENT in answer.headers
    assert (b"tracestate" in answer.headers) == given_back
    assert small.process.poll() is None


def memory_bytes(server, key: str) -> int:
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status).group(1)) * 1024


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=["gzip", "deflate"])
def test_compressed_messages_are_not_inflated(small, compression):
    """gRPC would compare the size with --max-message-bytes only after it has inflated the message."""
    pathlib.Path(f"/proc/{small.process.pid}/clear_refs").write_text("5")  # the peak was while the model loaded
    before = memory_bytes(small, "VmRSS")
    for text in ("small", "\0" * (100 << 20)):
        with rpc_fails(grpc.StatusCode.UNIMPLEMENTED, "Compression algorithm", "disabled"):
            small.stub.Tokenize(pb.TokenizeRequest(text=text), compression=compression, timeout=PATIENCE_S)
    assert memory_bytes(small, "VmHWM") - before < 16 << 20
    assert small.client.tokenize("plain").token_ids


def test_no_time_limit_as_go_says_it(small):
    """The longest time.Duration: its end is past what a clock of nanoseconds holds."""
    with Connection(small.target) as connection:
        stream = connection.call("GenerateOnce", short("far"), ((b"grpc-timeout", b"2562047H"),))
        answer = connection.wait(stream, PATIENCE_S)
    assert answer.has_status(0), answer


SLOW_CLIENTS = "kvcrush_ended_slow_streams_total"
UNARY_CALLS = [("GenerateOnce", short("untaken")), ("Tokenize", pb.TokenizeRequest(text="Hello")),
               ("Detokenize", pb.DetokenizeRequest(token_ids=[1, 2])), ("GetModelInfo", pb.GetModelInfoRequest()),
               ("GetStats", pb.GetStatsRequest())]


def test_unary_answers_that_nobody_takes_are_cut_off(small):
    before = small.metrics()[SLOW_CLIENTS]
    with Connection(small.target, window=0) as connection:
        streams = [connection.call(method, request) for method, request in UNARY_CALLS]
        eventually(lambda: "event=finished request_id=untaken" in small.log(), "the request to end")
        assert small.stub.GenerateOnce(short("untaken")).request_id == "untaken"  # the id is free meanwhile
        answers = [connection.wait(stream, PATIENCE_S) for stream in streams]
        assert all(answer.ended and not answer.data for answer in answers), answers
    assert small.metrics()[SLOW_CLIENTS] - before == len(UNARY_CALLS)
    wait_idle(small)


def test_unary_answers_taken_late_are_whole(small):
    before = small.metrics()[SLOW_CLIENTS]
    with Connection(small.target, window=0) as connection:
        stream = connection.call("Tokenize", pb.TokenizeRequest(text="one two three"))
        assert not connection.wait(stream, 0.3).ended
        connection.open_window(stream, 1 << 20)
        answer = connection.wait(stream, PATIENCE_S)
    assert answer.has_status(0), answer
    assert pb.TokenizeResponse.FromString(answer.data[5:]) == small.client.tokenize("one two three")
    assert small.metrics()[SLOW_CLIENTS] == before
