#!/usr/bin/env bash
# Builds the engine for this machine's GPU and runs kernel tests, engine parity tests and benchmarks. Needs nvcc, CMake,
# Python's torch with CUDA, and build/gpu-deps (tests/gpu/pack.sh) or Debian's packages; no network.
# usage: tests/gpu/run.sh [OUT]     (OUT: folder for log and JSON, default build/gpu-results)
set -uo pipefail
cd "$(dirname "$0")/../.."
[[ "${1:-}" != -h && "${1:-}" != --help ]] || { sed -n '2,4p' "$0"; exit 0; }
out=${1:-build/gpu-results}
build=build/gpu
mkdir -p "$out" "$build"
export PATH="/usr/local/cuda/bin:$PATH"
log="$out/log.txt"
: >"$log"
say() { printf '[gpu] %s\n' "$*" | tee -a "$log"; }

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee -a "$log" || exit 1
torch=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))') || exit 1
arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
nvidia_libs=$(find "$(dirname "$torch")/nvidia" -maxdepth 2 -name lib -type d 2>/dev/null | paste -sd:)
export LD_LIBRARY_PATH="$torch/lib:$nvidia_libs:${LD_LIBRARY_PATH:-}"
deps=()
[[ -d build/gpu-deps ]] && deps=(-DKVCRUSH_DEPS_DIR="$PWD/build/gpu-deps")
say "building for sm_$arch against $torch"
started=$SECONDS
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DKVCRUSH_CUDA=ON -DKVCRUSH_SERVER=OFF -DKVCRUSH_SIMULATOR=OFF \
  -DKVCRUSH_TORCH_DIR="$torch" -DCMAKE_CUDA_ARCHITECTURES="$arch" "${deps[@]}" >>"$log" 2>&1 &&
  cmake --build "$build" -j "$(nproc)" --target gpu_kernel_tests real_gpu_engine_tests gpu_kernel_bench gpu_engine_bench >>"$log" 2>&1 ||
  { tail -40 "$log"; exit 1; }
say "built in $((SECONDS - started)) s"

failed=0
step() {  # step NAME SECONDS COMMAND...: runs one part, notes how it ended
  local name=$1 limit=$2
  shift 2
  local begun=$SECONDS
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1
  local rc=$?
  [[ $rc -eq 0 ]] || { failed=1; tail -25 "$out/$name.txt"; }
  say "$name: exit $rc after $((SECONDS - begun)) s: $(grep -E '^\[  (PASSED|FAILED)' "$out/$name.txt" | head -1)"
}
CUDA_LAUNCH_BLOCKING=1 step kernel-tests 150 "$build/tests/gpu/gpu_kernel_tests" --gtest_brief=1
step engine-tests 90 "$build/tests/gpu/real_gpu_engine_tests" --gtest_brief=1
step kernel-bench 90 "$build/tests/gpu/gpu_kernel_bench" --json "$out/kernels.json"
step engine-bench 180 "$build/tests/gpu/gpu_engine_bench" --json "$out/engine.json"
cat "$out/kernel-bench.txt" "$out/engine-bench.txt" | tee -a "$log"
say "all of it took $((SECONDS - started)) s; results in $out"
exit $failed
