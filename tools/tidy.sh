#!/usr/bin/env bash
# clang-tidy over every project source, with a line of progress. usage: tools/tidy.sh BUILD_DIR [FILE...]
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -ge 1 && "$1" != -* ]] || { sed -n 2p "$0"; exit 2; }
build=$1
shift
if [[ $# -gt 0 ]]; then files=("$@"); else mapfile -t files < <(git ls-files 'engine/*.cpp' 'server/*.cpp' 'client/*.cpp'); fi
# The compile database is GCC's: clang does not know all of its warnings.
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "${JOBS:-$(nproc)}" sh -c '
  clang-tidy --quiet -p "$0" --extra-arg=-Wno-unknown-warning-option "$1" 2>/dev/null >"$0/tidy-$(echo "$1" | tr / _).log" ||
    { cat "$0/tidy-$(echo "$1" | tr / _).log"; exit 1; }
  echo "tidy: $1"' "$build"
echo "tidy: ${#files[@]} files clean"
