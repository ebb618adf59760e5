"""The pipe, with a worker that needs no peer."""

import contextlib
import pathlib
import sys

import pytest

import peer_process
from kvcrush_eval import EvalError

WORKER = """
import os, sys
sys.path.insert(0, {folder!r})
import pipe

class Worker:
    def __init__(self):
        self.opened = 0
    def open(self, message):
        print("noise on stdout")
        self.opened += 1
        return {{"version": str(self.opened), **message}}
    def run(self, message):
        if message["max_new_tokens"] == 13:
            raise ValueError("unlucky")
        if message["max_new_tokens"] == 99:
            os._exit(3)
        return {{"ids": [[self.opened]], "times_ms": [[1.5]]}}

pipe.serve(Worker)
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_process, "install", lambda package: pathlib.Path(sys.executable))
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.format(folder=str(pathlib.Path(peer_process.__file__).parent)))
    with contextlib.closing(peer_process.PeerProcess(peer_process.LLAMA_CPP, str(worker), {"threads": 2})) as process:
        yield process


def test_a_setting_is_opened_once(peer):
    assert peer.meta == {"version": "not run"}
    assert peer.run({"kv": "a"}, [[1]], 1)["ids"] == [[1]]
    assert peer.run({"kv": "a"}, [[1]], 1)["ids"] == [[1]]
    assert peer.run({"kv": "b"}, [[1]], 1)["ids"] == [[2]]
    assert (peer.meta["threads"], peer.meta["kv"], peer.meta["version"]) == (2, "b", "2")


def test_what_it_raises_is_told_and_it_goes_on(peer):
    with pytest.raises(EvalError, match="llama.cpp failed: ValueError: unlucky"):
        peer.run({}, [[1]], 13)
    assert peer.run({}, [[1]], 1)["times_ms"] == [[1.5]]


def test_a_process_that_dies_is_told(peer):
    with pytest.raises(EvalError, match="ended with 3"):
        peer.run({}, [[1]], 99)
    with pytest.raises(EvalError, match="ended with 3"):
        peer.run({}, [[1]], 1)
