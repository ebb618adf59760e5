#!/usr/bin/env bash
# Runs the server's pod of deploy/kubernetes/overlays/cpu, as kustomize renders it, in podman: the nearest to a cluster that a
# single machine has. Probes, policies and Services are not podman's to try. usage: tests/deploy/pod.sh   (after image.sh)
# Wants podman with catatonit, and the test tools (tools/setup.sh --with-tests).
set -euo pipefail
cd "$(dirname "$0")/../.."
[[ $# -eq 0 ]] || { sed -n '2,4p' "$0"; exit 2; }
model=.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
scratch=$(mktemp -d)
container=kvcrush-pod-0-server
cleanup() {
  podman pod rm -f -i kvcrush-pod-0 >/dev/null 2>&1 || true
  podman volume rm -f kvcrush-models tmp >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap cleanup EXIT
say() { printf '\033[1m[pod]\033[0m %s\n' "$*"; }
die() { say "FAILED: $*" >&2; podman logs "$container" >&2 2>/dev/null || true; exit 1; }
inside() { podman exec "$container" "$@"; }

# See image.sh: limits that need no privilege, and runc where cgroups are half v1, half v2.
{
  printf '[containers]\ndefault_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]\n'
  [[ ! -d /sys/fs/cgroup/unified ]] || printf '[engine]\nruntime = "runc"\n'
} >"$scratch/containers.conf"
export CONTAINERS_CONF=$scratch/containers.conf

podman volume exists kvcrush-models && { say "there is a volume kvcrush-models already" >&2; trap - EXIT; exit 1; }
image=$(.cache/venv/bin/python - "$scratch/pod.yaml" <<'PY'
import sys
sys.path.insert(0, "tests/deploy")
import yaml
from manifests import container_of, of_kind, one, render
documents = render("overlays/cpu")
deployment = one(documents, "Deployment")
deployment["spec"]["replicas"] = 1
del container_of(documents)["ports"]  # podman would take the same ones of this machine
open(sys.argv[1], "w").write(yaml.safe_dump_all([*of_kind(documents, "ConfigMap"), deployment]))
print(container_of(documents)["image"])
PY
)
podman tag localhost/kvcrush-serve:test "$image"
podman volume create kvcrush-models >/dev/null
cp "$model" "$(podman volume inspect -f '{{.Mountpoint}}' kvcrush-models)/model.gguf"
podman play kube --network podman "$scratch/pod.yaml" >"$scratch/play.log" 2>&1 || { cat "$scratch/play.log" >&2; die "the pod does not start"; }
for _ in {1..120}; do
  ! inside kvcrush stats >/dev/null 2>&1 || break
  sleep 0.5
done
answer=$(inside kvcrush generate --temperature 0 --max-tokens 8 --policy off "The capital of France is") || die "no answer"
[[ "$answer" == *Paris* ]] || die "answered: $answer"
say "ok: answers: ${answer//$'\n'/ }"
[[ $(inside sh -c 'echo $KVCRUSH_THREADS') == 4 ]] || die "threads are not the CPU limit"
say "ok: as many threads as CPUs"
status=$(inside cat /proc/1/status)
for want in 'Uid:.10001' 'CapEff:.0000000000000000' 'NoNewPrivs:.1' 'Seccomp:.2'; do
  grep -Eq "^$want" <<<"$status" || die "not confined: $want"
done
! inside touch /x 2>/dev/null && ! inside touch /models/x 2>/dev/null && inside touch /tmp/x || die "wrong places can be written"
say "ok: confined; /tmp alone can be written"
podman pod stop -t 60 kvcrush-pod-0 >/dev/null 2>&1
[[ $(podman inspect -f '{{.State.ExitCode}}' "$container") == 0 ]] || die "did not end with 0"
podman logs "$container" 2>&1 | grep -q '"stopped"' || die "did not drain"
say "ok: SIGTERM drained it, exit code 0"
