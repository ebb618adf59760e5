"""A peer engine in a process and a venv of its own, asked through a pipe (see pipe.py)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

from kvcrush_eval import EvalError
from kvcrush_eval.stubs import ROOT


@dataclasses.dataclass(frozen=True)
class Package:
    """What a peer is installed from: PyPI requirements, and the modules that prove them there."""

    name: str
    venv: pathlib.Path
    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    needs: str  # said where installing fails
    environment: dict[str, str] = dataclasses.field(default_factory=dict)  # of pip


OPENVINO = Package("OpenVINO GenAI", ROOT / ".cache" / "peers" / "openvino", ("openvino-genai==2026.4.*", "numpy"),
                   ("openvino_genai", "numpy"), "It has wheels for CPython 3.10 and later on x86-64 Linux")
# -fno-dse: GCC 12's _tile_loadconfig tells the optimiser of 8 bytes of its 64, so that it drops the rest of llama.cpp's tile configuration
# and AMX instructions trap (ggml-org/llama.cpp pull request 26954).
LLAMA_CPP = Package("llama.cpp", ROOT / ".cache" / "peers" / "llama_cpp", ("llama-cpp-python==0.3.*", "numpy"), ("llama_cpp", "numpy"),
                    "It is compiled here for this CPU, which takes a C++ compiler and up to 20 minutes",
                    {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count()), "CMAKE_ARGS": "-DCMAKE_CXX_FLAGS=-fno-dse",
                     "PIP_NO_CACHE_DIR": "1"})  # a wheel in pip's cache may have been compiled with other flags


def install(package: Package) -> pathlib.Path:
    """Path of the venv's Python; made where it is missing."""
    python = package.venv / "bin" / "python"
    check = [str(python), "-c", f"import {', '.join(package.modules)}"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return python
    print(f"installing {package.name} into {package.venv}. {package.needs}", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(package.venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *package.requirements], check=True,
                       env={**package.environment, **os.environ})
        subprocess.run(check, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EvalError(f"cannot install {package.requirements[0]} from PyPI: {error}. {package.needs}; "
                        f"check the network and the proxy, or fill {package.venv} by hand and run again") from error
    return python


class PeerProcess:
    """Settings are opened on first use: whatever is built for them is built once, outside of any timing."""

    def __init__(self, package: Package, worker: str, common: dict) -> None:
        self._package, self._common = package, common
        self._opened: dict[str, dict] = {}
        self._process = subprocess.Popen([str(install(package)), str(pathlib.Path(__file__).parent / worker)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def meta(self) -> dict:
        """What was answered to the last opening: at least the version."""
        return next(reversed(self._opened.values()), {"version": "not run"})

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended by itself
            self._process.stdin.close()
        self._process.wait()

    def _ask(self, message: dict) -> dict:
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"its process ended with {self._process.wait()}"}
        if "error" in answer:
            raise EvalError(f"{self._package.name} failed: {answer['error']}. This script is written for {self._package.requirements[0]}; "
                            f"if `{self._package.venv}/bin/pip list` shows a version that differs, delete {self._package.venv} and run again")
        return answer

    def prepare(self, setting: dict) -> str:
        name = json.dumps(setting, sort_keys=True)
        if name not in self._opened:
            self._opened[name] = self._ask({"open": name, **self._common, **setting})
        return name

    def run(self, setting: dict, prompts: list[list[int]], max_new_tokens: int) -> dict:
        """ids and times_ms, a list per prompt, and what else the worker tells."""
        return self._ask({"run": self.prepare(setting), "prompts": prompts, "max_new_tokens": max_new_tokens})
