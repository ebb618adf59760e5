"""One version everywhere, and an API that old clients can go on using."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml

import manifests
from manifests import KUBERNETES, ROOT

VERSION = re.search(r"^project\(\w+ VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)[1]
BASELINE = ROOT / "tests" / "deploy" / "api-0.1.json"  # the API that 0.1 clients were built against


def test_server_says_it():
    done = subprocess.run([str(manifests.SERVER), "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["kvcrush-server", VERSION]


def test_label_of_the_image():
    labels = re.findall(r'org\.opencontainers\.image\.version="([^"]+)"', (ROOT / "Dockerfile").read_text())
    assert labels == [VERSION]


def test_python_client():
    assert tomllib.loads((ROOT / "client/python/pyproject.toml").read_text())["project"]["version"] == VERSION


def test_changelog_begins_with_it():
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == VERSION


def test_tags_of_manifests():
    tags = {image["newTag"] for file in KUBERNETES.rglob("kustomization.yaml")
            for image in yaml.safe_load(file.read_text()).get("images", [])}
    assert tags == {VERSION, f"{VERSION}-cuda"}
    compose = [(ROOT / "deploy/compose" / name).read_text() for name in ("compose.yaml", "compose.gpu.yaml")]
    assert set(re.findall(r"\$\{VERSION:-([\d.]+)\}", "".join(compose))) == {VERSION}


def breaking(proto) -> subprocess.CompletedProcess:
    return subprocess.run([manifests.tool("buf"), "breaking", str(proto), "--against", str(BASELINE), "--config",
                           '{"version":"v2","breaking":{"use":["FILE"]}}'], capture_output=True, text=True, timeout=60)


def test_the_api_only_grows():
    done = breaking(ROOT / "proto")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("old", "new"), [
    ("string text = 1;", "string text = 99;"),
    ("rpc GetStats(", "rpc ReadStats("),
])
def test_a_break_is_noticed(tmp_path, old, new):
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    file = tmp_path / "proto/kvcrush/v1/inference.proto"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert breaking(tmp_path / "proto").returncode == 100
