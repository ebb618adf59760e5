#!/usr/bin/env bash
# Kernel tests under compute-sanitizer, after tests/gpu/run.sh has built them.  usage: tests/gpu/sanitize.sh [GTEST_FILTER]
set -euo pipefail
cd "$(dirname "$0")/../.."
[[ "${1:-}" != -h && "${1:-}" != --help ]] || { sed -n 2p "$0"; exit 0; }
export PATH="/usr/local/cuda/bin:$PATH" CUDA_LAUNCH_BLOCKING=1
torch=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')
export LD_LIBRARY_PATH="$torch/lib:$(find "$(dirname "$torch")/nvidia" -maxdepth 2 -name lib -type d | paste -sd:)"
for tool in memcheck racecheck synccheck; do
  printf '[gpu] %s\n' "$tool"
  compute-sanitizer --tool "$tool" --error-exitcode 1 build/gpu/tests/gpu/gpu_kernel_tests --gtest_brief=1 \
    --gtest_filter="${1:-*Case1*:*Case4*:*RopeAppend*64*:*Rewrite*64*:CudaSelect*:CudaSampling*}"
done
