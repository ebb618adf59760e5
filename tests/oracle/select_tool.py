"""Asks tests/tools/select_tool.cpp, which runs the C++ selection on cases of ours.

Needs the build folder named by KVCRUSH_BUILD_DIR (default build/cpu-release).
"""

import os
import pathlib
import struct
import subprocess

import kvcrush_reference as reference
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
SELECT, PLAN, SCORES, BUDGETS = range(4)


class SelectTool:
    """One process for all cases; it keeps its scratch between them, as the engine does."""

    def __init__(self):
        folder = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release")
        self.process = subprocess.Popen(
            [folder / "tests/unit/kvcrush/select_tool"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, mode, dtype, first=None, key_scores=None, value_norms=None, num_heads=1, **case):
        arrays = [
            np.ascontiguousarray(() if array is None else array, np.float32)
            for array in (first, key_scores, value_norms)
        ]
        header = struct.pack(
            "=ddQ24i",
            case.get("share", 0.0),
            case.get("layer_weight", 0.0),
            case.get("seed", 0),
            mode,
            num_heads,
            case.get("num_kv_heads", 1),
            case.get("first_head", 0),
            case.get("num_tokens", 0),
            case["budget"],
            case["num_sinks"],
            case["window"],
            case.get("num_queries", 1),
            case.get("pool_kernel", 1),
            case.get("layer", 0),
            case.get("num_layers", 128),
            reference.POLICIES.index(case.get("policy", "snapkv")),
            reference.ANCHORS.index(case.get("anchor", "mean")),
            reference.PICKS.index(case.get("pick", "first")),
            int(case.get("per_kv_head", False)),
            reference.GRANULARITIES.index(case.get("granularity", "token")),
            reference.SIGNATURE_HEADS.index(case.get("signature_heads", "query")),
            reference.LAYER_BUDGETS.index(case.get("layer_budgets", "uniform")),
            int(value_norms is not None),
            reference.POOL_SHAPES.index(case.get("pool_shape", "max")),
            *(array.size for array in arrays),
        )
        header += b"\0" * (-len(header) % 8)
        self.process.stdin.write(header + b"".join(array.tobytes() for array in arrays))
        self.process.stdin.flush()
        count = struct.unpack("=i", self.process.stdout.read(4))[0]
        return np.frombuffer(self.process.stdout.read(4 * count), dtype)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0
