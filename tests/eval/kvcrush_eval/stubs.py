"""The generated Python stubs of the API, found where a build or build_stubs.sh left them, or generated anew.

Stubs older than the proto are passed over: they would lack fields without a word.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from kvcrush_eval import EvalError

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROTOS = sorted((ROOT / "proto" / "kvcrush" / "v1").glob("*.proto"))
GENERATED = ROOT / ".cache" / "eval-stubs"


def _is_current(folder: pathlib.Path) -> bool:
    newest = max(proto.stat().st_mtime for proto in PROTOS)
    files = [folder / "kvcrush" / "v1" / f"{proto.stem}_pb2{suffix}.py" for proto in PROTOS for suffix in ("", "_grpc")]
    return all(f.is_file() and f.stat().st_mtime >= newest for f in files)


def _generate(folder: pathlib.Path) -> None:
    protoc, plugin = shutil.which("protoc"), shutil.which("grpc_python_plugin")
    if protoc is None or plugin is None:
        raise EvalError("no current Python stubs of proto/kvcrush/v1: build the server, or install "
                        "protobuf-compiler and protobuf-compiler-grpc")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([protoc, "-I", str(ROOT / "proto"), "--python_out", str(folder), "--grpc_python_out", str(folder),
                    f"--plugin=protoc-gen-grpc_python={plugin}", *(f"kvcrush/v1/{proto.name}" for proto in PROTOS)], check=True)


def _folder() -> pathlib.Path:
    build = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release") / "proto"
    for folder in (build, ROOT / "client" / "python", GENERATED):
        if _is_current(folder):
            return folder
    _generate(GENERATED)
    return GENERATED


if "kvcrush.v1.inference_pb2" not in sys.modules:
    sys.path.insert(0, str(_folder()))

from kvcrush.v1 import inference_pb2 as pb  # noqa: E402
from kvcrush.v1 import inference_pb2_grpc as pb_grpc  # noqa: E402

__all__ = ["pb", "pb_grpc"]
