#!/usr/bin/env bash
# build.sh crictl cnitool...   builds peers to test against from their Go modules into ~/.cache/pintle-peers (PINTLE_PEERS), once.
# Without go it says so and fails; the tests that use a peer skip themselves by name then.
set -euo pipefail
peers=${PINTLE_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/pintle-peers}
mkdir -p "$peers"

# The last release of crictl whose module still resolves by its repository's name. Its own go.mod points staging modules of
# Kubernetes to folders; the modules published for the same release stand in for them.
build_crictl() {
  local module=github.com/kubernetes-sigs/cri-tools version=v1.26.1 own name
  mkdir -p "$peers/crictl-module" && cd "$peers/crictl-module"
  printf '//go:build tools\n\npackage peers\n\nimport _ "%s/cmd/crictl"\n' "$module" >tools.go
  rm -f go.mod go.sum
  go mod init peers 2>/dev/null
  go mod edit -require="$module@$version"
  own=$(go mod download -json "$module@$version" | sed -n 's/.*"GoMod": "\(.*\)",*/\1/p')
  for name in $(awk '/^replace/ {inside = 1; next} inside && /=>/ {print $1}' "$own"); do
    case $name in
      k8s.io/kubernetes) go mod edit -replace="$name=$name@v1.26.0" ;;
      *) go mod edit -replace="$name=$name@v0.26.0" ;;
    esac
  done
  go mod tidy -e >tidy.log 2>&1 || { tail -5 tidy.log >&2; return 1; }
  CGO_ENABLED=0 go build -ldflags '-s -w' -o "$peers/crictl" "$module/cmd/crictl"
}

build_cnitool() {
  GOBIN=$peers CGO_ENABLED=0 go install github.com/containernetworking/cni/cnitool@v1.3.0
}

for name in "$@"; do
  [ -x "$peers/$name" ] && continue
  if ! command -v go >/dev/null; then
    echo "skipped: peer $name is built by go, which is not here" >&2
    exit 1
  fi
  case $name in
    crictl) (build_crictl) ;;
    cnitool) (build_cnitool) ;;
    *) echo "error: unknown peer $name" >&2; exit 2 ;;
  esac
done
