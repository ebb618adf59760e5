import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD_DIR = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release")
sys.path[:0] = [str(ROOT / "client" / "python"), str(BUILD_DIR / "proto")]
