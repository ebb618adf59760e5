"""Bad input is refused with INVALID_ARGUMENT naming the field and what is allowed, and harms nobody."""

import errno
import os
import subprocess

import grpc
import pytest

import harness
from harness import build_request, generate, pb, rpc_fails, wait_idle

NAN, INF = float("nan"), float("inf")
INVALID = grpc.StatusCode.INVALID_ARGUMENT

# field, value, words of the allowed range that the message must hold
SAMPLING = [
    ("temperature", -0.1, ["0", "100"]), ("temperature", 100.5, ["0", "100"]), ("temperature", NAN, ["0", "100"]),
    ("temperature", INF, ["0", "100"]),
    ("top_k", -1, ["0"]),
    ("top_p", 0.0, ["(0", "1]"]), ("top_p", 1.5, ["(0", "1]"]), ("top_p", -1.0, ["(0", "1]"]), ("top_p", NAN, ["(0", "1]"]),
    ("min_p", -0.1, ["[0", "1]"]), ("min_p", 1.1, ["[0", "1]"]), ("min_p", NAN, ["[0", "1]"]),
    ("repetition_penalty", 0.0, ["(0", "10]"]), ("repetition_penalty", 10.5, ["(0", "10]"]),
    ("repetition_penalty", NAN, ["(0", "10]"]),
    ("presence_penalty", -2.5, ["-2", "2"]), ("presence_penalty", 2.5, ["-2", "2"]), ("presence_penalty", NAN, ["-2"]),
    ("frequency_penalty", -2.5, ["-2", "2"]), ("frequency_penalty", 2.5, ["-2", "2"]), ("frequency_penalty", -INF, ["-2"]),
    ("max_tokens", 0, ["1"]), ("max_tokens", -5, ["1"]), ("max_tokens", 2**31 - 1, ["1"]),
    ("min_tokens", -1, ["0"]), ("min_tokens", 9, ["0", "8"]),
    ("stop", [""], ["1"]), ("stop", ["x" * 257], ["256"]), ("stop", [str(i) for i in range(17)], ["16"]),
    ("stop_token_ids", [-1], ["0", "49152"]), ("stop_token_ids", [49152], ["49152"]),
    ("stop_token_ids", list(range(65)), ["64"]),
    ("logprobs", -1, ["0", "20"]), ("logprobs", 21, ["0", "20"]),
    ("n", 0, ["1", "16"]), ("n", 17, ["1", "16"]), ("n", -1, ["1", "16"]),
]

COMPRESSION = [
    ("budget_tokens", 0, []), ("budget_tokens", 1, []), ("budget_tokens", -7, []), ("budget_tokens", 36, []),
    ("budget_fraction", 0.0, ["(0", "1]"]), ("budget_fraction", 1.01, ["(0", "1]"]), ("budget_fraction", NAN, ["(0", "1]"]),
    ("budget_fraction", -0.5, ["(0", "1]"]),
    ("representative_share", -0.1, ["[0", "1]"]), ("representative_share", 1.1, ["[0", "1]"]),
    ("representative_share", NAN, ["[0", "1]"]),
    ("num_sink_tokens", -1, ["0", "1024"]), ("num_sink_tokens", 1025, ["0", "1024"]),
    ("window_tokens", 0, ["1", "256"]), ("window_tokens", 257, ["1", "256"]),
    ("pool_kernel_tokens", 0, ["1", "63"]), ("pool_kernel_tokens", 4, ["odd"]), ("pool_kernel_tokens", 65, ["63"]),
    ("policy", 99, []), ("anchor", 99, []), ("granularity", 99, []), ("token_sets", 99, []), ("pick", 99, []),
    ("when", 99, []),
]


def short(value):
    return str(value)[:24]


@pytest.mark.parametrize("field, value, words", SAMPLING, ids=lambda v: short(v))
def test_sampling_out_of_range(server, field, value, words):
    options = {"max_tokens": 8} | {field: value}
    with rpc_fails(INVALID, f"sampling.{field}", "allowed", *words):
        server.stub.GenerateOnce(build_request("hello", **options))


@pytest.mark.parametrize("field, value, words", COMPRESSION, ids=lambda v: short(v))
def test_compression_out_of_range(server, field, value, words):
    request = build_request("hello " * 100, max_tokens=2, compression={"policy": "snapkv"} | {field: value})
    with rpc_fails(INVALID, f"compression.{field}", "allowed", *words):
        server.stub.GenerateOnce(request)


@pytest.mark.parametrize("request_id", ["with space", "a/b", "x" * 129, "ümlaut", "new\nline"], ids=short)
def test_bad_request_id(server, request_id):
    with rpc_fails(INVALID, "request_id", "allowed", "A-Za-z0-9._:-"):
        server.stub.GenerateOnce(build_request("hello", request_id=request_id))


