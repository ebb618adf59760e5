"""The deployment files as they are applied: rendered by kustomize, with small questions answered about them."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
BUILD_DIR = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release")
SERVER = BUILD_DIR / "server" / "kvcrush-server"
OVERLAYS = ("cpu", "gpu", "production")
COMPONENTS = ("tls-auth", "monitoring", "hpa", "keda", "gateway", "inference-pool", "model-init")
VARIANTS = (*(f"overlays/{name}" for name in OVERLAYS), *(f"components/{name}" for name in COMPONENTS))


def tool(name: str) -> str:
    """A program that came with the Python packages of tests/requirements.txt."""
    return str(pathlib.Path(sys.executable).parent / name)


def kustomize(folder: pathlib.Path) -> list[dict]:
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def render(variant: str) -> list[dict]:
    """An overlay by itself; a component on top of the CPU overlay."""
    if not variant.startswith("components/"):
        return kustomize(KUBERNETES / variant)
    with tempfile.TemporaryDirectory() as folder:
        def relative(path: str) -> str:
            return os.path.relpath(KUBERNETES / path, pathlib.Path(folder).resolve())
        kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
                         "resources": [relative("overlays/cpu")], "components": [relative(variant)]}
        (pathlib.Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(pathlib.Path(folder))


def of_kind(documents: list[dict], kind: str) -> list[dict]:
    return [document for document in documents if document["kind"] == kind]


def one(documents: list[dict], kind: str, name: str = "kvcrush") -> dict:
    found = [document for document in of_kind(documents, kind) if document["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def pod_of(documents: list[dict]) -> dict:
    """The server's pod template."""
    return one(documents, "Deployment")["spec"]["template"]


def container_of(documents: list[dict]) -> dict:
    containers = pod_of(documents)["spec"]["containers"]
    assert [container["name"] for container in containers] == ["server"]
    return containers[0]


def options_of(documents: list[dict]) -> dict[str, str]:
    """Variables that the server's container gets from its ConfigMap."""
    names = [source["configMapRef"]["name"] for source in container_of(documents)["envFrom"]]
    assert len(names) == 1
    return one(documents, "ConfigMap", names[0])["data"]


@functools.cache
def server_help() -> str:
    done = subprocess.run([str(SERVER), "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def option_variables() -> set[str]:
    return set(re.findall(r"\(Env:(KVCRUSH_\w+)\)", server_help())) | {"KVCRUSH_CONFIG"}


def drain_seconds(options: dict[str, str]) -> float:
    """From SIGTERM to the end of the process at the latest: the drain, then a wait for aborted requests to end and one for
    text to leave."""
    default = re.search(r"--drain-timeout FLOAT.*?=([\d.]+) \(Env:KVCRUSH_DRAIN_TIMEOUT\)", server_help())
    assert default, "no default of --drain-timeout in --help"
    after = re.search(r"constexpr seconds kAfterDrain\{(\d+)\}", (ROOT / "server" / "server.cpp").read_text())
    assert after, "server.cpp no longer says how long it waits after the drain"
    return float(options.get("KVCRUSH_DRAIN_TIMEOUT", default[1])) + 2 * float(after[1])


def metric_names() -> set[str]:
    """Names of metrics in the server's source, without the suffixes of a histogram."""
    return {name for source in (ROOT / "server").glob("*.cpp") for name in re.findall(r'"(kvcrush_\w+)"', source.read_text())}


def bytes_of(quantity: str) -> int:
    """2GiB (ours), 2Gi (Kubernetes), 2G (compose)."""
    number, unit = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", quantity).groups()
    powers = {"": 1, "M": 10**6, "G": 10**9, "MB": 10**6, "GB": 10**9, "MI": 2**20, "GI": 2**30, "MIB": 2**20, "GIB": 2**30}
    return int(number) * powers[unit.upper()]
