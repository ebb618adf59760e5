"""Prometheus in a process of its own, with deploy/prometheus' configuration."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from monitoring_files import DEPLOY, ROOT, RULE_FILES

sys.path.insert(0, str(ROOT / "tests" / "integration"))

import harness  # noqa: E402

PROMETHEUS = ROOT / ".cache" / "prometheus" / "prometheus"


class Prometheus:
    """Runs deploy/prometheus/prometheus.yml against one server, with a second between scrapes and evaluations."""

    def __init__(self, target: str) -> None:
        assert PROMETHEUS.exists(), f"{PROMETHEUS} is missing: run tools/setup.sh --with-tests"
        self._folder = tempfile.TemporaryDirectory(prefix="kvcrush-prometheus-")
        folder = pathlib.Path(self._folder.name)
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._overridden(target)))
        self._log_path = folder / "log"
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"],
            stdout=self._log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            self._url = f"http://{self._wait_for_address()}"
            harness.eventually(self._is_ready, "Prometheus to be ready")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _overridden(target: str) -> dict:
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        assert sorted(config["rule_files"]) == sorted(path.name for path in RULE_FILES)
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(path) for path in RULE_FILES]
        (ours,) = [job for job in config["scrape_configs"] if job["job_name"] == "kvcrush"]
        ours["static_configs"] = [{"targets": [target]}]
        return config

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + 30 * harness.SLOWNESS
        while time.monotonic() < deadline:
            if found := re.search(r'msg="Listening on" address=(\S+)', self.log()):
                return found[1]
            assert self._process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"Prometheus does not listen:\n{self.log()}")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=20) as response:
                return response.status == 200
        except urllib.error.HTTPError:
            return False

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def get(self, path: str, **parameters: str) -> dict:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expr: str) -> list[float]:
        """The values of all series; NaN, which graphs do not show, is no value."""
        values = [float(sample["value"][1]) for sample in self.get("query", query=expr)["result"]]
        return [value for value in values if not math.isnan(value)]

    def rules(self) -> list[dict]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()
