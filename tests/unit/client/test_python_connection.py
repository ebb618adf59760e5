"""The Python client's connection against a server in this process: headers, TLS, retries."""

import contextlib
import subprocess
import time
from concurrent import futures

import grpc
import pytest
from kvcrush.v1 import inference_pb2 as pb
from kvcrush.v1 import inference_pb2_grpc as pb_grpc
from kvcrush_client import Client
from kvcrush_client.connection import retry_wait_s

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Fake(pb_grpc.InferenceServicer):
    """Refuses the first calls as told, then answers; fails in the middle when `broken`."""

    def __init__(self):
        self.calls, self.refusals, self.retry_after_ms, self.broken, self.metadata = 0, 0, None, False, {}

    def _begin(self, context):
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        if self.refusals > 0:
            self.refusals -= 1
            if self.retry_after_ms is not None:
                context.set_trailing_metadata((("retry-after-ms", str(self.retry_after_ms)),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full")

    def Generate(self, request, context):  # noqa: N802
        self._begin(context)
        yield pb.GenerateResponse(text="one ")
        if self.broken:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        yield pb.GenerateResponse(text="two")

    def GetModelInfo(self, request, context):  # noqa: N802
        self._begin(context)
        return pb.GetModelInfoResponse(model_name="fake")


@contextlib.contextmanager
def serving(credentials=None):
    fake = Fake()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_InferenceServicer_to_server(fake, server)
    port = server.add_secure_port("localhost:0", credentials) if credentials else server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield fake, f"localhost:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def fake():
    with serving() as (service, target):
        service.target = target
        yield service


def text_of(client):
    return "".join(chunk.text for chunk in client.generate("hi"))


def test_headers_go_with_every_call(fake):
    with Client(fake.target, token="secret", tenant="gold", traceparent=TRACEPARENT) as client:
        for call in (client.model_info, lambda: text_of(client)):
            call()
            sent = fake.metadata
            assert (sent["authorization"], sent["x-tenant"], sent["traceparent"]) == ("Bearer secret", "gold", TRACEPARENT)
    with Client(fake.target) as client:
        client.model_info()
        assert not {"authorization", "x-tenant", "traceparent"} & set(fake.metadata)


@pytest.mark.parametrize("options", [{"token": "two words"}, {"token": ""}, {"tenant": "a\nb"}, {"traceparent": "00-1-2-3"},
                                     {"tls_cert": b"x"}, {"credentials": grpc.ssl_channel_credentials(), "tls_ca": b"x"}])
def test_what_cannot_work_is_told_at_once(options):
    with pytest.raises(ValueError) as error:
        Client("localhost:1", **options)
    assert "two words" not in str(error.value), "a token is not shown"


def test_waits_as_the_server_asks(fake):
    fake.refusals, fake.retry_after_ms = 2, 60
    start = time.monotonic()
    with Client(fake.target, max_retries=2) as client:
        assert text_of(client) == "one two"
        assert time.monotonic() - start >= 0.12 and fake.calls == 3
        fake.refusals = 1
        assert client.model_info().model_name == "fake"


def test_gives_up_after_so_many_tries_and_never_in_the_middle(fake):
    fake.refusals, fake.retry_after_ms = 9, 1
    with Client(fake.target) as client, pytest.raises(grpc.RpcError) as error:
        client.model_info()
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and fake.calls == 1
    with Client(fake.target, max_retries=2) as client, pytest.raises(grpc.RpcError):
        text_of(client)
    assert fake.calls == 4
    fake.refusals, fake.broken = 0, True
    with Client(fake.target, max_retries=5) as client, pytest.raises(grpc.RpcError):
        text_of(client)
    assert fake.calls == 5


def test_does_not_wait_past_the_deadline(fake):
    fake.refusals, fake.retry_after_ms = 9, 5000
    start = time.monotonic()
    with Client(fake.target, max_retries=5, timeout_s=1) as client, pytest.raises(grpc.RpcError):
        client.model_info()
    assert time.monotonic() - start < 1


class Refusal(grpc.RpcError):
    def __init__(self, code, hint=None):
        self._code, self._hint = code, hint

    def code(self):
        return self._code

    def trailing_metadata(self):
        return (("retry-after-ms", self._hint),) if self._hint is not None else None


def test_retry_waits():
    unavailable = Refusal(grpc.StatusCode.UNAVAILABLE)
    assert [retry_wait_s(unavailable, tried, 50, 0) for tried in (1, 2, 3, 50)] == [0.05, 0.1, 0.2, 5]
    assert retry_wait_s(Refusal(grpc.StatusCode.UNAVAILABLE, "400"), 3, 3, 0.5) == pytest.approx(0.45)
    assert retry_wait_s(Refusal(grpc.StatusCode.UNAVAILABLE, "61000"), 1, 3, 0) is None
    assert retry_wait_s(Refusal(grpc.StatusCode.UNAVAILABLE, "soon"), 1, 3, 0) == 0.05
    assert retry_wait_s(unavailable, 4, 3, 0) is None
    assert retry_wait_s(Refusal(grpc.StatusCode.INTERNAL), 1, 3, 0) is None


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for name in "ca", "other":
        openssl(folder, "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name in "localhost", "client":
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name}\n")
        openssl(folder, "req", "-new", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days",
                "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    return folder


def test_tls_in_both_directions(certificates):
    read = lambda name: (certificates / name).read_bytes()  # noqa: E731
    credentials = grpc.ssl_server_credentials([(read("localhost.key"), read("localhost.pem"))], read("ca.pem"), True)
    own = {"tls_cert": str(certificates / "client.pem"), "tls_key": read("client.key")}
    with serving(credentials) as (_, target):
        with Client(target, tls_ca=certificates / "ca.pem", **own) as client:
            assert text_of(client) == "one two"
        for refused in {"tls_ca": read("other.pem"), **own}, {"tls_ca": read("ca.pem")}, {}, \
                {"tls_ca": read("ca.pem"), "tls_server_name": "elsewhere", **own}:
            with Client(target, timeout_s=5, **refused) as client, pytest.raises(grpc.RpcError) as error:
                client.model_info()
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE, refused
