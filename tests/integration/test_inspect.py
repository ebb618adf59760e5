"""kvcrush inspect, whose figures are those of a running server, and model files that a server opens or refuses."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import time

import gguf
import numpy as np
import pytest

import harness
from harness import build_request, collect, running_server

KV_MEMORY = 48 << 20
PROMPT_TOKENS, OUTPUT_TOKENS = 400, 112
LENGTH = PROMPT_TOKENS + OUTPUT_TOKENS
OPTIONS = ["--kv-memory", str(KV_MEMORY), "--prefix-cache", "false", "--swap-memory", "0"]


def inspect(model, *options: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KVCRUSH_")}
    return subprocess.run([str(harness.CLI), "inspect", str(model), *options], capture_output=True, text=True, timeout=60, env=environment)


def inspected(model, *options: str) -> dict:
    done = inspect(model, "--json", "--kv-memory", str(KV_MEMORY), "--tokens", str(LENGTH), *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The model in a Hugging Face cache, as links."""
    hub = tmp_path_factory.mktemp("hub")
    repository = hub / "models--org--small"
    for folder in ("blobs", "refs", "snapshots/c0ffee", "snapshots/older"):
        (repository / folder).mkdir(parents=True)
    (repository / "blobs" / "abc").symlink_to(harness.MODEL)
    (repository / "refs" / "main").write_text("c0ffee")
    for snapshot in ("c0ffee", "older"):
        (repository / "snapshots" / snapshot / "small.gguf").symlink_to("../../blobs/abc")
    return hub


@pytest.fixture(scope="module")
def small_server(cache):
    with running_server(*OPTIONS, "--kv-dtype", "bf16", model=cache) as server:
        yield server


def test_a_cache_is_served_and_the_log_names_the_file(small_server, cache):
    opened = cache / "models--org--small" / "snapshots" / "c0ffee" / "small.gguf"
    [line] = [line for line in small_server.log().splitlines() if "event=model_file" in line]
    assert f"path={opened}" in line
    assert inspected(cache)["path"] == str(opened)


def test_figures_of_the_model_and_the_pool(small_server, cache):
    info, report = small_server.client.model_info(), inspected(cache, "--kv-dtype", "bf16")
    model = report["model"]
    assert report["runnable"] and report["problems"] == []
    assert (model["architecture"], model["layers"], model["query_heads"], model["kv_heads"], model["head_dim"]) == (
        info.architecture, info.num_layers, info.num_heads, info.num_kv_heads, info.head_dim)
    assert (model["parameters"], model["vocabulary"], model["context_tokens"]) == (
        info.num_parameters, info.vocab_size, info.max_context_tokens)
    assert (model["chat_template"] == "yes") == bool(info.chat_template)
    [figures] = report["kv_cache"]["dtypes"]
    assert (figures["blocks"], figures["block_bytes"], figures["tokens_per_block"]) == (
        info.num_blocks, info.block_bytes, info.block_size_tokens)
    assert figures["bytes_per_token"] == info.num_layers * info.block_bytes / info.block_size_tokens


def run_together(server, count: int, compression: dict) -> tuple[int, int]:
    """Runs so many sequences of LENGTH tokens; returns how many ran at a time at most, and preemptions."""
    before = server.client.stats().preemptions

    def run(index: int) -> None:
        prompt = [(1000 * index + 7 * i) % 40000 + 100 for i in range(PROMPT_TOKENS)]
        request = build_request(prompt, max_tokens=OUTPUT_TOKENS, ignore_eos=True, temperature=0, compression=compression)
        [sample] = collect(server.stub.Generate(request)).values()
        assert len(sample.token_ids) == OUTPUT_TOKENS

    most = 0
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(run, index) for index in range(count)]
        while not all(call.done() for call in calls):
            most = max(most, server.client.stats().requests_running)
            time.sleep(0.02)
    for call in calls:
        call.result()
    return most, server.client.stats().preemptions - before


def test_as_many_full_sequences_fit_as_it_says(small_server, cache):
    [fit] = inspected(cache, "--kv-dtype", "bf16")["kv_cache"]["dtypes"][0]["sequences"]
    assert fit["tokens"] == LENGTH and fit["full"] >= 3
    assert run_together(small_server, fit["full"], {"policy": "off"}) == (fit["full"], 0)
    most, preemptions = run_together(small_server, fit["full"] + 1, {"policy": "off"})
    assert most <= fit["full"] or preemptions > 0


def test_as_many_pruned_sequences_fit_as_it_says(small_server, cache):
    [fit] = inspected(cache, "--kv-dtype", "bf16", "--budget", "0.25")["kv_cache"]["dtypes"][0]["sequences"]
    assert fit["pruned"] > 1.5 * fit["full"]
    compression = {"policy": "snapkv", "budget_fraction": 0.25, "preset": "default"}
    assert run_together(small_server, fit["pruned"], compression) == (fit["pruned"], 0)


def test_a_table_for_people_and_exit_codes(tmp_path):
    start = time.monotonic()
    done = inspect(harness.MODEL)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 1 * harness.SLOWNESS
    for words in ("llama", "134,515,008", "Q4_1", "bf16", "<|im_end|>", "smollm", "The server can run this model."):
        assert words in done.stdout
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(harness.MODEL.read_bytes()[:5_000_000])
    done = inspect(broken)
    assert done.returncode == 1
    assert f"problem: {broken}: at byte" in done.stdout and "The server cannot run this model." in done.stdout
    assert inspect(harness.MODEL, "--budget", "1.5").returncode == 2
    assert inspect(harness.MODEL, "--kv-dtype", "f64").returncode == 2
    assert inspect(harness.MODEL, "--kv-memory", "much").returncode == 2


def start_refused(model) -> str:
    done = subprocess.run(harness.server_command(model), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    return done.stderr.splitlines()[-1]


def test_a_weight_that_is_nan_refuses_the_start(tmp_path):
    path = tmp_path / "nan.gguf"
    shutil.copy(harness.MODEL, path)
    tensor = next(t for t in gguf.GGUFReader(harness.MODEL).tensors if t.name == "blk.7.ffn_down.weight")
    block_bytes = gguf.GGML_QUANT_SIZES[tensor.tensor_type][1]
    with path.open("r+b") as file:
        file.seek(int(tensor.data_offset) + 3 * block_bytes)
        file.write(np.float16("nan").tobytes())
    reason = start_refused(path)
    assert f"{path}: tensor 'blk.7.ffn_down.weight' of type {tensor.tensor_type.name} is NaN in the block at [0, 96]" in reason


def test_paths_that_lead_nowhere_refuse_the_start(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert "loop: cannot be opened: Too many levels of symbolic links" in start_refused(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    assert "folder: holds no model" in start_refused(tmp_path / "folder")
    for name in ("a", "b"):
        (tmp_path / "folder" / f"{name}.gguf").symlink_to(harness.MODEL)
    assert "has 2 GGUF models, name one of them: a.gguf, b.gguf" in start_refused(tmp_path / "folder")
