#!/usr/bin/env bash
# Collects what tests/gpu/run.sh needs beside the source and a GPU machine's nvcc, CMake and PyTorch in build/gpu-deps:
# headers and sources of four libraries from Debian's packages, a few MB.
# usage: tests/gpu/pack.sh [--programs]     (--programs: tests and benchmarks too, built here for sm_90a, some 30 MB)
set -euo pipefail
cd "$(dirname "$0")/../.."
[[ $# -eq 0 || $* == --programs ]] || { sed -n '2,4p' "$0"; exit 2; }
target=build/gpu-deps
rm -rf "$target"/{include,lib,googletest}
mkdir -p "$target/include" "$target/lib"
cp -r /usr/include/nlohmann /usr/include/CLI /usr/include/pcre2.h "$target/include/"
cp "$(find /usr/lib -name libpcre2-8.a | head -1)" "$target/lib/"
cp -r /usr/src/googletest "$target/"
if [[ $# -eq 1 ]]; then
  programs=(gpu_kernel_tests real_gpu_engine_tests gpu_kernel_bench gpu_engine_bench)
  export PATH="/usr/local/cuda/bin:$PATH"
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DKVCRUSH_CUDA=ON -DKVCRUSH_SERVER=OFF -DKVCRUSH_SIMULATOR=OFF \
    -DCMAKE_CUDA_ARCHITECTURES=90a -DKVCRUSH_DEPS_DIR="$PWD/$target" >build/configure-gpu.log
  cmake --build build/gpu --target "${programs[@]}"
  mkdir -p "$target/bin"
  for program in "${programs[@]}"; do strip -o "$target/bin/$program" "build/gpu/tests/gpu/$program"; done
fi
du -sh "$target"
