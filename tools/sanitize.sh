#!/usr/bin/env bash
# Builds a sanitizer preset and runs unit and integration tests under it. usage: tools/sanitize.sh asan-ubsan|tsan
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -eq 1 && ("$1" == asan-ubsan || "$1" == tsan) ]] || { sed -n 2p "$0"; exit 2; }
preset=$1
tools/build.sh "$preset"
suppressions=$PWD/tests/sanitizers
# No detection of use after return: its stack frames are not aligned for AVX-512 (GCC), and know nothing of fibers.
export ASAN_OPTIONS="detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0"
export LSAN_OPTIONS="suppressions=$suppressions/lsan.supp:print_suppressions=0"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
export TSAN_OPTIONS="suppressions=$suppressions/tsan.supp:halt_on_error=1:second_deadlock_stack=1:ignore_noninstrumented_modules=1"
# libtorch brings an OpenMP run-time without TSan as well; our own kernels run serially in this preset.
export OMP_NUM_THREADS=1
# The golden tests run 2,500 decode steps of the real model: without its optimiser that is an hour, and shows nothing that the
# other tests of the same code do not.
ctest --test-dir "build/$preset" --output-on-failure -LE model
KVCRUSH_BUILD_DIR="build/$preset" KVCRUSH_TEST_SLOWNESS=8 .cache/venv/bin/python -m pytest -q tests/integration
