#!/usr/bin/env bash
# The whole server on this machine's GPU, asked over loopback gRPC: greedy text against the same model on the CPU, a
# pruned prompt, many clients at once, metrics, SIGTERM. Takes the folder that `tests/gpu/pack.sh --server` made.
# usage: tests/gpu/server.sh MODEL [OUT]     (OUT: folder for logs, default build/gpu-results)
set -uo pipefail
cd "$(dirname "$0")/../.."
[[ $# -ge 1 && $1 != -h && $1 != --help ]] || { sed -n '2,4p' "$0"; exit 2; }
model=$1 out=${2:-build/gpu-results} bundle=build/gpu-bundle
mkdir -p "$out"
torch=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))') || exit 1
nvidia_libs=$(find "$(dirname "$torch")/nvidia" -maxdepth 2 -name lib -type d 2>/dev/null | paste -sd:)
export LD_LIBRARY_PATH="$torch/lib:$nvidia_libs:/usr/local/cuda/lib64:$bundle/lib:${LD_LIBRARY_PATH:-}"
say() { printf '[gpu] %s\n' "$*" | tee -a "$out/server.txt"; }
: >"$out/server.txt"
failed=0
check() {  # check WHAT COMMAND...
  local what=$1
  shift
  if "$@"; then say "$what: yes"; else say "$what: NO"; failed=1; fi
}
port_of() { sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" "$out/$2.json"; }
start() {  # start NAME OPTIONS...
  local name=$1
  shift
  rm -f "$out/$name.json"
  "$bundle/bin/kvcrush-server" --model "$model" --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 \
    --port-file "$out/$name.json" "$@" >"$out/$name.log" 2>&1 &
  pid=$!
  local waited=0
  until [[ -s $out/$name.json ]]; do
    kill -0 "$pid" 2>/dev/null && ((waited++ < 300)) || { tail -20 "$out/$name.log"; say "$name did not start"; exit 1; }
    sleep 0.1
  done
  export KVCRUSH_SERVER=127.0.0.1:$(port_of grpc_port "$name")
}
stop() { kill -TERM "$pid"; wait "$pid"; }
greedy() { "$bundle/bin/kvcrush" generate --temperature 0 --ignore-eos "$@"; }
long=tools/demo_prompt.txt question='Why is the sky blue? Explain it to a child.'

start cpu --device cpu --kv-dtype f32
greedy --chat --max-tokens 64 "$question" >"$out/text-cpu.txt"
stop
start gpu-f32 --device cuda:0 --weight-dtype f32 --kv-dtype f32 --kv-memory 1GiB
greedy --chat --max-tokens 64 "$question" >"$out/text-gpu-f32.txt"
check "greedy text with float32 weights is the CPU's" cmp -s "$out/text-cpu.txt" "$out/text-gpu-f32.txt"
check "SIGTERM ends the server with exit code 0" stop
start gpu --device auto --kv-dtype f16 --kv-memory 8GiB --max-batch-tokens 2048 --max-running 256
"$bundle/bin/kvcrush" info | tee -a "$out/server.txt"
for dtype in f16 int8 int4; do
  greedy --max-tokens 128 --kv-dtype "$dtype" --stats --file "$long" >"$out/text-$dtype.txt" 2>"$out/stats-$dtype.txt"
  check "full cache in $dtype" test $? -eq 0
  greedy --max-tokens 128 --kv-dtype "$dtype" --policy snapkv --budget 0.25 --stats --file "$long" >"$out/text-$dtype-25.txt" 2>"$out/stats-$dtype-25.txt"
  check "25 % in $dtype" test $? -eq 0
done
tail -n +1 "$out"/stats-*.txt >>"$out/server.txt"
begun=$(date +%s%N) pids=()
for i in $(seq 64); do
  "$bundle/bin/kvcrush" generate --seed "$i" --top-p 0.95 --ignore-eos --max-tokens 256 --chat "Tell story number $i." >"$out/client.$i" 2>&1 &
  pids+=($!)
done
all=0
for client in "${pids[@]}"; do wait "$client" || all=1; done
say "64 clients, 256 tokens each: $((64 * 256 * 1000 / (($(date +%s%N) - begun) / 1000000))) tokens/s, processes and connections included"
check "64 clients at once all got their text" test $all -eq 0
rm -f "$out"/client.*
python3 - "$(port_of http_port gpu)" <<'PY' | tee -a "$out/server.txt"
import sys, urllib.request
lines = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode().splitlines()
for line in lines:
    if line.startswith(("kvcrush_kv_", "kvcrush_requests_total", "kvcrush_tokens", "kvcrush_generated")) and "_bucket" not in line:
        print(line)
PY
check "/metrics answers" test "${PIPESTATUS[0]}" -eq 0
check "SIGTERM ends the server with exit code 0" stop
exit $failed
