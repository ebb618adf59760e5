#!/usr/bin/env bash
# Collects what tests/gpu/run.sh needs beside the source and a GPU machine's nvcc, CMake and PyTorch in build/gpu-deps:
# headers and sources of five libraries from Debian's packages, a few MB.
# usage: tests/gpu/pack.sh [--programs] [--server]
#   --programs  tests and benchmarks too, built here for sm_90a, some 45 MB
#   --server    server and client with their shared libraries in build/gpu-bundle, for tests/gpu/server.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
programs=0 server=0
for option in "$@"; do
  case $option in
    --programs) programs=1 ;;
    --server) server=1 ;;
    *) sed -n '2,6p' "$0"; exit 2 ;;
  esac
done
export PATH="/usr/local/cuda/bin:$PATH"
target=build/gpu-deps
rm -rf "$target"/{include,lib,googletest}
mkdir -p "$target/include" "$target/lib"
cp -r /usr/include/nlohmann /usr/include/CLI /usr/include/pcre2.h /usr/include/utf8proc.h "$target/include/"
cp "$(find /usr/lib -name libpcre2-8.a | head -1)" "$(find /usr/lib -name libutf8proc.a | head -1)" "$target/lib/"
cp -r /usr/src/googletest "$target/"
if [[ $programs -eq 1 ]]; then
  names=(gpu_kernel_tests gpu_prefill_check real_gpu_engine_tests gpu_kernel_bench gpu_engine_bench)
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DKVCRUSH_CUDA=ON -DKVCRUSH_SERVER=OFF -DKVCRUSH_SIMULATOR=OFF \
    -DCMAKE_CUDA_ARCHITECTURES=90a -DKVCRUSH_DEPS_DIR="$PWD/$target" >build/configure-gpu.log
  cmake --build build/gpu --target "${names[@]}"
  mkdir -p "$target/bin"
  for program in "${names[@]}"; do strip -o "$target/bin/$program" "build/gpu/tests/gpu/$program"; done
fi
du -sh "$target"
[[ $server -eq 1 ]] || exit 0
bundle=build/gpu-bundle
rm -rf "$bundle"
mkdir -p "$bundle"/{bin,lib}
cmake -S . -B build/gpu-server -G Ninja -DCMAKE_BUILD_TYPE=Release -DKVCRUSH_CUDA=ON -DKVCRUSH_SIMULATOR=OFF \
  -DCMAKE_CUDA_ARCHITECTURES=90a >build/configure-gpu-server.log
cmake --build build/gpu-server --target kvcrush-server kvcrush
strip -o "$bundle/bin/kvcrush-server" build/gpu-server/server/kvcrush-server
strip -o "$bundle/bin/kvcrush" build/gpu-server/client/kvcrush
# All but the C and C++ runtime, PyTorch and CUDA, which the GPU machine has.
ldd "$bundle"/bin/* | awk '$3 ~ "^/" {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|libutil|libstdc\+\+|libgcc_s|libgomp|libtorch.*|libc10.*|libcu.*|libnv.*|libnccl)\.so' |
  xargs -I{} cp -L {} "$bundle/lib/"
du -sh "$bundle"
