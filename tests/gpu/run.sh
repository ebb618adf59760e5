#!/usr/bin/env bash
# Runs kernel tests, engine parity tests and benchmarks on this machine's GPU. Builds the engine from source first
# (nvcc, CMake, Python's torch with CUDA, and build/gpu-deps from tests/gpu/pack.sh or Debian's packages; no network),
# or takes the programs that `tests/gpu/pack.sh --programs` built elsewhere against the same version of torch.
# usage: tests/gpu/run.sh [--build] [--only STEPS] [OUT]
#   --build       build here even where build/gpu-deps/bin has programs
#   --only STEPS  comma-separated, of kernel-tests, prefill-check, engine-tests, kernel-bench, engine-bench, graph-bench,
#                 profile
#   OUT           folder for log and JSON, default build/gpu-results
set -uo pipefail
cd "$(dirname "$0")/../.."
build_here=0 only= out=build/gpu-results
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help) sed -n '2,10p' "$0"; exit 0 ;;
    --build) build_here=1 ;;
    --only) only=$2; shift ;;
    -*) echo "unknown option $1; see --help" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
mkdir -p "$out"
export PATH="/usr/local/cuda/bin:$PATH"
log="$out/log.txt"
: >"$log"
say() { printf '[gpu] %s\n' "$*" | tee -a "$log"; }

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee -a "$log" || exit 1
torch=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))') || exit 1
nvidia_libs=$(find "$(dirname "$torch")/nvidia" -maxdepth 2 -name lib -type d 2>/dev/null | paste -sd:)
export LD_LIBRARY_PATH="$torch/lib:$nvidia_libs:${LD_LIBRARY_PATH:-}"
started=$SECONDS
programs=build/gpu-deps/bin
if [[ $build_here -eq 1 || ! -d $programs ]]; then
  arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  [[ $arch != 90 ]] || arch=90a  # with warpgroup instructions
  deps=()
  [[ -d build/gpu-deps ]] && deps=(-DKVCRUSH_DEPS_DIR="$PWD/build/gpu-deps")
  say "building for sm_$arch against $torch"
  build=build/gpu programs=build/gpu/tests/gpu
  cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DKVCRUSH_CUDA=ON -DKVCRUSH_SERVER=OFF -DKVCRUSH_SIMULATOR=OFF \
    -DKVCRUSH_TORCH_DIR="$torch" -DCMAKE_CUDA_ARCHITECTURES="$arch" "${deps[@]}" >>"$log" 2>&1 &&
    cmake --build "$build" -j "$(nproc)" --target gpu_kernel_tests gpu_prefill_check real_gpu_engine_tests gpu_kernel_bench gpu_engine_bench >>"$log" 2>&1 ||
    { tail -40 "$log"; exit 1; }
  say "built in $((SECONDS - started)) s"
fi

failed=0
step() {  # step NAME SECONDS COMMAND...: runs one part, notes how it ended
  local name=$1 limit=$2
  shift 2
  [[ -z $only || ",$only," == *",$name,"* ]] || return 0
  local begun=$SECONDS
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1
  local rc=$?
  cat "$out"/shard*.log >>"$out/$name.txt" 2>/dev/null && rm -f "$out"/shard*.log  # also those of a run that was ended
  [[ $rc -eq 0 ]] || { failed=1; grep -hE -A12 'Failure|FAILED|rror' "$out/$name.txt" | head -40; }
  say "$name: exit $rc after $((SECONDS - begun)) s: $(grep -cE '^\[  PASSED' "$out/$name.txt") passed, $(grep -cE '^\[  FAILED' "$out/$name.txt") failed"
}
shards() {  # shards PROGRAM: its tests in parts side by side; results go by through pinned memory and launches that wait
  local count=8 i rc=0 jobs=()
  for ((i = 0; i < count; i++)); do
    OMP_NUM_THREADS=1 GTEST_TOTAL_SHARDS=$count GTEST_SHARD_INDEX=$i CUDA_LAUNCH_BLOCKING=1 "$1" >"$out/shard$i.log" 2>&1 &
    jobs+=($!)
  done
  for i in "${jobs[@]}"; do wait "$i" || rc=1; done
  return $rc
}
export -f shards
export out
step kernel-tests 50 bash -c "shards $programs/gpu_kernel_tests"
step prefill-check 60 "$programs/gpu_prefill_check"
step engine-tests 60 "$programs/real_gpu_engine_tests" --gtest_brief=1
step kernel-bench 60 "$programs/gpu_kernel_bench" --json "$out/kernels.json"
step engine-bench 100 "$programs/gpu_engine_bench" --json "$out/engine.json"
step graph-bench 100 "$programs/gpu_engine_bench" --cuda-graphs --json "$out/engine-graphs.json"
[[ ",$only," != *,profile,* ]] || step profile 90 tests/gpu/profile.sh "$programs" "$out"
cat "$out"/{kernel-bench,engine-bench,graph-bench,profile}.txt 2>/dev/null | tee -a "$log"
say "all of it took $((SECONDS - started)) s; results in $out"
exit $failed
