#!/usr/bin/env bash
# up.sh                  from a checkout to a running node: installs what is needed (Debian 12), builds, installs the package,
#                        starts a standalone node, and runs an example web pod that answers on its pod address
# up.sh down [--purge]   ends the pods and the node and removes the package; with --purge its state, images and logs too
#
# With systemd the node is the service `pintled`; without, it is started in the background and logs to /var/log/pintled.log.
# Running it again changes nothing that is as it should be.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '%s\n' "$*"; }
fail() { echo "error: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "a node makes namespaces, links and cgroups: run this as root (sudo packaging/up.sh)"
has_systemd() { [ -d /run/systemd/system ]; }
build=${PINTLE_BUILD:-build/release}
log=/var/log/pintled.log
manifest=packaging/examples/web.yaml

wait_for() {  # wait_for SECONDS WHAT COMMAND...
  local until=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.2
  done
}

down() {
  local purge=${1:-} pid
  if pintle status >/dev/null 2>&1 || [ -S /run/pintle/pintled.sock ]; then
    say "Ending the pods"
    local pods
    pods=$(pintle pod ls -o json 2>/dev/null | python3 -c '
import json, sys
for pod in json.load(sys.stdin)["pods"]:
    print(pod["namespace"] + "/" + pod["name"])' 2>/dev/null || true)
    for pod in $pods; do pintle pod rm "$pod" || true; done
    no_pods() { [ -z "$(pintle pod ls -o json 2>/dev/null | python3 -c 'import json, sys; print(*json.load(sys.stdin)["pods"])')" ]; }
    wait_for 60 "the pods to end" no_pods || echo "warning: some pods have not ended; see 'pintle pod ls'" >&2
  fi
  say "Stopping the node"
  if has_systemd; then
    systemctl disable --now pintled >/dev/null 2>&1 || true
  fi
  for pid in $(pgrep -x pintled || true); do
    [ "$(readlink "/proc/$pid/exe" | sed 's/ (deleted)$//')" = /usr/sbin/pintled ] || continue
    kill -TERM "$pid" 2>/dev/null || true
    wait_for 30 "pintled to stop" sh -c "! kill -0 $pid 2>/dev/null" || fail "pintled (process $pid) does not stop; see $log"
  done
  if dpkg-query -W pintle >/dev/null 2>&1; then
    say "Removing the package"
    if [ "$purge" = --purge ]; then
      dpkg --purge pintle >/dev/null
    else
      dpkg --remove pintle >/dev/null
    fi
  fi
  [ "$purge" != --purge ] || rm -rf /var/lib/pintle /run/pintle /etc/pintle /var/log/pods "$log" "$build/installed.sha256"
  say "Nothing of Pintle runs any more."
}

up() {
  bash packaging/dependencies.sh build run
  say "Building (the first time some minutes; $build)"
  mkdir -p "$build"
  [ -f "$build/build.ninja" ] || cmake --preset release -B "$build" >"$build/configure.log" 2>&1 ||
    { tail -30 "$build/configure.log" >&2; fail "cmake refused the tree; see $build/configure.log"; }
  ninja -C "$build" product >"$build/build.log" 2>&1 || { grep -A20 -m1 FAILED "$build/build.log" >&2; fail "the build failed; see $build/build.log"; }

  # The package is made anew only when something that it holds has changed.
  local hash
  hash=$(cd "$build" && { find kernel lib packaging -type f \( -executable -o -name '*.so*' -o -name '*.tar' \) -print0 | sort -z | xargs -0 sha256sum; find ../../packaging -type f ! -name up.sh -print0 | sort -z | xargs -0 sha256sum; } | sha256sum)
  if [ "$(cat "$build/installed.sha256" 2>/dev/null)" != "$hash" ] || ! dpkg-query -W -f '${Status}' pintle 2>/dev/null | grep -q 'ok installed'; then
    say "Installing the package"
    (cd "$build" && cpack -G DEB >cpack.log 2>&1) || { tail -20 "$build/cpack.log" >&2; fail "cpack failed; see $build/cpack.log"; }
    dpkg -i "$build"/pintle_*.deb >"$build/dpkg.log" 2>&1 || { tail -20 "$build/dpkg.log" >&2; fail "dpkg refused the package; see $build/dpkg.log"; }
    echo "$hash" >"$build/installed.sha256"
    if ! has_systemd && pgrep -x pintled >/dev/null; then
      pkill -USR2 -x pintled # becomes the new build in place
    fi
  fi

  if ! curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/healthz >/dev/null; then
    say "Starting the node"
    if has_systemd; then
      systemctl enable --now pintled
    else
      setsid --fork /usr/sbin/pintled --profile standalone >>"$log" 2>&1 </dev/null
    fi
  fi
  wait_for 30 "the node to be ready" curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/readyz ||
    { pintle status >&2 || tail -20 "$log" >&2; fail "the node is not ready after 30 s: see above, and 'pintle doctor'"; }

  pintle image ls 2>/dev/null | grep -q pintle.local/web || { say "Loading the example image"; pintle image load /usr/share/pintle/images/web.tar; }
  pintle pod apply -f "$manifest"
  local address=""
  pod_address() {
    address=$(pintle pod ls -o json | python3 -c '
import json, sys
for pod in json.load(sys.stdin)["pods"]:
    if pod["name"] == "web" and pod["phase"] == "Running" and pod["addresses"]:
        print(pod["addresses"][0])')
    [ -n "$address" ]
  }
  local until=$((SECONDS + 60))
  until pod_address && curl -sf --max-time 2 "http://$address:8080/" >/dev/null; do
    [ $SECONDS -lt $until ] || { pintle pod describe web >&2 || true; fail "the example pod does not answer: see above, and 'pintle logs'"; }
    sleep 0.2
  done
  pintle status
  say "The example pod answers on http://$address:8080/ :"
  curl -s "http://$address:8080/"
  echo
  echo "Next: pintle pod ls; pintle pod logs web; edit /etc/pintle/manifests; packaging/up.sh down"
}

case ${1:-} in
  "") up ;;
  down) [ -z "${2:-}" ] || [ "$2" = --purge ] || fail "usage: up.sh [down [--purge]]"; down "${2:-}" ;;
  *) fail "usage: up.sh [down [--purge]]" ;;
esac
