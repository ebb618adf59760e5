"""A real server under load, scraped by a real Prometheus: every rule and every query of the dashboard has data."""

import contextlib
import re
import subprocess
import sys
import time

import grpc
import pytest

from absent_metrics import ABSENT_METRICS
from monitoring_files import DEPLOY, HISTOGRAM_SUFFIX, ROOT, metrics_in, panel_queries, recording_rules, rules, sources_of
from real_prometheus import Prometheus, harness

LOAD_S = 6  # long enough for several scrapes between the first and the last request


def long_prompt() -> str:
    return (ROOT / "tools" / "demo_prompt.txt").read_text()[:4000]


def refuse_some(server) -> None:
    """Fills the running and the waiting places, has one more refused, and cancels the rest."""
    calls = []
    for running, waiting in ((1, 0), (2, 0), (2, 1), (2, 2)):
        calls.append(server.stub.Generate(harness.build_request("Count: one two", max_tokens=1000, ignore_eos=True)))

        def settled(expected=(running, waiting)) -> bool:
            stats = server.client.stats()
            return (stats.requests_running, stats.requests_waiting) == expected

        harness.eventually(settled, f"{running} to run and {waiting} to wait")
    with harness.rpc_fails(grpc.StatusCode.RESOURCE_EXHAUSTED):
        server.stub.GenerateOnce(harness.build_request("one more", max_tokens=1))
    for call in calls:
        call.cancel()
    with harness.rpc_fails(grpc.StatusCode.INVALID_ARGUMENT):
        server.stub.GenerateOnce(harness.build_request("hot", temperature=-1, max_tokens=1))
    harness.wait_idle(server)


def drive_load(server) -> None:
    deadline = time.monotonic() + LOAD_S * harness.SLOWNESS
    while time.monotonic() < deadline:
        harness.generate(server, "The capital of France is", max_tokens=8, ignore_eos=True)
        for compression in ({"policy": "snapkv", "budget_fraction": 0.25}, {"target_compression": 4}):
            harness.generate(server, long_prompt(), max_tokens=16, ignore_eos=True, compression=compression)
        refuse_some(server)


@pytest.fixture(scope="module")
def server():
    with harness.running_server("--kv-memory", "256MiB", "--max-running", "2", "--max-waiting", "2") as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(server):
    with contextlib.closing(Prometheus(server.http.removeprefix("http://"))) as running:
        harness.eventually(lambda: running.query('up{job="kvcrush"}') == [1], "the first scrape")
        drive_load(server)
        finished = server.metrics()['kvcrush_request_success_total{finished_reason="length"}']
        harness.eventually(lambda: running.query('kvcrush_request_success_total{finished_reason="length"}') == [finished],
                           "the last request to be scraped")
        harness.eventually(lambda: all(rule["health"] == "ok" for rule in running.rules()), "every rule to be evaluated")
        time.sleep(2)  # for rules that read other rules
        yield running


def families(server) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+) ", server.get("/metrics")[1], re.MULTILINE))


def test_target_is_up(prometheus):
    (target,) = [t for t in prometheus.get("targets")["activeTargets"] if t["labels"]["job"] == "kvcrush"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_no_rule_has_an_error(prometheus):
    running = prometheus.rules()
    assert len(running) == len(rules())
    assert [(rule["name"], rule.get("lastError")) for rule in running if rule["health"] != "ok"] == []


def without_data(prometheus, queries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of (what, PromQL) that have no value, though every metric they read is there."""
    return [(what, expr) for what, expr in queries
            if not sources_of(expr) & set(ABSENT_METRICS) and not prometheus.query(expr)]


def test_every_recording_rule_has_data(prometheus):
    assert without_data(prometheus, [(name, name) for name in recording_rules()]) == []


def test_every_query_of_every_panel_has_data(prometheus):
    assert without_data(prometheus, panel_queries()) == []


@pytest.mark.parametrize("name", ABSENT_METRICS)
def test_absent_metric_is_absent_and_needed(prometheus, name):
    assert prometheus.query(f"count ({name})") == [], f"{name} has data: take it out of absent_metrics.py"
    exprs = [rule["expr"] for rule in rules()] + [expr for _, expr in panel_queries()]
    assert any(name in metrics_in(expr) for expr in exprs), f"{name} is used nowhere: take it out of absent_metrics.py"


def test_recording_rules_agree_with_the_server(prometheus, server):
    """Right data, not just data: what Prometheus says is what the server counted."""
    assert prometheus.query("kvcrush_kv_pool_bytes") == [server.metrics()["kvcrush_kv_pool_bytes"]]
    info = server.client.model_info()
    assert server.metrics()["kvcrush_kv_pool_bytes"] == info.num_blocks * info.block_bytes
    (ratio,) = prometheus.query("kvcrush:compression_ratio:p50_5m")
    assert 2 < ratio < 8  # a budget of a quarter
    assert prometheus.query('sum (kvcrush:rejected_requests:rate5m{code="RESOURCE_EXHAUSTED"})')[0] > 0
    (errors,) = prometheus.query("kvcrush:error_ratio:rate5m")
    assert 0 < errors < 0.5


def test_no_alert_fires_on_a_healthy_server(prometheus):
    firing = [rule["name"] for rule in prometheus.rules() if rule["type"] == "alerting" and rule["state"] == "firing"]
    assert firing == []


def test_metrics_that_deploy_names_exist(prometheus, server):
    known = families(server) | set(recording_rules()) | set(ABSENT_METRICS)
    exprs = [rule["expr"] for rule in rules()] + [expr for _, expr in panel_queries()]
    used = set().union(*map(metrics_in, exprs))
    for path in DEPLOY.rglob("*"):  # manifests too: an autoscaler's metric, say
        if path.is_file() and path.suffix in {".yml", ".yaml", ".json", ".md", ".toml"}:
            used |= {HISTOGRAM_SUFFIX.sub("", name) for name in re.findall(r"\bkvcrush_[a-z0-9_]+", path.read_text())}
    assert used - known == set()


def test_metrics_reference_is_up_to_date(prometheus, server):
    done = subprocess.run([sys.executable, ROOT / "tools" / "metrics_reference.py", server.http + "/metrics", "--check"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_dead_server_alarms(prometheus, server):
    """The last test of this server: `for` delays the alert by a minute, so it is pending here."""
    server.process.kill()
    harness.eventually(lambda: prometheus.query('ALERTS{alertname="KvcrushDown"}') == [1], "the alert")
