"""What deploy/prometheus and deploy/grafana say, as Python values. Needs no server and no build."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULE_FILES = [DEPLOY / "prometheus" / name for name in ("recording-rules.yml", "alerts.yml")]
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "kvcrush.json"
PROMTOOL = ROOT / ".cache" / "prometheus" / "promtool"
HISTOGRAM_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def promtool(*arguments: str | pathlib.Path) -> None:
    assert PROMTOOL.exists(), f"{PROMTOOL} is missing: run tools/setup.sh --with-tests"
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict]:
    return [rule for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict]:
    return [rule for rule in rules() if "alert" in rule]


def recording_rules() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def panel_queries() -> list[tuple[str, str]]:
    """(panel's title, PromQL as Grafana would send it)."""
    values = {"$__rate_interval": "1m", "$job": ".+", "$instance": ".+"}
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            expr = target["expr"]
            for name, value in values.items():
                expr = expr.replace(name, value)
            found.append((panel["title"], expr))
    return found


def metrics_in(expr: str) -> set[str]:
    """Names of our own and of DCGM's metrics, as /metrics spells them, and of recording rules."""
    without_strings = re.sub(r'"[^"]*"', "", expr)
    names = re.findall(r"\b(?:kvcrush[_:]|process_|DCGM_)[A-Za-z0-9_:]+", without_strings)
    return {HISTOGRAM_SUFFIX.sub("", name) for name in names}


def sources_of(expr: str) -> set[str]:
    """Like metrics_in, with recording rules replaced by what they read."""
    recorded = recording_rules()
    found: set[str] = set()
    for name in metrics_in(expr):
        found |= sources_of(recorded[name]) if name in recorded else {name}
    return found
