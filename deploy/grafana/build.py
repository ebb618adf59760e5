#!/usr/bin/env python3
"""Writes dashboards/kvcrush.json from rows.py. usage: build.py [--check]   (--check: only says whether the file is up to date)

Wants grafana_foundation_sdk of tests/requirements.txt: .cache/venv/bin/python deploy/grafana/build.py
"""

import json
import pathlib
import sys

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from panels import DATASOURCE
from rows import ROWS

OUTPUT = pathlib.Path(__file__).parent / "dashboards" / "kvcrush.json"


def variables():
    yield build.DatasourceVariable("datasource").label("Data source").type("prometheus")
    for name, label, query in (("job", "Job", "label_values(kvcrush_ready, job)"),
                               ("instance", "Server", 'label_values(kvcrush_ready{job=~"$job"}, instance)')):
        yield (build.QueryVariable(name).label(label).datasource(DATASOURCE).query(query)
               .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True).all_value(".+")
               .current(dashboard.VariableOption(selected=True, text="All", value="$__all")))


def kvcrush_dashboard() -> dashboard.Dashboard:
    board = build.Dashboard("KVCrush Serve").uid("kvcrush-serve").tags(["kvcrush", "llm"]).editable()
    board.description("Written by deploy/grafana/build.py: change rows.py, not this.")
    board.refresh("15s").time("now-1h", "now").timezone("browser").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    for variable in variables():
        board.with_variable(variable)
    number = 0
    for title, panels in ROWS:
        board.with_row(build.Row(title).id(number := number + 1))
        for panel in panels():
            board.with_panel(panel.id(number := number + 1))
    return board.build()


def render() -> str:
    return json.dumps(kvcrush_dashboard(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    text = render()
    if not arguments:
        OUTPUT.write_text(text)
        return 0
    if OUTPUT.read_text() == text:
        return 0
    print(f"{OUTPUT} is out of date: run deploy/grafana/build.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
