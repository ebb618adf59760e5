"""A log that cannot be written must neither end the server nor hold it up."""

import os
import resource
import subprocess
import time

import grpc

from harness import MODEL, SERVER, build_request, eventually, generate, rpc_fails, running_server, wait_idle

SMALL = ("--kv-memory", "64MiB")


def serves(server, count: int = 3) -> None:
    for _ in range(count):
        assert generate(server, "One two three", max_tokens=3, ignore_eos=True).finish.usage.completion_tokens == 3
    with rpc_fails(grpc.StatusCode.INVALID_ARGUMENT):
        server.stub.GenerateOnce(build_request("x", temperature=-1))
    assert server.get("/readyz")[0] == 200
    wait_idle(server)


def ends_well(server) -> None:
    server.client.close()  # an idle Python client does not read the goodbye, and the server waits for it for 5 s
    server.channel.close()
    start = time.monotonic()
    server.terminate()
    assert server.wait() == 0
    assert time.monotonic() - start < 5


def test_full_disk():
    with open("/dev/full", "wb") as full, running_server(*SMALL, stderr=full) as server:
        serves(server)
        ends_well(server)


def test_reader_of_the_log_has_gone():
    reader, writer = os.pipe()
    with running_server(*SMALL, stderr=writer) as server:
        os.close(writer)
        os.close(reader)
        serves(server)
        ends_well(server)


def test_reader_of_the_log_has_gone_and_no_http():
    """Nothing but the server itself keeps SIGPIPE away then."""
    command = [str(SERVER), "--model", str(MODEL), "--listen", "127.0.0.1:0", "--http-listen", "off", *SMALL]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert any(b"event=ready" in line for line in process.stderr)
        process.stderr.close()
        process.terminate()  # "signal", "draining" and "stopped" meet a closed pipe
        assert process.wait(30) == 0


def test_nobody_reads_the_log():
    reader, writer = os.pipe()
    with running_server(*SMALL, "--log-level", "debug", stderr=writer) as server:
        os.close(writer)
        os.set_blocking(reader, False)
        for _ in range(8):  # a pipe holds 64 KiB
            for _ in range(30):
                with rpc_fails(grpc.StatusCode.INVALID_ARGUMENT):
                    server.stub.GenerateOnce(build_request("x", temperature=-1, request_id="r" * 128))
        serves(server)
        ends_well(server)  # though its writer still hangs in write()
    os.close(reader)


def test_log_file_at_its_size_limit():
    with running_server(*SMALL) as server:
        eventually(lambda: "event=ready" in server.log(), "the log")
        size = server.log_path.stat().st_size
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size + 10, size + 10))
        serves(server)
        assert server.log_path.stat().st_size <= size + 10
        ends_well(server)
