#!/usr/bin/env bash
# Builds the container image and runs it locked down as deploy/ does: not root, read-only root, no capabilities, little memory.
# usage: tests/deploy/image.sh [--build-only | --run-only]
# Wants podman (Debian: podman, and runc or crun), and the demo model (make setup). Takes long the first time: the whole engine
# is compiled. Where no registry answers, a Debian 12 base is made with mmdebstrap, or taken from BASE_IMAGE.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=1 run=1
case "${1:-}" in
  "") ;;
  --build-only) run=0 ;;
  --run-only) build=0 ;;
  *) sed -n '2,5p' "$0"; exit 2 ;;
esac

image=localhost/kvcrush-serve:test
local_base=localhost/kvcrush-debian:12
models=$PWD/.cache/models model=SmolLM2-135M-Instruct.Q4_1.gguf
server=kvcrush-image-test
version=$(sed -n 's/^project(.*VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
scratch=$(mktemp -d)
cleanup() {
  podman rm -f -i -v "$server" >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap cleanup EXIT
say() { printf '\033[1m[image]\033[0m %s\n' "$*"; }
die() { say "FAILED: $*" >&2; exit 1; }
check() { local what=$1; shift; "$@" || die "$what"; say "ok: $what"; }
fails() { ! "$@" >/dev/null 2>&1; }
equals() { [[ "$1" == "$2" ]] || { say "is \"$1\", expected \"$2\"" >&2; return 1; }; }

command -v podman >/dev/null || die "podman is missing"
# crun refuses a machine whose cgroups are half v1, half v2; runc takes it.
runtime=()
[[ ! -d /sys/fs/cgroup/unified ]] || runtime=(--runtime runc)
podman() { command podman "${runtime[@]}" "$@"; }
# Where there is no systemd, Podman complains that it has no timer for health checks. They are run by hand here.
quietly() { podman "$@" >/dev/null 2>"$scratch/podman.log" || { cat "$scratch/podman.log" >&2; die "podman $1"; }; }
# Podman raises these where it may; where it may not, it fails unless told.
limits=(--ulimit nofile=4096:16384 --ulimit nproc=4096:4096)
confined=("${limits[@]}" --read-only --cap-drop ALL --security-opt no-new-privileges)

# Debian's own image, as the Dockerfile says, or the same made here.
base_image() {
  local wanted
  wanted=$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)
  if [[ -n "${BASE_IMAGE:-}" ]]; then
    echo "$BASE_IMAGE"
  elif podman pull -q "docker.io/library/$wanted" >/dev/null 2>&1; then
    echo "docker.io/library/$wanted"
  else
    podman image exists "$local_base" || make_base
    echo "$local_base"
  fi
}

make_base() {
  say "no registry answers: making a Debian 12 with mmdebstrap" >&2
  mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$scratch/base.tar"
  podman import -q "$scratch/base.tar" "$local_base" >/dev/null
  rm "$scratch/base.tar"
}

# pip inside the build asks whom pip here asks, and trusts whom it trusts. Secrets of the build stay out of the image.
pip_secrets() {
  local option value certificates=${PIP_CERT:-${SSL_CERT_FILE:-}}
  echo "[global]" >"$scratch/pip.conf"
  for option in index-url extra-index-url trusted-host; do
    if value=$(python3 -m pip config get "global.$option" 2>/dev/null); then echo "$option = $value" >>"$scratch/pip.conf"; fi
  done
  if [[ -n "$certificates" ]]; then
    echo "cert = /run/secrets/ca_bundle" >>"$scratch/pip.conf"
    secrets+=(--secret "id=ca_bundle,src=$certificates")
  fi
  secrets+=(--secret "id=pip_conf,src=$scratch/pip.conf")
}

build_image() {
  local base start secrets=()
  base=$(base_image)
  pip_secrets
  say "building from $base"
  start=$SECONDS
  # Docker's format has HEALTHCHECK and SHELL. Older buildah drops a stage that an argument names, hence all stages, and then a
  # stand-in for the CUDA image, which this preset does not use.
  podman build --format docker --skip-unused-stages=false --network host "${limits[@]}" "${secrets[@]}" \
    --build-arg "BASE_IMAGE=$base" --build-arg "CUDA_IMAGE=$base" -t "$image" . >"$scratch/build.log" 2>&1 ||
    { tail -40 "$scratch/build.log" >&2; die "the image does not build"; }
  say "built in $((SECONDS - start)) s, $(grep -c -e 'Using cache' "$scratch/build.log" || true) steps from the cache"
}

check_contents() {
  local config
  config=$(podman image inspect "$image")
  get() { python3 -c "import json,sys; c=json.load(sys.stdin)[0]; print($1)" <<<"$config"; }
  say "size: $(get 'round(c["Size"] / 1e6)') MB"
  check "label says $version" equals "$(get 'c["Labels"]["org.opencontainers.image.version"]')" "$version"
  check "user is 10001" equals "$(get 'c["Config"]["User"]')" 10001:10001
  check "SIGTERM stops it" equals "$(get 'c["Config"]["StopSignal"]')" SIGTERM
  check "the server says $version" equals "$(once kvcrush-server --version)" "kvcrush-server $version"
  check "no secret of the build is left" fails once test -e /etc/pip.conf -o -e /run/secrets/ca_bundle
  check "no compiler is left" fails once sh -c 'command -v c++ || command -v cmake || command -v python3'
  check "wrong options end it with 2" equals "$(once env KVCRUSH_KV_MEMORY=lots kvcrush-server >/dev/null 2>&1; echo $?)" 2
}

# A container of its own for one command; the first word replaces the server as entry point.
once() { podman run --rm "${confined[@]}" --no-healthcheck --entrypoint "$1" "$image" "${@:2}"; }
client() { once kvcrush --server "$address:50051" --timeout 120 "$@"; }

# The health check must be able to say no.
check_health_says_no() {
  quietly run -d --name "$server" "${confined[@]}" --entrypoint sleep "$image" 60
  check "unhealthy where nothing serves" fails podman healthcheck run "$server"
  quietly rm -f -v -t 0 "$server"
}

start_server() {
  quietly run -d --name "$server" "${confined[@]}" --memory 2g --pids-limit 256 --tmpfs /tmp:rw,noexec,nosuid,size=16m \
    -v "$models:/models:ro" -e "KVCRUSH_MODEL=/models/$model" -e KVCRUSH_KV_MEMORY=256MiB -e KVCRUSH_LOG_FORMAT=json \
    "$image"
  local start=$SECONDS
  until podman healthcheck run "$server" >/dev/null 2>&1; do
    [[ $(podman inspect -f '{{.State.Running}}' "$server") == true && $((SECONDS - start)) -lt 120 ]] ||
      { podman logs "$server" >&2; die "never healthy"; }
    sleep 0.5
  done
  say "ok: healthy after $((SECONDS - start)) s"
  address=$(podman inspect -f '{{.NetworkSettings.IPAddress}}' "$server")
}

check_confinement() {
  local status
  status=$(podman exec "$server" cat /proc/1/status)
  of() { awk -v name="$1:" '$1 == name {print $2}' <<<"$status"; }
  check "runs as uid 10001" equals "$(of Uid)" 10001
  check "runs as gid 10001" equals "$(of Gid)" 10001
  check "has no capability" equals "$(of CapEff)$(of CapBnd)" "$(printf '0%.0s' {1..32})"
  check "may gain no privilege" equals "$(of NoNewPrivs)" 1
  check "is under a seccomp filter" equals "$(of Seccomp)" 2
  check "the root is read-only" fails podman exec "$server" touch /usr/local/bin/x
  check "the model is read-only" fails podman exec "$server" touch /models/x
  check "/tmp can be written" podman exec "$server" touch /tmp/x
  check "memory is limited" equals "$(of_cgroup memory.max memory/memory.limit_in_bytes)" $((2 << 30))
  check "processes are limited" equals "$(of_cgroup pids.max pids/pids.max)" 256
}

# A file of the container's cgroup: version 2, or version 1.
of_cgroup() { podman exec "$server" sh -c "cat /sys/fs/cgroup/$1 2>/dev/null || cat /sys/fs/cgroup/$2"; }

check_serving() {
  local answer
  answer=$(client generate --temperature 0 --max-tokens 8 --policy off "The capital of France is")
  check "another container gets an answer: ${answer//$'\n'/ }" grep -q Paris <<<"$answer"
  check "/readyz" equals "$(curl -sf --max-time 5 "http://$address:9090/readyz")" ready
  curl -sf --max-time 5 "http://$address:9090/metrics" >"$scratch/metrics"
  say "resident: $(awk '$1 == "process_resident_memory_bytes" {printf "%.0f MB", $2 / 1e6}' "$scratch/metrics")"
  check "/metrics says $version" grep -q "kvcrush_build_info{version=\"$version\"} 1" "$scratch/metrics"
}

# A request that runs when SIGTERM comes still gets all of its tokens.
check_drain() {
  client generate --temperature 0 --max-tokens 200 --ignore-eos --json "Once upon a time" >"$scratch/long.json" &
  local pid=$! start
  until [[ -s "$scratch/long.json" ]]; do
    kill -0 "$pid" 2>/dev/null || die "the long request never ran"
    sleep 0.1
  done
  start=$SECONDS
  quietly stop -t 60 "$server"
  say "stopped after $((SECONDS - start)) s"
  check "the running request finished" wait "$pid"
  check "with all of its tokens" grep -q 'FINISH_REASON_LENGTH' "$scratch/long.json"
  check "the server ended with 0" equals "$(podman inspect -f '{{.State.ExitCode}}' "$server")" 0
  podman logs "$server" >"$scratch/server.log" 2>&1
  check "it drained" grep -q '"draining"' "$scratch/server.log"
  check "it stopped by itself" grep -q '"stopped"' "$scratch/server.log"
}

[[ $build -eq 0 ]] || build_image
[[ $run -eq 1 ]] || exit 0
[[ -f "$models/$model" ]] || die "$models/$model is missing: run tools/setup.sh first"
check_contents
check_health_says_no
start_server
check_confinement
check_serving
check_drain
say "all checks passed"
