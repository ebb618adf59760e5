#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while, one process at a time. Exit code 1: something was found.
# usage: tests/fuzz/run.sh [--keep] [SECONDS_PER_TARGET] [TARGET...]     (default: 600 s of every target; 0: the corpora alone)
#   --keep   adds to the committed corpus what reaches new code, at most 4 KiB each
set -euo pipefail
cd "$(dirname "$0")/../.."
keep=0 seconds=600
[[ "${1:-}" == --keep ]] && { keep=1; shift; }
[[ "${1:-}" =~ ^[0-9]+$ ]] && { seconds=$1; shift; }
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(gguf safetensors sentencepiece tokenizer_json model_dir chat_template text request)
build=build/fuzz
for target in "${targets[@]}"; do
  [[ -d "tests/fuzz/corpus/$target" ]] || { sed -n 2,4p "$0"; exit 2; }
done
mapfile -t packages < <(grep -v '^#' tests/fuzz/packages.txt)
dpkg-query -W "${packages[@]}" >/dev/null 2>&1 || { echo "missing: apt-get install ${packages[*]}" >&2; exit 2; }

[[ -f "$build/build.ninja" ]] || cmake --preset fuzz >/dev/null
cmake --build "$build" --target "${targets[@]/%/_fuzz}"

# A finding ends a target's run; symbols and stack come from the log.
export ASAN_OPTIONS="detect_leaks=1:strict_string_checks=1:allocator_may_return_null=0"
export UBSAN_OPTIONS="print_stacktrace=1"
# libFuzzer takes 0 seconds for no limit.
until=-max_total_time=$seconds
[[ $seconds -gt 0 ]] || until=-runs=0
limits=(-timeout=25 -rss_limit_mb=3072 -malloc_limit_mb=1024 -max_len=16384)

stat() { sed -n "s/^stat::$2: *//p" "$1" | tail -1; }
newest_line() { grep -a '^#[0-9]' "$1" | tail -1 | tr '\t' ' ' | tr -s ' '; }

run_target() { # TARGET: leaves its log in $build/NAME.log
  local target=$1 program=$build/tests/fuzz/$1_fuzz work=$build/work/$1 log=$build/$1.log
  mkdir -p "$work" "$build/findings/$target"
  nice -n 19 "$program" "$work" "tests/fuzz/corpus/$target" "${limits[@]}" "$until" -print_final_stats=1 \
    -dict="tests/fuzz/dict/$target.dict" -artifact_prefix="$build/findings/$target/" >"$log" 2>&1 &
  local pid=$! waited=0
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    waited=$((waited + 1))
    ((waited % 60)) || echo "[$target] $waited of $seconds s: $(newest_line "$log")"
  done
  wait "$pid"
}

merge_target() { # TARGET: keeps of the work corpus what adds coverage
  local target=$1 program=$build/tests/fuzz/$1_fuzz work=$build/work/$1 smaller=$build/work/$1.merged
  rm -rf "$smaller"
  mkdir -p "$smaller"
  nice -n 19 "$program" -merge=1 "${limits[@]}" "$smaller" "$work" >>"$build/$target.log" 2>&1
  rm -rf "$work"
  mv "$smaller" "$work"
  [[ $keep -eq 0 ]] || nice -n 19 "$program" -merge=1 -use_counters=0 -timeout=5 -max_len=4096 "tests/fuzz/corpus/$target" "$work" \
    >>"$build/$target.log" 2>&1
}

failed=0
rows=()
for target in "${targets[@]}"; do
  outcome=none
  run_target "$target" || { outcome=FOUND failed=1; grep -aE '^(SUMMARY|==.*ERROR)|invariant broken|Test unit written' "$build/$target.log" || true; }
  log=$build/$target.log
  coverage=$(grep -ao 'cov: [0-9]*' "$log" | tail -1 | cut -d' ' -f2)
  executions=$(stat "$log" number_of_executed_units)
  memory=$(stat "$log" peak_rss_mb)
  [[ $outcome == FOUND ]] || merge_target "$target"
  rows+=("$(printf '%-15s %12s %7s %6s %8s %8s  %s' "$target" "${executions:-?}" "$seconds" "${coverage:-?}" \
    "$(find "$build/work/$target" -type f | wc -l)" "${memory:-?}" "$outcome")")
done
printf '%-15s %12s %7s %6s %8s %8s  %s\n' target executions seconds edges corpus peak_MiB findings
printf '%s\n' "${rows[@]}"
[[ $failed -eq 0 ]] || echo "inputs that reproduce findings: $build/findings/TARGET/ (run $build/tests/fuzz/TARGET_fuzz FILE)" >&2
exit $failed
