"""Many clients at once, and clients that misbehave: no text is mixed up and no KV block is lost."""

import concurrent.futures
import random
import signal
import subprocess
import sys
import time

import grpc
import pytest

import harness
from harness import build_request, collect, eventually, generate, running_server, wait_idle

PROMPT_TOKENS, NEW_TOKENS = 64, 24
GREEDY = {"temperature": 0, "ignore_eos": True, "compression": {"policy": "off"}}


@pytest.fixture(scope="module")
def tight_server(client):
    """A pool that holds eight of the requests below."""
    info = client.model_info()
    blocks_each = -(-(PROMPT_TOKENS + NEW_TOKENS) // info.block_size_tokens) * info.num_layers
    with running_server("--kv-memory", str(8 * blocks_each * info.block_bytes)) as running:
        yield running


@pytest.fixture(scope="module")
def prompts(long_prompt):
    ids = long_prompt(PROMPT_TOKENS * 16)
    return [ids[i:i + PROMPT_TOKENS] for i in range(0, len(ids), PROMPT_TOKENS)]


def test_64_streams_over_room_for_8(tight_server, prompts):
    alone = [generate(tight_server, p, max_tokens=NEW_TOKENS, ignore_eos=True).token_ids for p in prompts]
    assert len({tuple(ids) for ids in alone}) > 8, "prompts must give different texts"

    def run(i: int):
        return generate(tight_server, prompts[i % len(prompts)], max_tokens=NEW_TOKENS, ignore_eos=True).token_ids

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        together = list(pool.map(run, range(64)))
    for i, token_ids in enumerate(together):
        assert token_ids == alone[i % len(alone)], f"stream {i}"
    wait_idle(tight_server)


def test_random_cancels_leak_nothing(tight_server, prompts):
    def run(i: int) -> str:
        rng = random.Random(i)
        call = tight_server.stub.Generate(build_request(prompts[i % len(prompts)], max_tokens=NEW_TOKENS, n=1 + i % 3, **GREEDY))
        if rng.random() < 0.3:
            time.sleep(rng.random() * 0.3)
            call.cancel()
        cancel_after = rng.randrange(1, NEW_TOKENS + 6)
        try:
            for received, _ in enumerate(call, start=1):
                if received == cancel_after:
                    call.cancel()
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.CANCELLED, error.details()
            return "cancelled"
        return "finished"

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(run, range(48)))
    assert {"cancelled", "finished"} == set(outcomes)
    wait_idle(tight_server)


def test_reader_that_pauses_blocks_nobody(server):
    request = build_request("Count: one two three", max_tokens=64, logprobs=20, **GREEDY)
    slow = server.stub.Generate(request)
    next(slow)
    assert generate(server, "The capital of France is", max_tokens=8).text
    wait_idle(server)  # the engine does not wait for the reader
    assert len(collect(slow)[0].token_ids) >= 63


def test_reader_that_never_reads_is_dropped():
    with running_server("--stalled-client-timeout", "1", "--kv-memory", "256MiB") as server:
        # A receive window this small is full after a few chunks.
        narrow = grpc.insecure_channel(server.target, options=[
            ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.max_frame_size", 16384)])
        stub = harness.pb_grpc.InferenceStub(narrow)
        request = build_request("Count: one two three", max_tokens=600, n=8, logprobs=20, request_id="stalled", **GREEDY)
        call = stub.Generate(request)
        next(call)
        eventually(lambda: "client_stalled" in server.log(), "the reader to be given up", timeout_s=60)
        wait_idle(server)
        assert server.client.stats().generation_tokens < 8 * 600, "it was dropped before its end"
        assert generate(server, "The capital of France is", max_tokens=4).text
        call.cancel()
        narrow.close()


VANISHING_CLIENT = """
import sys
sys.path[:0] = sys.argv[2:]
import grpc
from kvcrush_client import Client
for chunk in Client(sys.argv[1]).generate("Count: one two three", max_tokens=4000, ignore_eos=True):
    print("chunk", flush=True)
"""


def test_client_that_vanishes(server):
    process = subprocess.Popen([sys.executable, "-c", VANISHING_CLIENT, server.target, *harness.PYTHON_PATH],
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"chunk\n"
    eventually(lambda: server.client.stats().blocks_used > 0, "the request to hold blocks")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_idle(server)
