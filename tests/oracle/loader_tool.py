"""dump_weights, the loader behind a command line."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
BUILD_DIR = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release")
TOOL = BUILD_DIR / "tests/unit/loader/dump_weights"


def run_tool(model, *arguments):
    done = subprocess.run([TOOL, model, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def read_config(model):
    return dict(line.split("=", 1) for line in run_tool(model, "config").decode().splitlines())
