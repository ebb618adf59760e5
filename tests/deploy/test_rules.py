"""Rules and dashboard at rest: they are valid, tested, documented, and use only metrics that are known."""

import json
import re
import subprocess
import sys

import pytest

from monitoring_files import DASHBOARD, DEPLOY, RULE_FILES, ROOT, alerts, promtool, recording_rules, rules

RULE_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))


def test_prometheus_accepts_configuration_and_rules():
    promtool("check", "config", "--lint=all", "--lint-fatal", DEPLOY / "prometheus" / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_do_what_they_say(path):
    promtool("test", "rules", path)


def test_every_rule_is_tested():
    texts = "".join(path.read_text() for path in RULE_TESTS)
    untested = [name for rule in rules() if (name := rule.get("alert") or rule["record"]) not in texts]
    # Alerts may be tested through a pattern of their names.
    patterns = re.findall(r'alertname=~"([^"]+)"', texts)
    assert [name for name in untested if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_alert_tells_what_to_do(alert):
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    annotations = alert["annotations"]
    assert annotations["summary"] and annotations["description"]
    assert annotations["runbook_url"] == f"docs/operations/runbook.md#{alert['alert'].lower()}"


def test_runbook_has_a_section_for_every_alert_and_no_other():
    text = (ROOT / "docs" / "operations" / "runbook.md").read_text()
    sections = dict(zip(re.findall(r"^## (Kvcrush\w+)$", text, re.MULTILINE), re.split(r"^## Kvcrush\w+$", text, flags=re.MULTILINE)[1:]))
    assert sorted(sections) == sorted(alert["alert"] for alert in alerts())
    for name, section in sections.items():
        for part in ("Meaning", "Confirm", "Likely causes", "Do", "Escalate"):
            assert f"**{part}.**" in section, f"{name} does not say: {part}"


def test_runbook_names_only_rules_and_metrics_that_are_used():
    text = (ROOT / "docs" / "operations" / "runbook.md").read_text()
    assert set(re.findall(r"kvcrush:[a-z0-9_:]+", text)) <= set(recording_rules())


def test_dashboard_is_what_the_script_writes():
    done = subprocess.run([sys.executable, DEPLOY / "grafana" / "build.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dashboard_is_whole():
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, f"{panel['title']} overlaps"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        ref_ids = [target["refId"] for target in panel["targets"]]
        assert ref_ids and len(set(ref_ids)) == len(ref_ids), panel["title"]
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) - {"__rate_interval", "__all"}
    assert used == variables
