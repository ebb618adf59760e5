#!/usr/bin/env bash
# Generates the Python stubs beside the package (client/python/kvcrush/v1/). Needs Debian's protobuf-compiler and
# protobuf-compiler-grpc, which tools/setup.sh installs.
set -euo pipefail
[[ "${1:-}" == -h || "${1:-}" == --help ]] && { sed -n '2,3s/^# //p' "$0"; exit 0; }
here=$(cd "$(dirname "$0")" && pwd)
plugin=$(command -v grpc_python_plugin) || { echo "grpc_python_plugin not found: apt-get install protobuf-compiler-grpc" >&2; exit 1; }
protoc -I "$here/../../proto" --python_out "$here" --grpc_python_out "$here" \
  --plugin=protoc-gen-grpc_python="$plugin" kvcrush/v1/compression.proto kvcrush/v1/inference.proto
echo "wrote $here/kvcrush/v1"
