#!/usr/bin/env bash
# Holds protos/ against the image of the last landed state. `make proto-baseline` takes a new image; that is for
# the commit that lands a release, never for one that breaks callers.
set -euo pipefail
buf=${1:?path of buf}
image=tests/compat/landed_protos.binpb
[ -f "$image" ] || { echo "buf breaking: no landed state to compare with yet"; exit 0; }
exec "$buf" breaking --against "$image"