@pytest.mark.parametrize("request_, field", [
    (pb.GenerateRequest(), "prompt"),
    (build_request(""), "text"),
    (pb.GenerateRequest(chat=pb.ChatMessages()), "chat"),
    (pb.GenerateRequest(token_ids=pb.TokenIds()), "token_ids"),
    (build_request([-1]), "token_ids"),
    (build_request([5, 49152]), "token_ids"),
    (build_request([7] * 8192), "token_ids"),
    (build_request("word " * 9000), "text"),
], ids=["none", "empty text", "no messages", "no ids", "negative id", "id past vocabulary", "too many ids", "too long"])
def test_bad_prompt(server, request_, field):
    with rpc_fails(INVALID, field):
        server.stub.GenerateOnce(request_)
    with rpc_fails(INVALID, field):
        list(server.stub.Generate(request_))


def test_bad_tokenizer_requests(server):
    with rpc_fails(INVALID, "token_ids", "49152"):
        server.client.detokenize([1, 49152])
    with rpc_fails(INVALID, "token_ids"):
        server.client.detokenize([-1])


def raw_call(server, method: str, message: bytes):
    call = server.channel.unary_unary(f"/kvcrush.v1.Inference/{method}", request_serializer=bytes,
                                      response_deserializer=bytes)
    return call(message)


@pytest.mark.parametrize("message", [
    b"\x12\x02\xff\xfe",           # text that is not UTF-8
    b"\x1a\x08\x0a\x06\x0a\x01u\x12\x01\xc3",  # chat content that ends within a character
    b"\x12\x7fshort",              # a length past the end of the message
    b"\xff" * 64,
], ids=["text", "chat", "cut", "noise"])
def test_bytes_that_are_no_request(server, message):
    with rpc_fails(INVALID, "UTF-8"):
        raw_call(server, "GenerateOnce", message)
    assert server.process.poll() is None


def test_unknown_method(server):
    with rpc_fails(grpc.StatusCode.UNIMPLEMENTED):
        raw_call(server, "NoSuchCall", b"")


def test_budget_above_the_prompt_prunes_nothing(server):
    sample = generate(server, "A short prompt", max_tokens=2, compression={"policy": "snapkv", "budget_tokens": 4000})
    assert sample.finish.compression.enabled
    assert not sample.finish.compression.pruned


def test_still_answers_after_all_that(server):
    assert "Paris" in generate(server, "The capital of France is", max_tokens=8).text
    wait_idle(server)


def run_server(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(harness.SERVER), *arguments], capture_output=True, text=True, timeout=60)


def run_with_model(path) -> subprocess.CompletedProcess:
    return run_server(*harness.server_command(path)[1:])


def test_missing_model_file(tmp_path):
    done = run_with_model(tmp_path / "absent.gguf")
    assert done.returncode == 1
    assert "absent.gguf" in done.stderr + done.stdout


@pytest.mark.parametrize("num_bytes", [0, 3, 20, 4096, 2_000_000, 90_000_000])
def test_truncated_model_file(tmp_path, num_bytes):
    with harness.MODEL.open("rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(num_bytes))
    done = run_with_model(tmp_path / "cut.gguf")
    assert done.returncode == 1, done.stderr
    assert "cut.gguf" in done.stderr + done.stdout


def test_file_that_is_no_model(tmp_path):
    (tmp_path / "noise.gguf").write_bytes(b"this is no model at all" * 100)
    done = run_with_model(tmp_path / "noise.gguf")
    assert done.returncode == 1
    assert "noise.gguf" in done.stderr + done.stdout


@pytest.mark.parametrize("arguments, word", [
    ([], "--model"), (["--no-such-flag"], "--no-such-flag"), (["--kv-memory", "lots"], "--kv-memory"),
    (["--listen", "nowhere"], "--listen"), (["--max-running", "0"], "--max-running"),
    (["--log-level", "loud"], "--log-level"), (["--device", "toaster"], "--device"),
    (["--default-budget", "2.5"], "--default-budget"),
], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_wrong_flags_exit_2(arguments, word):
    done = run_server(*(["--model", str(harness.MODEL)] if arguments else []), *arguments)
    assert done.returncode == 2
    assert word in done.stderr


def test_port_in_use_exits_1(server):
    done = run_server("--model", str(harness.MODEL), "--listen", server.target, "--http-listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert server.target in done.stderr + done.stdout


def test_http_port_in_use_exits_1(server):
    address = server.http.removeprefix("http://")
    done = run_server("--model", str(harness.MODEL), "--listen", "127.0.0.1:0", "--http-listen", address)
    assert done.returncode == 1
    assert f"cannot listen on {address} for HTTP" in done.stderr + done.stdout
    assert os.strerror(errno.EADDRINUSE) in done.stderr + done.stdout


def test_help_and_version_exit_0():
    for flag in ("--help", "--version"):
        done = run_server(flag)
        assert done.returncode == 0
        assert "kvcrush-server" in done.stdout
