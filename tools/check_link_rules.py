#!/usr/bin/env python3
"""Checks who may include whom (docs/architecture.md, "Link rules"), through all project headers. Exit code 1 names each breach."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = (".h", ".cpp", ".cu", ".cuh", ".inc")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)

TORCH = re.compile(r"^(torch|ATen|c10)/")
RPC = re.compile(r"^(grpc|grpcpp|google/protobuf|absl)/|\.pb\.h$")

# (files it binds, what they must not reach, why)
FORBIDDEN = [
    (r"^engine/core/", re.compile(r"^(engine/(?!core/)|server/|client/|nlohmann/|spdlog/|prometheus/)"), "core depends on nothing"),
    (r"^engine/(core|scheduler|kvcrush|sampling|tokenizer|loader)/", TORCH, "this module is free of torch"),
    (r"^engine/kv_cache/block_", TORCH, "block accounting is free of torch"),
    (r"^engine/kernels/(cpu/|parallel)", TORCH, "CPU kernels take plain pointers"),
    (r"^engine/kernels/cuda/", TORCH, "CUDA kernels take plain addresses"),
    (r"^engine/(?!gpu/cuda_backend|kernels/cuda/)", re.compile(r"^(cuda|cublas)"), "CUDA's headers stay with its kernels and its backend"),
    (r"^engine/", RPC, "the engine knows no RPC"),
    (r"^engine/", re.compile(r"^(server|client)/"), "the engine does not know its users"),
    (r"^(server|client)/", TORCH, "torch's protobuf headers clash with the system's"),
    (r"^client/(?!inspect/)", re.compile(r"^(engine|server)/"), "a client knows only the proto"),
    (r"^client/inspect/", re.compile(r"^(server/|kvcrush/v1/)"), "`inspect` asks no server"),
]
# What of the engine the server may name itself.
SERVER_MAY_INCLUDE = re.compile(
    r"^engine/(engine\.h|core/|tokenizer/|loader/(model_file|weight_check)\.h|model/model_config\.h|sampling/params\.h|kvcrush/params\.h)")
# What of it `kvcrush inspect` may: model files and block accounting.
INSPECT_MAY_INCLUDE = re.compile(r"^engine/(pool_limits\.h|core/|kvcrush/params\.h|loader/|scheduler/capacity\.h|tokenizer/)")


def project_files():
    for folder in ("engine", "server", "client"):
        yield from (p for p in (ROOT / folder).rglob("*") if p.suffix in SOURCES)


def direct_includes(path):
    return [name for _, name in INCLUDE.findall(path.read_text(encoding="utf-8"))]


def reached(path, seen):
    """All names that `path` includes, itself or through project headers, each with the chain that led there."""
    for name in direct_includes(path):
        if name in seen:
            continue
        seen[name] = path.relative_to(ROOT)
        if (ROOT / name).is_file():
            reached(ROOT / name, seen)
    return seen


def main():
    breaches = []
    for path in sorted(project_files()):
        name = str(path.relative_to(ROOT))
        includes = reached(path, {})
        for binds, forbidden, why in FORBIDDEN:
            if re.search(binds, name):
                breaches += [f"{name}: reaches <{inc}> through {via}: {why}" for inc, via in includes.items() if forbidden.search(inc)]
        for room, allowed in (("server/", SERVER_MAY_INCLUDE), ("client/inspect/", INSPECT_MAY_INCLUDE)):
            if name.startswith(room):
                breaches += [f"{name}: includes {inc}, which is inside the engine" for inc in direct_includes(path)
                             if inc.startswith("engine/") and not allowed.search(inc)]
    print("\n".join(breaches) if breaches else "link rules hold")
    return 1 if breaches else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(__doc__)
        sys.exit(0 if sys.argv[1] in ("-h", "--help") else 2)
    sys.exit(main())
