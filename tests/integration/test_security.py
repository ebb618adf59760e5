"""TLS, client certificates, bearer tokens and what the log may not hold, with certificates of the openssl command."""

import contextlib
import subprocess
import time

import grpc
import pytest

import harness
from certificates import MutualTls, Pair, bearer, secret_of, serial_at, write_tokens
from harness import SLOWNESS, build_request, build_score_request, collect, eventually, pb, pb_grpc, rpc_fails

UNAVAILABLE, UNAUTHENTICATED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
MEMORY = ("--kv-memory", "128MiB")


def endless(request_id: str = "", max_tokens: int = 2000) -> pb.GenerateRequest:
    return build_request("Count: one two three", request_id=request_id, temperature=0, max_tokens=max_tokens,
                         ignore_eos=True, compression={"policy": "off"})


def info(channel: grpc.Channel, metadata=None) -> pb.GetModelInfoResponse:
    return pb_grpc.InferenceStub(channel).GetModelInfo(pb.GetModelInfoRequest(), metadata=metadata, timeout=10 * SLOWNESS)


@contextlib.contextmanager
def refused_connection():
    with rpc_fails(UNAVAILABLE):
        yield


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Pair(tmp_path_factory.mktemp("authority"), "authority", 1)


# ---- TLS and client certificates, one server


@pytest.fixture(scope="module")
def mutual_tls(tmp_path_factory, authority):
    setup = MutualTls(tmp_path_factory.mktemp("tls"), authority)
    with harness.running_server(*setup.options, *MEMORY) as setup.server:
        yield setup


def test_handshake_and_client_certificates(mutual_tls, tmp_path):
    with mutual_tls.channel(mutual_tls.client) as channel:
        assert info(channel).vocab_size > 0
    stranger = Pair(tmp_path, "client", 8, Pair(tmp_path, "clients", 7))
    for own in (None, stranger, mutual_tls.first):
        with mutual_tls.channel(own) as channel, refused_connection():
            info(channel)
    with stranger.channel(mutual_tls.server.target, mutual_tls.client) as channel, refused_connection():
        info(channel)  # the client does not trust the server
    with refused_connection():
        info(mutual_tls.server.channel)  # plaintext


