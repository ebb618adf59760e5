"""A worker's end of the pipe, run by a peer's own venv: one JSON object per line in and out, nothing here but the standard library.

{"open": NAME, ...} makes something ready and answers what it is; {"run": NAME, "prompts": [[ID, ...], ...], "max_new_tokens": N} decodes
the prompts together and answers "ids" and "times_ms", a list per prompt: tokens, and when each was there, counted from the start.
Every failure is answered as {"error": TEXT}; the parent decides.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable


def serve(make_worker: Callable[[], object]) -> None:
    # The libraries print to stdout; answers keep a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            worker = worker or make_worker()
            answer = worker.open(message) if "open" in message else worker.run(message)
        except Exception as error:  # noqa: BLE001: the parent shows whatever the peer raises
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
