#!/usr/bin/env bash
# Alerts by the judgement of Debian's promtool, which is installed where it can be; tests/services/test_alerts.py, which
# looks at the dashboards' queries as well, uses it too and skips without it.
#
# Where the package cannot be had it says so and exits 0. What fails after that fails the build.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
  echo "promtool: SKIPPED, NOTHING WAS CHECKED: $1; it is in Debian's package prometheus" >&2
  exit 0
}

install() {
  command -v apt-get >/dev/null || skip "this is no Debian"
  [ "$(id -u)" = 0 ] || skip "only root can install packages"
  echo "promtool: installing prometheus"
  log=$(mktemp)
  apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null >"$log" 2>&1; }
  # The tool alone is wanted: nothing of the package may begin to run.
  apt install -y --no-install-recommends -o DPkg::Options::=--force-confold prometheus \
    || { apt update && apt install -y --no-install-recommends prometheus; } \
    || { cat "$log" >&2; skip "apt-get cannot install it"; }
}

command -v promtool >/dev/null || install
promtool check rules deploy/alerts.yaml
promtool test rules deploy/alerts_test.yaml