def test_rotation_under_a_running_stream(mutual_tls):
    target = mutual_tls.server.target
    mutual_tls.secret.put_pair(mutual_tls.first)
    eventually(lambda: serial_at(target) == 21, "the first certificate")
    expiry = mutual_tls.server.metrics()["kvcrush_tls_certificate_expiry_timestamp_seconds"]
    assert abs(expiry - time.time() - 2 * 86400) < 3600
    failed, ok = mutual_tls.reloads("failed"), mutual_tls.reloads("ok")
    with mutual_tls.channel(mutual_tls.client) as old:
        stream = pb_grpc.InferenceStub(old).Generate(endless("through"))
        num_read = len(next(stream).token_ids)

        # A new certificate with the old key, then with half a key: the old pair stays, and log and metric say so.
        new_key = mutual_tls.second.key.read_bytes()
        for number, key in enumerate([mutual_tls.first.key.read_bytes(), new_key[:len(new_key) // 2]], start=1):
            mutual_tls.secret.put(mutual_tls.second.cert.read_bytes(), key)
            eventually(lambda: mutual_tls.reloads("failed") == failed + number, "the broken pair to be noticed")
            assert serial_at(target) == 21
        assert "certificate_reload_failed" in mutual_tls.server.log()
        assert "is not the private key of the certificate" in mutual_tls.server.log()

        mutual_tls.secret.put_pair(mutual_tls.second)
        eventually(lambda: mutual_tls.reloads("ok") == ok + 1, "the new pair to be taken up")
        assert serial_at(target) == 22
        with mutual_tls.channel(mutual_tls.client) as channel:
            stub = pb_grpc.InferenceStub(channel)
            num_sent = stub.GetStats(pb.GetStatsRequest()).requests[0].completion_tokens
            while num_read <= num_sent:  # a token of after the change
                num_read += len(next(stream).token_ids)
            stub.Abort(pb.AbortRequest(request_id="through"))
        assert collect(stream)[0].finish.reason == pb.FINISH_REASON_ABORT
        assert stream.code() == grpc.StatusCode.OK
        info(old)  # its connection lives on


# ---- what stops the start


def start_fails(*options: str, code: int, words: list[str]) -> str:
    done = subprocess.run(harness.server_command(harness.MODEL, *options), capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in: {done.stderr}"
    return done.stderr


def test_unusable_files_stop_the_start(tmp_path, authority):
    good, other = (Pair(tmp_path, "server", serial, authority) for serial in (31, 32))
    old = Pair(tmp_path, "server", 33, authority, expired=True)
    absent, tokens = tmp_path / "absent.pem", tmp_path / "tokens.json"
    tokens.write_text('{"tokens": [{"name": "a"}]}')
    pair = ["--tls-cert", str(good.cert), "--tls-key", str(good.key)]
    for cert, key, words in [
        (absent, good.key, ["--tls-cert", str(absent), "No such file"]),
        (good.cert, absent, ["--tls-key", str(absent), "No such file"]),
        (good.cert, other.key, ["--tls-key", str(other.key), "not the private key", str(good.cert)]),
        (old.cert, old.key, ["--tls-cert", str(old.cert), "expired"]),
    ]:
        start_fails("--tls-cert", str(cert), "--tls-key", str(key), code=1, words=words)
    start_fails(*pair, "--tls-client-ca", str(good.key), code=1, words=["--tls-client-ca", str(good.key)])
    start_fails("--auth-tokens", str(tokens), code=1, words=["--auth-tokens", str(tokens), "tokens[0].sha256"])
    start_fails("--tls-cert", str(good.cert), code=2, words=["--tls-cert", "--tls-key"])


def test_plaintext_rule(tmp_path):
    def run(*options: str, listen: str) -> subprocess.CompletedProcess:
        # Without a model a server that may listen says so, and then ends.
        command = [str(harness.SERVER), "--model", str(tmp_path / "absent.gguf"), "--http-listen", "off", "--listen", listen]
        return subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)

    refused = run(listen="0.0.0.0:0")
    assert refused.returncode == 2
    assert "--listen" in refused.stderr and "--allow-plaintext" in refused.stderr
    write_tokens(tmp_path / "tokens.json", a={})
    allowed = run("--allow-plaintext", "--auth-tokens", str(tmp_path / "tokens.json"), listen="0.0.0.0:0")
    assert allowed.returncode == 1 and "absent.gguf" in allowed.stderr
    assert "level=warning event=plaintext" in allowed.stderr
    assert "level=warning event=tokens_over_plaintext" in allowed.stderr
    local = run(listen="127.0.0.1:0")
    assert local.returncode == 1 and "plaintext " not in local.stderr


# ---- tokens over TLS, one server that logs all it can


class Tokens:
    def __init__(self, folder, authority: Pair) -> None:
        pair, self.path = Pair(folder, "server", 41, authority), folder / "tokens.json"
        write_tokens(self.path, good={}, other={}, expired={"expires": "2020-01-01T00:00:00Z"},
                     ops={"scopes": ["admin"]}, one={"max_concurrent_requests": 1}, few={"max_requests_per_minute": 2},
                     small={"max_tokens_per_request": 8})
        self.options = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--auth-tokens", str(self.path),
                        "--log-level", "trace", "--max-message-bytes", "64KiB", *MEMORY]
        self.server: harness.Server
        self.channel: grpc.Channel
        self.stub: pb_grpc.InferenceStub


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, authority):
    setup = Tokens(tmp_path_factory.mktemp("tokens"), authority)
    with harness.running_server(*setup.options) as setup.server, authority.channel(setup.server.target) as setup.channel:
        setup.stub = pb_grpc.InferenceStub(setup.channel)
        yield setup


def test_tokens(tokens):
    info(tokens.channel, bearer("good"))
    details = set()
    for metadata in (None, bearer("nobody"), bearer("expired"), [("authorization", secret_of("good"))]):
        with pytest.raises(grpc.RpcError) as refused:
            info(tokens.channel, metadata)
        assert refused.value.code() == UNAUTHENTICATED
        details.add(refused.value.details())
    assert len(details) == 1, "a refusal tells what was wrong"
    metrics = tokens.server.metrics()
    for reason, count in (("missing", 2), ("unknown", 1), ("expired", 1)):
        assert metrics[f'kvcrush_auth_failures_total{{reason="{reason}"}}'] == count
    health = tokens.channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes)
    assert health(b"") == b"\x08\x01"


def test_limits(tokens):
    stream = tokens.stub.Generate(endless("running"), metadata=bearer("one"))
    next(stream)
    call = tokens.stub.Generate(endless(), metadata=bearer("one"))
    with rpc_fails(EXHAUSTED, "max_concurrent_requests = 1"):
        next(call)
    assert int(dict(call.trailing_metadata())["retry-after-ms"]) > 0
    tokens.stub.Abort(pb.AbortRequest(request_id="running"), metadata=bearer("one"))
    collect(stream)
    tokens.stub.GenerateOnce(endless(max_tokens=1), metadata=bearer("one"))

    for _ in range(2):
        tokens.stub.GenerateOnce(endless(max_tokens=1), metadata=bearer("few"))
    with pytest.raises(grpc.RpcError) as refused:
        tokens.stub.GenerateOnce(endless(max_tokens=1), metadata=bearer("few"))
    assert refused.value.code() == EXHAUSTED
    assert 0 < int(dict(refused.value.trailing_metadata())["retry-after-ms"]) <= 37_500  # half a minute, spread

    with rpc_fails(INVALID, "sampling.max_tokens", "max_tokens_per_request is 8"):
        tokens.stub.GenerateOnce(endless(max_tokens=9), metadata=bearer("small"))
    answer = tokens.stub.GenerateOnce(build_request("Once", ignore_eos=True), metadata=bearer("small"))
    assert answer.completions[0].finish.usage.completion_tokens == 8


