#!/usr/bin/env bash
# Debian's chromium, by which tests/console looks at the console: installed where it can be.
#
# Where the package cannot be had it says so and exits 0; those tests then skip, and say so as well.
set -euo pipefail

skip() {
  echo "chromium: SKIPPED, THE CONSOLE WILL NOT BE LOOKED AT: $1; it is in Debian's package chromium" >&2
  exit 0
}

install() {
  command -v apt-get >/dev/null || skip "this is no Debian"
  [ "$(id -u)" = 0 ] || skip "only root can install packages"
  echo "chromium: installing it"
  log=$(mktemp)
  apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null >"$log" 2>&1; }
  apt install -y --no-install-recommends chromium fonts-dejavu-core \
    || { apt update && apt install -y --no-install-recommends chromium fonts-dejavu-core; } \
    || { cat "$log" >&2; skip "apt-get cannot install it"; }
}

command -v chromium >/dev/null || install
chromium --version 2>/dev/null
