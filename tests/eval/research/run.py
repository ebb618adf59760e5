#!/usr/bin/env python3
"""Tries KV cache ideas in plain PyTorch before they are built. `run.py --help` lists the commands."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from prototype.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
