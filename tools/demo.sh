#!/usr/bin/env bash
# Starts a server on free ports of this machine, runs one long prompt with the full KV cache and with KVCrush, stops it.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() {
  cat <<TEXT
usage: tools/demo.sh [--build-dir DIR] [--model FILE] [--budget SHARE|TOKENS] [--max-tokens N]
Compares the full KV cache with KVCrush on tools/demo_prompt.txt, greedy. Needs a finished build (make build).
  --build-dir DIR   default: build/cpu-release
  --model FILE      default: .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
  --budget B        what each layer keeps: 0.25 of the prompt (default), or 1024 tokens
  --max-tokens N    tokens to generate, default 96
The server's log is left in build/demo-server.log.
TEXT
}
build_dir=build/cpu-release model=.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf budget=0.25 max_tokens=96
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --build-dir | --model | --budget | --max-tokens)
      [[ $# -ge 2 ]] || { usage >&2; exit 2; }
      name=${1#--}
      printf -v "${name//-/_}" '%s' "$2"
      shift 2
      ;;
    *) usage >&2; exit 2 ;;
  esac
done

server=$build_dir/server/kvcrush-server client=$build_dir/client/kvcrush log=build/demo-server.log
say() { printf '\033[1m[demo]\033[0m %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }
for file in "$server" "$client"; do [[ -x "$file" ]] || die "$file is missing: run 'make build' first"; done
[[ -f "$model" ]] || die "$model is missing: run tools/setup.sh first"

scratch=$(mktemp -d)
server_pid=
cleanup() {
  [[ -z "$server_pid" ]] || kill "$server_pid" 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT

mkdir -p build
say "starting the server (log: $log)"
"$server" --model "$model" --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --port-file "$scratch/ports.json" \
  --log-level info >"$log" 2>&1 &
server_pid=$!

port_of() { sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" "$scratch/ports.json"; }
ready() {
  [[ -s "$scratch/ports.json" ]] || return 1
  # Plain bash instead of curl, which a bare machine may lack.
  local port answer
  port=$(port_of http_port)
  { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
  read -r -t 2 answer <&3 || answer=
  exec 3>&-
  [[ "$answer" == *" 200 "* ]]
}
[[ -t 1 ]] && tick=. || tick=
for ((tenths = 0; ; ++tenths)); do
  kill -0 "$server_pid" 2>/dev/null || { tail -5 "$log" >&2; server_pid=; die "the server ended while it was loading"; }
  ready && break
  ((tenths < 1200)) || die "the server is not ready after 120 s, see $log"
  ((tenths % 5)) || printf '%s' "$tick"
  sleep 0.1
done
[[ -z "$tick" ]] || echo
say "ready; the prompt is tools/demo_prompt.txt ($(wc -w <tools/demo_prompt.txt) words)"
echo

"$client" --server "127.0.0.1:$(port_of grpc_port)" compare --separate --file tools/demo_prompt.txt --chat \
  --budget "$budget" --max-tokens "$max_tokens"

echo
kill -TERM "$server_pid"
status=0
wait "$server_pid" || status=$?
server_pid=
[[ $status -eq 0 ]] || die "the server ended with $status instead of 0, see $log"
say "server stopped cleanly"
