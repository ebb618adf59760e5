"""Manifests of deploy/kubernetes, rendered by the real kustomize: valid, confined, and in step with the server."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import subprocess

import kubernetes_validate
import pytest
import yaml

import manifests
import pod_security
from manifests import KUBERNETES, ROOT, VARIANTS, container_of, of_kind, one, options_of, pod_of, render

OLDEST_KUBERNETES = "1.30.0"  # as docs/operations/deploy.md says
OWN_KINDS = {"PodMonitor", "ScaledObject", "GRPCRoute", "InferencePool"}  # of operators; test_custom_resources.py
EVERYTHING = [*VARIANTS, "model-loader"]

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@functools.cache
def validate(document: str, version: str) -> None:
    """Text, since variants share most documents and a schema takes long."""
    kubernetes_validate.validate(json.loads(document), version, strict=True)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("variant", EVERYTHING)
def test_schema(variant, version):
    for document in render(variant):
        if document["kind"] not in OWN_KINDS:
            validate(json.dumps(document), version)


def test_schema_refuses_a_wrong_field():
    document = copy.deepcopy(one(render("overlays/cpu"), "Deployment"))
    document["spec"]["template"]["spec"]["terminationGraceSeconds"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, OLDEST_KUBERNETES, strict=True)


@pytest.mark.parametrize("variant", EVERYTHING)
def test_pods_are_restricted(variant):
    documents = render(variant)
    pods = [d["spec"]["template"] for d in documents if d["kind"] in ("Deployment", "Job")]
    assert pods
    for pod in pods:
        assert pod_security.violations(pod) == []
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "KVCRUSH_PORT=tcp://... of a Service would look like an option"
        containers = spec.get("initContainers", []) + spec["containers"]
        assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in containers)
        assert all(c["resources"]["limits"]["memory"] for c in containers)


@pytest.mark.parametrize(("path", "value"), [
    (("securityContext", "runAsNonRoot"), False),
    (("securityContext", "seccompProfile"), {}),
    (("hostNetwork",), True),
    (("volumes", 0), {"name": "models", "hostPath": {"path": "/srv"}}),
    (("containers", 0, "securityContext", "capabilities"), {}),
    (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
    (("containers", 0, "securityContext", "privileged"), True),
    (("containers", 0, "ports", 0), {"name": "grpc", "containerPort": 50051, "hostPort": 50051}),
])
def test_the_profile_notices(path, value):
    pod = copy.deepcopy(pod_of(render("overlays/cpu")))
    at = pod["spec"]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert len(pod_security.violations(pod)) == 1


def test_namespace_enforces_the_profile():
    assert one(render("overlays/cpu"), "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def matches(selector: dict, labels: dict) -> bool:
    return selector.items() <= labels.items()


@every_variant
def test_selectors_meet_the_server_and_nothing_else(variant):
    documents = render(variant)
    server = pod_of(documents)["metadata"]["labels"]
    loader = one(render("model-loader"), "Job", "kvcrush-model-loader")["spec"]["template"]["metadata"]["labels"]
    selectors = [d["spec"]["selector"] for d in of_kind(documents, "Service")]
    selectors += [d["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor", "InferencePool")
                  for d in of_kind(documents, kind)]
    selectors += [d["spec"]["podSelector"]["matchLabels"] for d in of_kind(documents, "NetworkPolicy") if d["spec"]["podSelector"]]
    selectors += [s["labelSelector"]["matchLabels"] for s in pod_of(documents)["spec"]["topologySpreadConstraints"]]
    assert len(selectors) >= 7
    for selector in selectors:
        assert matches(selector, server) and not matches(selector, loader)


@every_variant
def test_scale_targets_are_the_deployment(variant):
    documents = render(variant)
    scalers = of_kind(documents, "HorizontalPodAutoscaler") + of_kind(documents, "ScaledObject")
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "kvcrush"}
        assert scaler["metadata"]["namespace"] == one(documents, "Deployment")["metadata"]["namespace"]
    # Both at once would pull in two directions; a fixed count would undo the scaler's work at each apply.
    assert len(scalers) <= 1
    assert ("replicas" in one(documents, "Deployment")["spec"]) == (not scalers)


@every_variant
def test_ports_agree(variant):
    documents, container = render(variant), container_of(render(variant))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    options = options_of(documents)
    assert options["KVCRUSH_LISTEN"] == f"0.0.0.0:{ports['grpc']}"
    assert options["KVCRUSH_HTTP_LISTEN"] == f"0.0.0.0:{ports['metrics']}"
    exposed = re.search(r"^EXPOSE (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1].split()
    assert {int(port) for port in exposed} == set(ports.values())
    for service in of_kind(documents, "Service"):
        assert [(p["port"], p["targetPort"]) for p in service["spec"]["ports"]] == [(ports["grpc"], "grpc")]
    for policy in of_kind(documents, "NetworkPolicy"):
        assert {p["port"] for rule in policy["spec"].get("ingress", []) for p in rule["ports"]} <= set(ports)
    for pool in of_kind(documents, "InferencePool"):
        assert pool["spec"]["targetPorts"] == [{"number": ports["grpc"]}]


@every_variant
def test_network_is_closed(variant):
    documents = render(variant)
    deny = one(documents, "NetworkPolicy", "kvcrush-deny-all")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    server = one(documents, "NetworkPolicy", "kvcrush-server")["spec"]
    assert server["egress"] == [] and "Egress" in server["policyTypes"]
    opened = {rule["ports"][0]["port"]: rule["from"] for rule in server["ingress"]}
    assert opened["grpc"] == [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"kvcrush-client": "true"}}}]
    assert opened["metrics"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


@every_variant
def test_variables_are_options(variant):
    documents = render(variant)
    names = set(options_of(documents)) | {entry["name"] for entry in container_of(documents).get("env", [])}
    assert names <= manifests.option_variables()


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_server_takes_the_values(overlay):
    """Wrong options end the server with 2; here only the model, or the GPU, is missing."""
    options = {**options_of(render(f"overlays/{overlay}")), "KVCRUSH_THREADS": "4"}
    done = subprocess.run([str(manifests.SERVER), "--listen", "127.0.0.1:0", "--http-listen", "off"], capture_output=True, text=True,
                          env={**os.environ, **options, "KVCRUSH_MODEL": "/nowhere/model.gguf"}, timeout=60)
    assert done.returncode == 1, done.stderr


@every_variant
def test_references_resolve(variant):
    documents = render(variant)
    spec, container = pod_of(documents)["spec"], container_of(documents)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(volumes) == set(mounts)
    assert one(documents, "ServiceAccount")["metadata"]["name"] == spec["serviceAccountName"]
    assert mounts["models"]["readOnly"]
    assert options_of(documents)["KVCRUSH_MODEL"].startswith(mounts["models"]["mountPath"] + "/")
    if "initContainers" in spec:  # test_models.py
        return
    assert volumes["models"]["persistentVolumeClaim"]["readOnly"]
    assert one(documents, "PersistentVolumeClaim", volumes["models"]["persistentVolumeClaim"]["claimName"])
    loader = one(render("model-loader"), "Job", "kvcrush-model-loader")["spec"]["template"]["spec"]
    assert loader["volumes"][0]["persistentVolumeClaim"]["claimName"] == volumes["models"]["persistentVolumeClaim"]["claimName"]


@every_variant
def test_a_drain_fits_into_the_grace_period(variant):
    documents = render(variant)
    pre_stop_s = container_of(documents)["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed_s = pre_stop_s + manifests.drain_seconds(options_of(documents))
    assert pod_of(documents)["spec"]["terminationGracePeriodSeconds"] >= needed_s + 5
    # Meanwhile endpoints must have forgotten the pod: readiness is not waited for, but it must not take longer either.
    ready = container_of(documents)["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] <= pre_stop_s


@every_variant
def test_probes(variant):
    documents = render(variant)
    container = container_of(documents)
    service = re.search(r'kServiceName = "([\w.]+)"', (ROOT / "server" / "server.cpp").read_text())[1]
    grpc_port = next(port["containerPort"] for port in container["ports"] if port["name"] == "grpc")
    mutual_tls = "KVCRUSH_TLS_CLIENT_CA" in options_of(documents)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[name]
        if mutual_tls:
            assert probe["httpGet"] == {"path": "/readyz", "port": "metrics"} and "grpc" not in probe
        else:
            assert probe["grpc"] == {"port": grpc_port, "service": service} and "httpGet" not in probe
    assert '"/readyz$"' in (ROOT / "server" / "http_endpoints.cpp").read_text()
    # A restart is for what does not pass: it has to wait much longer than traffic does.
    ready, live = ([container[name][key] for key in ("periodSeconds", "failureThreshold")] for name in ("readinessProbe", "livenessProbe"))
    assert live[0] * live[1] >= 300 and ready[0] * ready[1] <= 15
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] < one(documents, "Deployment")["spec"]["progressDeadlineSeconds"]


@every_variant
def test_threads_and_memory_fit_the_limits(variant):
    documents = render(variant)
    container = container_of(documents)
    limits = container["resources"]["limits"]
    threads = next(entry for entry in container["env"] if entry["name"] == "KVCRUSH_THREADS")
    assert threads["valueFrom"]["resourceFieldRef"] == {"containerName": "server", "resource": "limits.cpu"}
    assert limits["cpu"].isdigit(), "KVCRUSH_THREADS would be rounded up"
    assert container["resources"]["requests"] == limits
    kv_memory = options_of(documents)["KVCRUSH_KV_MEMORY"]
    if kv_memory != "auto":  # auto: in the GPU's memory
        assert manifests.bytes_of(limits["memory"]) >= manifests.bytes_of(kv_memory) + 2**30
    else:
        assert limits["nvidia.com/gpu"] == "1"


@every_variant
def test_plaintext_only_where_there_is_no_tls(variant):
    documents = render(variant)
    options = options_of(documents)
    tls = "KVCRUSH_TLS_CERT" in options
    assert options["KVCRUSH_ALLOW_PLAINTEXT"] == ("false" if tls else "true")
    protocols = {p["appProtocol"] for s in of_kind(documents, "Service") for p in s["spec"]["ports"]}
    assert protocols == {"https" if tls else "kubernetes.io/h2c"}
    mounts = {mount["mountPath"] for mount in container_of(documents)["volumeMounts"] if mount.get("readOnly")}
    files = [options[name] for name in ("KVCRUSH_TLS_CERT", "KVCRUSH_TLS_KEY", "KVCRUSH_TLS_CLIENT_CA", "KVCRUSH_AUTH_TOKENS")
             if name in options]
    assert len(files) == (4 if tls else 0)
    assert {os.path.dirname(file) for file in files} <= mounts
    assert all("subPath" not in mount for mount in container_of(documents)["volumeMounts"]), "would never change"


def test_production_is_all_of_it():
    documents = render("overlays/production")
    assert {"PodMonitor", "ScaledObject"} <= {document["kind"] for document in documents}
    assert "KVCRUSH_TLS_CLIENT_CA" in options_of(documents)
    assert container_of(documents)["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_every_file_is_used():
    """A manifest that no kustomization names would be dead and unchecked."""
    named = set()
    for kustomization in KUBERNETES.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text())
        entries = content.get("resources", []) + [p["path"] for p in content.get("patches", []) if "path" in p]
        entries += [env for generator in content.get("configMapGenerator", []) for env in generator.get("envs", [])]
        named |= {(kustomization.parent / entry).resolve() for entry in entries} | {kustomization.resolve()}
    named = {path for path in named if not path.is_dir()}
    files = {file.resolve() for file in KUBERNETES.rglob("*") if file.is_file()}
    for other in ("components/hpa/prometheus-adapter-values.yaml", "components/monitoring/rules.sh"):
        named.add((KUBERNETES / other).resolve())
    assert files == named
    assert {f"components/{p.name}" for p in (KUBERNETES / "components").iterdir()} <= set(VARIANTS)
    assert {f"overlays/{p.name}" for p in (KUBERNETES / "overlays").iterdir()} <= set(VARIANTS)
