"""The metrics that the Gateway API Inference Extension's endpoint picker reads mean what its model-server protocol says."""

import re

import pytest

from monitoring_files import ROOT
from real_prometheus import harness

DOCUMENT = ROOT / "docs" / "operations" / "metrics.md"


@pytest.fixture(scope="module")
def server():
    with harness.running_server("--kv-memory", "16MiB", "--max-running", "1") as running:
        yield running


def value(server, name: str) -> float:
    return server.metrics()[name]


def test_queued_and_running_requests_and_kv_cache_utilisation(server):
    assert value(server, "kvcrush_num_requests_running") == value(server, "kvcrush_num_requests_waiting") == 0
    assert value(server, "kvcrush_kv_cache_usage_ratio") == 0
    calls = [server.stub.Generate(harness.build_request("Count: one two three", max_tokens=250, ignore_eos=True)) for _ in range(3)]
    harness.eventually(lambda: (value(server, "kvcrush_num_requests_running"), value(server, "kvcrush_num_requests_waiting")) == (1, 2),
                       "one request to run and two to wait")
    metrics = server.metrics()
    assert metrics["kvcrush_kv_cache_usage_ratio"] == metrics["kvcrush_kv_blocks_used"] / metrics["kvcrush_kv_blocks_total"]
    assert 0 < metrics["kvcrush_kv_cache_usage_ratio"] < 1
    for call in calls:
        call.cancel()
    harness.wait_idle(server)
    harness.eventually(lambda: value(server, "kvcrush_kv_cache_usage_ratio") == 0, "the gauge to follow")


def test_block_size_and_number_of_blocks(server):
    (sample,) = [name for name in server.metrics() if name.startswith("kvcrush_cache_config_info{")]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', sample))
    info = server.client.model_info()
    assert labels == {"block_size": str(info.block_size_tokens), "num_blocks": str(info.num_blocks),
                      "num_gpu_blocks": str(info.num_blocks // info.num_layers), "kv_dtype": info.kv_dtype}
    # What a picker works out from it is what the pool really holds: a prompt one block too long is refused.
    capacity = int(labels["block_size"]) * int(labels["num_gpu_blocks"])
    assert capacity < info.max_context_tokens
    with harness.rpc_fails(harness.grpc.StatusCode.INVALID_ARGUMENT):
        harness.generate(server, [1] * (capacity + info.block_size_tokens), max_tokens=1)
    assert len(harness.generate(server, [1] * (capacity - info.block_size_tokens), max_tokens=1).token_ids) == 1


def test_the_document_maps_to_metrics_that_exist(server):
    section = DOCUMENT.read_text().split("## Gateway API Inference Extension")[1]
    named = set(re.findall(r"\bkvcrush_[a-z_]+", section))
    assert {"kvcrush_num_requests_waiting", "kvcrush_num_requests_running", "kvcrush_kv_cache_usage_ratio",
            "kvcrush_cache_config_info"} <= named
    assert named <= set(re.findall(r"^# TYPE (\S+) ", server.get("/metrics")[1], re.MULTILINE))
