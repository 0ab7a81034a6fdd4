#!/usr/bin/env bash
# The contract from another language, with nothing but Debian's packages: Go stubs from the exported descriptor set,
# compiled together with examples/go: one client against a `junctor up` with its demo provider, the other (watch)
# against five processes of which the model registry is killed and started again.
#
# Where the packages cannot be had it says so and exits 0. What fails after that fails the build.
# The descriptor set, not the .proto files, goes to protoc: Debian 12 has 3.21, which does not know `debug_redact`.
set -euo pipefail
bin=$(cd "${1:?folder of the virtual environment}" && pwd)
cd "$(dirname "$0")/../.."

packages="golang-go protobuf-compiler protoc-gen-go-1-5 protoc-gen-go-grpc golang-google-grpc-dev
  golang-google-genproto-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev"
gocode=/usr/share/gocode

skip() {
  echo "interop: SKIPPED, NOTHING WAS CHECKED: $1" >&2
  echo "interop: it needs Debian's packages:" $packages >&2
  exit 0
}

present() {
  local package
  for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || return 1
  done
}

install() {
  command -v apt-get >/dev/null || skip "this is no Debian"
  present && return
  [ "$(id -u)" = 0 ] || skip "only root can install packages"
  echo "interop: installing" $packages
  apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null >"$work/apt.log" 2>&1; }
  apt install -y --no-install-recommends $packages \
    || { apt update && apt install -y --no-install-recommends $packages; } \
    || { cat "$work/apt.log" >&2; skip "apt-get cannot install them"; }
}

compile() {
  "$bin/junctor" protos export "$work/protos" >/dev/null
  mkdir -p "$work/go/src"
  (cd "$work/protos" && protoc --descriptor_set_in=descriptor_set.binpb \
    --go_out="$work/go/src" --go-grpc_out="$work/go/src" junctor/v1/*.proto)
  export GO111MODULE=off GOFLAGS= GOPATH="$work/go:$gocode"
  go build junctor/v1
  go vet ./examples/go/...
  test -z "$(gofmt -l examples/go)" || { echo "interop: gofmt would change examples/go" >&2; return 1; }
  go build -o "$work/client" ./examples/go
  go build -o "$work/watch" ./examples/go/watch
  go build -o "$work/chat" ./examples/go/chat
  echo "interop: $(ls "$work/go/src/junctor/v1" | wc -l | tr -d ' ') stubs and examples/go compile with $(go version)"
}

# Starts junctor; sets http, grpc and pid.
start() {
  read -r http grpc < <("$bin/python" -c '
import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in taken))')
  XDG_CONFIG_HOME="$work/config" "$bin/junctor" up --no-detect --data-dir "$work/data" \
    --port "$http" --grpc-port "$grpc" </dev/null >"$work/junctor.log" 2>&1 &
  pid=$!
  "$bin/python" - "http://127.0.0.1:$http/apis/inference-gateway/v2/workspaces/default/provider/demo/ready" <<'PY' \
    || { cat "$work/junctor.log" >&2; echo "interop: junctor did not become ready" >&2; return 1; }
import sys, time, urllib.request

end = time.monotonic() + 60
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
while True:
    try:
        sys.exit(opener.open(sys.argv[1], timeout=5).status != 200)
    except OSError as error:
        if time.monotonic() > end:
            sys.exit(str(error))
    time.sleep(0.1)
PY
}

# Compiles and runs both forms of `junctor snippet --lang grpc-go`, as they are.
snippets() {
  local form flag answer
  for form in whole stream; do
    flag=; [ "$form" = whole ] || flag=--stream
    mkdir -p "$work/snippet-$form"
    "$bin/junctor" snippet demo-echo-1 --lang grpc-go $flag --prompt 'It is "me"' \
      --grpc-target "127.0.0.1:$grpc" >"$work/snippet-$form/main.go"
    test -z "$(gofmt -l "$work/snippet-$form")" || { echo "interop: gofmt would change the snippet" >&2; return 1; }
    go vet "$work/snippet-$form/main.go"
    go build -o "$work/snippet-$form/ask" "$work/snippet-$form/main.go"
    answer=$("$work/snippet-$form/ask")
    [[ "$answer" == 'You said: It is "me"'* ]] || { echo "interop: the $form snippet said: $answer" >&2; return 1; }
  done
  echo "interop: both forms of junctor snippet --lang grpc-go compile and answer"
}

finish() {
  local code=$?
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null || true; wait "$pid" || true; }
  rm -rf "$work"
  exit $((code != 0))
}

work=$(mktemp -d)
pid=
trap finish EXIT
install
compile
start
snippets
"$work/client" -target "127.0.0.1:$grpc" || { tail -n 40 "$work/junctor.log" >&2; exit 1; }
PYTHONPATH=. "$bin/python" -m tests.compat.watch_restart "$work/watch" "$work/deployment"

# Typed inference from Go and Python against five processes, with a stream that is silent for 45 s.
PYTHONPATH=. "$bin/python" -m tests.compat.chat_programs "$work/chat" "$work/five"
echo "interop: ok"
