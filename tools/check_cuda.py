#!/usr/bin/env python3
"""Compiles every CUDA kernel for each architecture and reads from ptxas what it takes of a GPU.

No kernel may spill or use local memory, and none may use more registers than tests/gpu/kernel_budget.json records.
Needs nvcc and no GPU.  usage: tools/check_cuda.py [--record] [--jobs N]
"""
from __future__ import annotations

import argparse
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUDGET = ROOT / "tests/gpu/kernel_budget.json"
ARCHITECTURES = ("sm_80", "sm_90a")
FLAGS = ["-std=c++20", "--expt-relaxed-constexpr", "-O3", "-I.", "-Xptxas", "-v", "-Werror", "all-warnings",
         "-Xcompiler", "-Wall,-Wextra", "-cubin"]
ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
LOCAL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def compile_one(nvcc: str, source: pathlib.Path, architecture: str) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([nvcc, *FLAGS, f"-arch={architecture}", str(source), "-o", f"{folder}/out.cubin"],
                              cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{source.name} does not compile for {architecture}:\n{done.stdout}{done.stderr}")
    return architecture, done.stdout + done.stderr


def kernel_name(mangled: str) -> str:
    full = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    full = full.replace("(anonymous namespace)::", "").replace("kvcrush::cuda::", "").removeprefix("void ")
    depth = 0
    for i, char in enumerate(full):  # cut the parameters off, not the template's
        depth += (char == "<") - (char == ">")
        if char == "(" and depth == 0 and i > 0:
            return full[:i]
    return full


def read_kernels(output: str) -> dict[str, dict[str, int]]:
    kernels: dict[str, dict[str, int]] = {}
    name = None
    for line in output.splitlines():
        if match := ENTRY.search(line):
            name = kernel_name(match[1])
            kernels[name] = {}
        elif name and (match := LOCAL.search(line)):
            kernels[name]["local_bytes"] = sum(int(group) for group in match.groups())
        elif name and (match := USED.search(line)):
            kernels[name]["registers"] = int(match[1])
    return kernels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write what was found as the new budget")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time (default 2)")
    options = parser.parse_args()
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        print("[check_cuda] no nvcc on this machine: CUDA kernels were not compiled")
        return 0
    sources = sorted((ROOT / "engine/kernels/cuda").glob("*.cu"))
    found: dict[str, dict[str, int]] = {architecture: {} for architecture in ARCHITECTURES}
    problems = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(compile_one, nvcc, source, architecture) for source in sources for architecture in ARCHITECTURES]
        for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            architecture, output = job.result()
            if sys.stdout.isatty() or number == len(jobs):
                print(f"\r[check_cuda] {number} of {len(jobs)} compiled", end="", flush=True)
            for name, taken in read_kernels(output).items():
                found[architecture][name] = taken["registers"]
                if taken.get("local_bytes", 0) > 0:
                    problems.append(f"{name} ({architecture}) takes {taken['local_bytes']} bytes of local memory")
    print()
    if options.record:
        BUDGET.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    budget = json.loads(BUDGET.read_text())
    for architecture, kernels in found.items():
        for name in budget[architecture].keys() - kernels.keys():
            problems.append(f"{name} ({architecture}) is in the budget, but no kernel of that name is left")
        for name, registers in kernels.items():
            allowed = budget[architecture].get(name)
            if allowed is None or registers > allowed:
                problems.append(f"{name} ({architecture}) takes {registers} registers; recorded: {allowed}")
    for problem in problems:
        print(f"[check_cuda] {problem}", file=sys.stderr)
    print(f"[check_cuda] {len(found[ARCHITECTURES[0]])} kernels for {', '.join(ARCHITECTURES)}: "
          f"{'no spills, no local memory, registers as recorded' if not problems else 'NOT as recorded'}")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
