#!/usr/bin/env bash
# Configures (once) and builds one preset. usage: tools/build.sh PRESET [JOBS]
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -ge 1 && "$1" != -* ]] || { sed -n 2p "$0"; exit 2; }
preset=$1 jobs=${2:-$(nproc)}
mkdir -p build
[[ -f "build/$preset/build.ninja" ]] || cmake --preset "$preset" >"build/configure-$preset.log" 2>&1 ||
  { cat "build/configure-$preset.log" >&2; exit 1; }
# On a terminal ninja shows one line of progress; in a log it says only what went wrong, and the end.
if [[ -t 1 ]]; then
  cmake --build "build/$preset" -j "$jobs"
else
  start=$SECONDS
  cmake --build "build/$preset" -j "$jobs" >"build/build-$preset.log" 2>&1 || { tail -60 "build/build-$preset.log" >&2; exit 1; }
  echo "[build] $preset: $(tail -1 "build/build-$preset.log") in $((SECONDS - start)) s"
fi
