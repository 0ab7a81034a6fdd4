#!/usr/bin/env bash
# Fails when the committed stubs are not what protos/ gives with the locked tools. Changes nothing in the checkout.
set -euo pipefail
bin=$(cd "${1:?folder of the locked tools}" && pwd)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -Iprotos --python_out="$fresh" --grpc_python_out="$fresh" \
  --mypy_out="quiet:$fresh" --mypy_grpc_out="quiet:$fresh" protos/junctor/v1/*.proto
diff -r -x __init__.py -x __pycache__ "$fresh/junctor/v1" junctor/v1 || {
  echo "the stubs in junctor/v1 are not what protos/ gives: run 'make proto' and commit" >&2
  exit 1
}
echo "stubs: as protos/ gives them"
