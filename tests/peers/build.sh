#!/usr/bin/env bash
# build.sh crictl...   builds peers to test against from their Go modules into ~/.cache/pintle-peers (PINTLE_PEERS), once.
# Without go it says so and fails; the tests that use a peer skip themselves by name then.
set -euo pipefail
peers=${PINTLE_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/pintle-peers}
mkdir -p "$peers"
for name in "$@"; do
  [ -x "$peers/$name" ] && continue
  if ! command -v go >/dev/null; then
    echo "skipped: peer $name is built by go, which is not here" >&2
    exit 1
  fi
  case $name in
    crictl) GOBIN=$peers CGO_ENABLED=0 go install sigs.k8s.io/cri-tools/cmd/crictl@v1.34.0 ;;
    *) echo "error: unknown peer $name" >&2; exit 2 ;;
  esac
done
