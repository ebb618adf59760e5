#!/usr/bin/env bash
# Where a decode step of the engine and the attention benchmark spend the GPU's time, read with Nsight Compute.
# usage: tests/gpu/profile.sh PROGRAMS OUT     (after tests/gpu/run.sh; PROGRAMS: folder of gpu_engine_bench)
set -uo pipefail
[[ $# -eq 2 ]] || { sed -n '2,3p' "$0"; exit 2; }
programs=$1 out=$2
profile() {  # profile NAME METRICS OPTIONS... -- COMMAND...: CSV of every kernel launched
  local name=$1 metrics=$2
  shift 2
  ncu --clock-control none --csv --page raw --metrics "$metrics" "$@" >"$out/ncu-$name.csv" 2>"$out/ncu-$name.err" || tail -3 "$out/ncu-$name.err" "$out/ncu-$name.csv"
}
profile step gpu__time_duration.sum --launch-skip 2600 --launch-count 320 "$programs/gpu_engine_bench" --batch 1 --context 1024
profile attention \
  gpu__time_duration.sum,dram__bytes_read.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__inst_executed_pipe_tensor.sum,sm__warps_active.avg.pct_of_peak_sustained_active,l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_elapsed,smsp__issue_active.avg.pct_of_peak_sustained_active,l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum \
  --kernel-name regex:decode_kernel --launch-skip 8 --launch-count 1 "$programs/gpu_kernel_bench" --filter "int4, batch 64"
python3 - "$out" <<'PY'
import collections, csv, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).glob("ncu-*.csv")):
    lines = [line for line in path.read_text().splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(lines))
    if len(rows) < 2:
        print(path.name, "nothing read")
        continue
    units, rows = rows[0], rows[1:]
    metrics = [name for name in rows[0] if name.startswith(("gpu__", "dram__", "sm__", "smsp__", "l1tex__")) and ".max" not in name and ".min" not in name]
    times = collections.defaultdict(list)
    for row in rows:
        times[row["Kernel Name"][:90]].append(float(row["gpu__time_duration.sum"].replace(",", "")))
    print(f"{path.name}: {len(rows)} kernels, {sum(map(sum, times.values())):.0f} {units['gpu__time_duration.sum']}")
    for name, each in sorted(times.items(), key=lambda item: -sum(item[1])):
        print(f"  {sum(each):10.1f} {len(each):4d} x {name}")
    if len(rows) == 1:
        for row in rows:
            print(" ", ", ".join(f"{m}={row[m]}" for m in metrics))
PY
