"""deploy/compose: valid by a strict parser of the Compose specification, confined, and in step with the server."""

from __future__ import annotations

import functools
import re

import compose_spec
import pytest
import yaml

import manifests
from manifests import ROOT

COMPOSE = ROOT / "deploy" / "compose"
FILES = {"plain": ["compose.yaml"], "tls": ["compose.yaml", "compose.tls.yaml"], "gpu": ["compose.yaml", "compose.gpu.yaml"]}
every_setup = pytest.mark.parametrize("setup", FILES)


def interpolated(text: str, variables: dict[str, str]) -> str:
    """What Compose makes of ${NAME:-default} and $$; nothing else of its syntax is used."""
    assert not re.search(r"(?<!\$)\$(?!\$|\{[A-Z_]+:-[^}]*\})", text.replace("$$", "")), "another kind of variable"
    text = re.sub(r"\$\{([A-Z_]+):-([^}]*)\}", lambda found: variables.get(found[1]) or found[2], text)
    return text.replace("$$", "$")


def merged(below, above):
    """One file over another: mappings are merged, a command or health check is replaced, other lists are joined."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: (above[key] if key not in below or key == "test" else merged(below[key], above[key]))
                if key in above else below[key] for key in [*below, *(k for k in above if k not in below)]}
    return below + above if isinstance(below, list) and isinstance(above, list) else above


@functools.cache
def load(setup: str) -> dict:
    files = [interpolated((COMPOSE / name).read_text(), {}) for name in FILES[setup]]
    compose = functools.reduce(merged, map(yaml.safe_load, files))
    spec = compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose))
    spec.validate()
    return compose


@pytest.mark.parametrize(("right", "wrong"), [
    ("read_only: true", "read_onyl: true"),
    ("stop_grace_period: 50s", "stop_grace_period: fifty"),
    ("secrets: [grafana-admin-password]", "secrets: [another]"),
    ("condition: service_healthy", "condition: service_happy"),
])
def test_the_parser_is_strict(right, wrong):
    text = interpolated((COMPOSE / "compose.yaml").read_text(), {})
    assert right in text
    with pytest.raises(ValueError):
        compose_spec.PyCompose.from_yaml(text.replace(right, wrong)).validate()


@every_setup
def test_services_are_confined(setup):
    for name, service in load(setup)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid", "ipc"} & set(service), name
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= set(limits), name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        binds = [volume for volume in service.get("volumes", []) if volume.startswith(".")]
        assert all(bind.endswith(":ro") for bind in binds), name


def test_others_run_as_a_user_and_the_server_as_its_image_says():
    services = load("plain")["services"]
    assert re.search(r"^USER 10001:10001$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert "user" not in services["kvcrush-server"]
    assert all(service["user"].split(":")[0] not in ("0", "root") for name, service in services.items() if name != "kvcrush-server")


@every_setup
def test_variables_are_options(setup):
    names = {name for name in load(setup)["services"]["kvcrush-server"]["environment"]}
    assert names <= manifests.option_variables()


@every_setup
def test_a_drain_fits_into_the_grace_period(setup):
    server = load(setup)["services"]["kvcrush-server"]
    assert int(server["stop_grace_period"].rstrip("s")) >= manifests.drain_seconds(server["environment"]) + 5


@every_setup
def test_memory_and_threads_fit(setup):
    server = load(setup)["services"]["kvcrush-server"]
    limits = server["deploy"]["resources"]["limits"]
    assert server["environment"]["KVCRUSH_THREADS"] == limits["cpus"]
    kv_memory = server["environment"]["KVCRUSH_KV_MEMORY"]
    if setup == "gpu":
        assert kv_memory == "auto"
    else:
        assert manifests.bytes_of(limits["memory"]) >= manifests.bytes_of(kv_memory) + 2**30


@every_setup
def test_health_checks(setup):
    """The server's is the image's, which wants neither certificate nor token, so it serves every setup."""
    assert re.search(r"^HEALTHCHECK .*\n.*/readyz", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for name, service in load(setup)["services"].items() if "healthcheck" not in service} == {"kvcrush-server"}


def test_tls_files_are_mounted():
    server = load("tls")["services"]["kvcrush-server"]
    assert server["environment"]["KVCRUSH_ALLOW_PLAINTEXT"] == "false"
    files = {value for name, value in server["environment"].items() if re.fullmatch(r"KVCRUSH_(TLS|AUTH)_\w+", name)}
    assert len(files) == 3 and {file.rpartition("/")[0] for file in files} == {"/etc/kvcrush"}
    assert "./secrets/server:/etc/kvcrush:ro" in server["volumes"]
    assert "/deploy/compose/secrets/" in (ROOT / ".gitignore").read_text().split()


def test_prometheus_and_grafana_find_each_other():
    services = load("plain")["services"]
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [t for job in prometheus["scrape_configs"] if job["job_name"] == "kvcrush"
               for config in job["static_configs"] for t in config["targets"]]
    assert targets == ["kvcrush-server:9090"] and "kvcrush-server" in services
    assert all((ROOT / "deploy/prometheus" / rules).is_file() for rules in prometheus["rule_files"])
    [source] = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    [provider] = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/kvcrush.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    assert list((ROOT / "deploy/grafana/dashboards").glob("*.json"))


def test_the_example_says_what_the_defaults_are():
    example = dict(line.split("=", 1) for line in (COMPOSE / ".env.example").read_text().splitlines() if line and line[0] != "#")
    used = {name: default for file in COMPOSE.glob("*.yaml") if "gpu" not in file.name
            for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", file.read_text())}
    assert example == used
