"""Resources of operators, whose schemas no package brings: every field they use is one we looked up, and metrics are real."""

from __future__ import annotations

import re
import subprocess

import yaml

import manifests
from manifests import KUBERNETES, container_of, one, render


def shape(value, path=""):
    """Paths of all leaves; list positions and keys of label maps left out."""
    if isinstance(value, dict) and not path.endswith(("matchLabels", "metadata")):
        return {leaf for key, inner in value.items() for leaf in shape(inner, f"{path}.{key}")}
    if isinstance(value, list):
        return {leaf for inner in value for leaf in shape(inner, path)}
    return {path.lstrip(".")}


def test_pod_monitor():
    documents = render("components/monitoring")
    monitor = one(documents, "PodMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    endpoint = "podMetricsEndpoints"
    assert shape(monitor["spec"]) == {"jobLabel", "selector.matchLabels", f"{endpoint}.port", f"{endpoint}.path",
                                      f"{endpoint}.interval", f"{endpoint}.scrapeTimeout"}
    [scrape] = monitor["spec"][endpoint]
    assert scrape["port"] in {port["name"] for port in container_of(documents)["ports"]}
    assert scrape["path"] == "/metrics"
    assert int(scrape["scrapeTimeout"].rstrip("s")) < int(scrape["interval"].rstrip("s"))
    labels = manifests.pod_of(documents)["metadata"]["labels"]
    assert labels[monitor["spec"]["jobLabel"]] == "kvcrush", "rules and dashboard select this job"


def test_rules_are_those_of_prometheus():
    printed = subprocess.run([KUBERNETES / "components/monitoring/rules.sh"], capture_output=True, text=True, check=True, timeout=60)
    rules = {rule["metadata"]["name"]: rule for rule in yaml.safe_load_all(printed.stdout)}
    assert set(rules) == {"kvcrush-recording-rules", "kvcrush-alerts"}
    for name, rule in rules.items():
        file = manifests.ROOT / "deploy" / "prometheus" / (name.removeprefix("kvcrush-") + ".yml")
        assert rule["kind"] == "PrometheusRule" and rule["spec"] == yaml.safe_load(file.read_text())


def test_scaled_object():
    spec = one(render("components/keda"), "ScaledObject")["spec"]
    assert {leaf.split(".")[0] for leaf in shape(spec)} == {
        "scaleTargetRef", "pollingInterval", "minReplicaCount", "maxReplicaCount", "fallback", "advanced", "triggers"}
    assert 0 < spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    for trigger in spec["triggers"]:
        assert trigger["type"] == "prometheus" and trigger["metricType"] == "AverageValue"  # fallback works with no other
        assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold", "ignoreNullValues"}
        assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA wants strings"
        assert set(re.findall(r"kvcrush_\w+", trigger["metadata"]["query"])) <= manifests.metric_names()
        assert trigger["metadata"]["query"].startswith("sum("), "a threshold is per replica, so the query sums over them"
    asked = " ".join(trigger["metadata"]["query"] for trigger in spec["triggers"])
    assert "kvcrush_num_requests_waiting" in asked and "kvcrush_kv_cache_usage_ratio" in asked


def test_autoscaler_and_adapter_name_the_same_metrics():
    spec = one(render("components/hpa"), "HorizontalPodAutoscaler")["spec"]
    names = {metric["pods"]["metric"]["name"] for metric in spec["metrics"]}
    assert names == {"kvcrush_num_requests_waiting", "kvcrush_kv_cache_usage_ratio"} and names <= manifests.metric_names()
    values = yaml.safe_load((KUBERNETES / "components/hpa/prometheus-adapter-values.yaml").read_text())
    [rule] = values["rules"]["custom"]
    pattern = re.search(r'__name__=~"([^"]+)"', rule["seriesQuery"])[1]
    assert all(re.fullmatch(pattern, name) for name in names)
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
    assert {"<<.Series>>", "<<.LabelMatchers>>"} <= set(re.findall(r"<<[.\w]+>>", rule["metricsQuery"]))


def test_both_scalers_behave_alike():
    hpa = one(render("components/hpa"), "HorizontalPodAutoscaler")["spec"]
    keda = one(render("components/keda"), "ScaledObject")["spec"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (hpa["minReplicas"], hpa["maxReplicas"])


def test_grpc_route():
    documents = render("components/gateway")
    route = one(documents, "GRPCRoute")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert shape(route["spec"]) == {"parentRefs.name", "parentRefs.namespace", "hostnames", "rules.matches.method.service",
                                    "rules.backendRefs.name", "rules.backendRefs.port"}
    [rule] = route["spec"]["rules"]
    services = {match["method"]["service"] for match in rule["matches"]}
    package, name = re.search(r"package ([\w.]+);.*?\nservice (\w+)", (
        manifests.ROOT / "proto/kvcrush/v1/inference.proto").read_text(), re.DOTALL).groups()
    assert services == {f"{package}.{name}", "grpc.health.v1.Health"}
    [backend] = rule["backendRefs"]
    assert backend["port"] in {port["port"] for port in one(documents, "Service", backend["name"])["spec"]["ports"]}
    [let_in] = one(documents, "NetworkPolicy", "kvcrush-from-gateway")["spec"]["ingress"][0]["from"]
    assert let_in["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == route["spec"]["parentRefs"][0]["namespace"]


def test_inference_pool():
    pool = one(render("components/inference-pool"), "InferencePool")
    assert pool["apiVersion"] == "inference.networking.k8s.io/v1"
    assert shape(pool["spec"]) == {"selector.matchLabels", "appProtocol", "targetPorts.number", "endpointPickerRef.name",
                                   "endpointPickerRef.port.number", "endpointPickerRef.failureMode"}
    assert pool["spec"]["endpointPickerRef"]["failureMode"] in ("FailOpen", "FailClose")
    told = (KUBERNETES / "components/inference-pool/kustomization.yaml").read_text()
    assert set(re.findall(r"kvcrush_\w+", told)) <= manifests.metric_names()
