"""How models get to a server: the init container of components/model-init, and what docs/operations/models.md shows."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess

import kubernetes_validate
import pytest
import yaml

import pod_security
from manifests import ROOT, of_kind, one, options_of, pod_of, render
from test_compose import COMPOSE, interpolated

PAGE = (ROOT / "docs" / "operations" / "models.md").read_text()
VARIANT = "components/model-init"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def init_container() -> dict:
    [container] = pod_of(render(VARIANT))["spec"]["initContainers"]
    return container


def test_the_download_is_what_is_served():
    documents = render(VARIANT)
    volumes = {volume["name"]: volume for volume in pod_of(documents)["spec"]["volumes"]}
    assert "emptyDir" in volumes["models"] and "persistentVolumeClaim" not in volumes["models"]
    assert of_kind(documents, "PersistentVolumeClaim") == []
    [mount] = init_container()["volumeMounts"]
    assert mount["name"] == "models" and not mount.get("readOnly")
    source = one(documents, "ConfigMap", init_container()["envFrom"][0]["configMapRef"]["name"])["data"]
    assert options_of(documents)["KVCRUSH_MODEL"] == f"{mount['mountPath']}/{source['MODEL_FILE']}"
    assert re.fullmatch(r"[0-9a-f]{64}", source["MODEL_SHA256"])


def test_egress_is_for_the_download_alone():
    policy = one(render(VARIANT), "NetworkPolicy", "kvcrush-model-download")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod_of(render(VARIANT))["metadata"]["labels"].items()
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 443}


def download(folder, url: str, sha256: str) -> subprocess.CompletedProcess:
    container = init_container()
    script = container["args"][0].replace("/models", str(folder))
    return subprocess.run([*container["command"], script], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "MODEL_URL": url, "MODEL_SHA256": sha256, "MODEL_FILE": "model.gguf"})


def test_the_init_container_downloads_once_and_whole(tmp_path):
    source, folder = tmp_path / "source.gguf", tmp_path / "models"
    folder.mkdir()
    source.write_bytes(b"GGUF and more")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    wrong = download(folder, source.as_uri(), "0" * 64)
    assert wrong.returncode != 0 and not (folder / "model.gguf").exists()
    missing = download(folder, (tmp_path / "absent").as_uri(), digest)
    assert missing.returncode != 0 and not (folder / "model.gguf").exists()
    done = download(folder, source.as_uri(), digest)
    assert done.returncode == 0, done.stderr
    assert (folder / "model.gguf").read_bytes() == source.read_bytes()
    assert [file.name for file in folder.iterdir()] == ["model.gguf"]
    source.unlink()
    assert download(folder, source.as_uri(), digest).returncode == 0, "it is there already"


def test_manifests_on_the_page():
    documents = [document for block in blocks("yaml") for document in yaml.safe_load_all(block)]
    kinds = [document["kind"] for document in documents]
    assert {"PersistentVolume", "Job", "Kustomization"} <= set(kinds)
    for document in documents:
        if document["kind"] != "Kustomization":
            kubernetes_validate.validate(json.loads(json.dumps(document)), kubernetes_validate.latest_version(), strict=True)
        if document["kind"] == "Job":
            assert pod_security.violations(document["spec"]["template"]) == []


def test_the_volume_on_the_page_is_the_claims():
    documents = [document for block in blocks("yaml") for document in yaml.safe_load_all(block)]
    volume = one(documents, "PersistentVolume", "kvcrush-models")
    claim = one(render("overlays/cpu"), "PersistentVolumeClaim", "kvcrush-models")
    assert volume["spec"]["claimRef"] == {"name": claim["metadata"]["name"], "namespace": claim["metadata"]["namespace"]}
    assert set(claim["spec"]["accessModes"]) <= set(volume["spec"]["accessModes"])
    assert volume["spec"]["capacity"]["storage"] == claim["spec"]["resources"]["requests"]["storage"]
    job = one(documents, "Job", "kvcrush-model-download")["spec"]["template"]["spec"]
    assert job["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.parametrize("block", blocks("ini"))
def test_compose_variables_on_the_page(block):
    variables = dict(line.split("=", 1) for line in block.splitlines() if line and line[0] != "#")
    example = (COMPOSE / ".env.example").read_text()
    assert variables and all(re.search(rf"^{name}=", example, re.MULTILINE) for name in variables)
    server = yaml.safe_load(interpolated((COMPOSE / "compose.yaml").read_text(), variables))["services"]["kvcrush-server"]
    assert server["environment"]["KVCRUSH_MODEL"] == "/models/" + variables["MODEL"]
    assert f"{variables['MODELS']}:/models:ro" in server["volumes"]
