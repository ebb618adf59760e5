#!/usr/bin/env bash
# Prints the rules of deploy/prometheus as PrometheusRule objects, for `kubectl apply -f -`.
set -euo pipefail
cd "$(dirname "$0")/../../../prometheus"
for rules in recording-rules alerts; do
  printf -- '---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n'
  printf 'metadata: {name: kvcrush-%s, namespace: kvcrush}\nspec:\n' "$rules"
  sed 's/^./  &/' "$rules.yml"
done
