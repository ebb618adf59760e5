#!/usr/bin/env bash
# Formatting, link rules, shell syntax and the Dockerfile. usage: tools/lint.sh
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -co --exclude-standard '*.h' '*.cpp' '*.inc' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror
tools/check_link_rules.py
for script in tools/*.sh tests/gpu/*.sh tests/fuzz/*.sh client/python/*.sh tests/deploy/*.sh deploy/kubernetes/components/monitoring/rules.sh .ci/run; do bash -n "$script"; done
hadolint=.cache/venv/bin/hadolint
[[ ! -x "$hadolint" ]] || "$hadolint" Dockerfile
echo "lint: clean"