def test_tenants_cannot_abort_one_another(tokens):
    stream = tokens.stub.Generate(endless("mine"), metadata=bearer("good"))
    next(stream)

    def listed(name: str) -> list[str]:
        return [r.request_id for r in tokens.stub.GetStats(pb.GetStatsRequest(), metadata=bearer(name)).requests]
    eventually(lambda: listed("good") == ["mine"], "the own request in the list")  # which may be some 50 ms old
    assert (listed("other"), listed("ops")) == ([], ["mine"])
    with rpc_fails(grpc.StatusCode.NOT_FOUND, "mine"):
        tokens.stub.Abort(pb.AbortRequest(request_id="mine"), metadata=bearer("other"))
    next(stream)
    tokens.stub.Abort(pb.AbortRequest(request_id="mine"), metadata=bearer("ops"))
    assert collect(stream)[0].finish.reason == pb.FINISH_REASON_ABORT


def test_tokens_are_reloaded(tokens):
    before = tokens.path.read_text()
    with rpc_fails(UNAUTHENTICATED):
        info(tokens.channel, bearer("late"))
    try:
        write_tokens(tokens.path, late={})

        def accepted() -> bool:
            with contextlib.suppress(grpc.RpcError):
                return bool(info(tokens.channel, bearer("late")))
            return False

        eventually(accepted, "the new token to be known")
        with rpc_fails(UNAUTHENTICATED):
            info(tokens.channel, bearer("good"))
    finally:
        tokens.path.write_text(before)
    eventually(lambda: tokens.server.metrics()['kvcrush_auth_token_reloads_total{result="ok"}'] == 2, "the old tokens")


SENTINEL = "xyzzyplugh"


def raw_call(channel: grpc.Channel, message: bytes):
    call = channel.unary_unary("/kvcrush.v1.Inference/GenerateOnce", request_serializer=bytes, response_deserializer=bytes)
    return call(message, metadata=bearer("good"))


def test_prompts_are_not_logged(tokens):
    def once(prompt, request_id: str, metadata=None, **options):
        return tokens.stub.GenerateOnce(build_request(prompt, request_id=request_id, **({"max_tokens": 4} | options)),
                                        metadata=metadata or bearer("good"))

    chat = [{"role": "user", "content": f"Say {SENTINEL}"}]
    answer = once(f"{SENTINEL} {SENTINEL} {SENTINEL}", "log-text", stop=[f"{SENTINEL}!"], max_tokens=24, temperature=0)
    once(chat, "log-chat")
    tokens.stub.Score(build_score_request(SENTINEL, f" and {SENTINEL}", request_id="log-score"), metadata=bearer("good"))
    ids = tokens.stub.Tokenize(pb.TokenizeRequest(text=SENTINEL), metadata=bearer("good")).token_ids
    tokens.stub.Detokenize(pb.DetokenizeRequest(token_ids=ids), metadata=bearer("good"))
    once(list(ids), "log-ids")
    with rpc_fails(UNAUTHENTICATED):
        once(SENTINEL, "log-nobody", metadata=bearer("nobody"))
    for number, (prompt, options) in enumerate([
        (SENTINEL, {"temperature": 200}), (SENTINEL, {"stop": [SENTINEL * 30]}), (f"{SENTINEL} " * 3000, {}),
        (SENTINEL, {"max_tokens": 10**9}), ([{"role": SENTINEL, "content": SENTINEL}, {"role": "", "content": SENTINEL}], {}),
    ]):
        with rpc_fails(INVALID):
            once(prompt, f"log-bad-{number}", **options)
    with rpc_fails(INVALID, "request_id"):
        once(SENTINEL, f"{SENTINEL} {SENTINEL}")
    with rpc_fails(EXHAUSTED):
        once(SENTINEL * 10_000, "log-large")
    with rpc_fails(INVALID):
        raw_call(tokens.channel, b"\x12\x0c" + SENTINEL.encode() + b"\xff\xfe")
    log = tokens.server.log()
    for known in ("log-text", "log-chat", "log-score", "log-ids", "log-bad-4", "rejected", "auth_failed"):
        assert known in log
    assert SENTINEL not in log
    text = answer.completions[0].text.strip()
    assert len(text) > 8 and text not in log
    assert secret_of("good") not in log and secret_of("nobody") not in log


def test_prompts_are_logged_when_asked_for():
    with harness.running_server("--log-prompts", *MEMORY) as server:
        harness.generate(server, f"Say {SENTINEL} " + "word " * 300, max_tokens=1)
        eventually(lambda: "event=finished" in server.log(), "the request in the log")
        log = server.log()
        assert "level=warning event=prompts_logged" in log
        line = next(line for line in log.splitlines() if "event=prompt " in line)
        assert SENTINEL in line and "cut=true" in line and len(line) < 1500


def test_failed_handshakes_are_lines_of_the_log(mutual_tls):
    with refused_connection():
        info(mutual_tls.server.channel)
    lines = mutual_tls.server.log().splitlines()
    assert any("level=warning event=grpc " in line and "andshake" in line for line in lines)
    assert all(line.startswith("20") for line in lines), "something writes past the log"
