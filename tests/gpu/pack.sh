#!/usr/bin/env bash
# Collects what tests/gpu/run.sh needs beside the source and a GPU machine's nvcc, CMake and PyTorch: headers and
# sources of four libraries, from Debian's packages, a few MB in build/gpu-deps.  usage: tests/gpu/pack.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
[[ $# -eq 0 ]] || { sed -n '2,3p' "$0"; exit 2; }
target=build/gpu-deps
rm -rf "$target"
mkdir -p "$target/include" "$target/lib"
cp -r /usr/include/nlohmann /usr/include/CLI /usr/include/pcre2.h "$target/include/"
cp "$(find /usr/lib -name libpcre2-8.a | head -1)" "$target/lib/"
cp -r /usr/src/googletest "$target/"
du -sh "$target"
