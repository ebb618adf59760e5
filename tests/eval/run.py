#!/usr/bin/env python3
"""Measures KV compression on a running server. `run.py --help` lists the commands."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from kvcrush_eval.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
