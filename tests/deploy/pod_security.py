"""The "restricted" profile of Kubernetes' Pod Security Standards, as a list of what a pod breaks."""

from __future__ import annotations

ALLOWED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: dict) -> list[str]:
    spec = pod["spec"]
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    for volume in spec.get("volumes", []):
        found += [f"volume {volume['name']} is a {kind}" for kind in set(volume) - {"name"} - ALLOWED_VOLUMES]
    for container in spec.get("initContainers", []) + spec["containers"]:
        found += [f"container {container['name']}: {what}" for what in container_violations(spec, container)]
    return found


def container_violations(spec: dict, container: dict) -> list[str]:
    pod_context, context = spec.get("securityContext", {}), container.get("securityContext", {})
    effective = {**pod_context, **context}
    found = []
    if context.get("privileged"):
        found.append("privileged")
    if context.get("allowPrivilegeEscalation") is not False:
        found.append("may escalate privileges")
    if "ALL" not in context.get("capabilities", {}).get("drop", []):
        found.append("keeps capabilities")
    if set(context.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        found.append("adds capabilities")
    if effective.get("runAsNonRoot") is not True or effective.get("runAsUser") == 0:
        found.append("may run as root")
    if effective.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("has no seccomp profile")
    if any(port.get("hostPort") for port in container.get("ports", [])):
        found.append("takes a port of the host")
    return found
