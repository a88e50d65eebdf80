#!/usr/bin/env bash
# sanitize.sh [address|thread]   runs the unit tests that gain by it under sanitizers.
#
# Address and undefined behaviour: whatever reads foreign bytes or manages memory by hand, except what needs containers.
# Threads: the engine and all that has threads of its own.
# Environment: PINTLE_SANITIZE_BUILD (prefix of the build folders, default build), PINTLE_JOBS.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${PINTLE_SANITIZE_BUILD:-build}
jobs=${PINTLE_JOBS:-$(nproc)}

# ctest entries; one that does not exist in this tree is an error, so that a renamed test is not lost.
address=(kernel_engine_test kernel_admin_test pintle_wire_test kernel_loader_test sdk_test contract_test document_test pintle_files_test pintle_images_test
  pintle_registry_test pintle_oci_spec_test cni_test cni_library_test cri_state_test cri_engine_test cri_grpc_test node_agent_units_test
  node_agent_probes_test node_agent_test runtime_oci_test api_test certificates_test http_server_test profile_test)
thread=(kernel_engine_test kernel_admin_test)
# They leave things on purpose: engines and calls that end as with kill -9, code that is loaded for good. No leaks are looked for there.
leaving=(cri_engine_test sdk_test contract_test kernel_loader_test)

export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

run() {
  local preset=$1 build=$prefix/$1; shift
  local name known tests=()
  mkdir -p "$build"
  cmake --preset "$preset" -B "$build" >"$build/configure.log" 2>&1 || { tail -30 "$build/configure.log"; return 1; }
  known=$(ctest --test-dir "$build" -N | sed -n 's/^ *Test *#[0-9]*: //p')
  for name in "$@"; do
    grep -qx "$name" <<<"$known" || { echo "error: there is no test $name in $build" >&2; return 1; }
    tests+=("$name")
  done
  ninja -C "$build" -j "$jobs" "${tests[@]}" || return 1
  local whole=() left=() status=0
  for name in "${tests[@]}"; do
    if [[ " ${leaving[*]} " == *" $name "* ]]; then left+=("$name"); else whole+=("$name"); fi
  done
  [ ${#whole[@]} = 0 ] || check "$build" "${whole[@]}" || status=1
  [ ${#left[@]} = 0 ] || ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 check "$build" "${left[@]}" || status=1
  return $status
}

check() {
  local build=$1; shift
  ctest --test-dir "$build" -R "^($(IFS='|'; echo "$*"))\$" --output-on-failure --no-tests=error --timeout 600
}

case ${1:-all} in
  address) run asan "${address[@]}" ;;
  thread) run tsan "${thread[@]}" ;;
  all) status=0; run asan "${address[@]}" || status=1; run tsan "${thread[@]}" || status=1; exit $status ;;
  *) echo "usage: sanitize.sh [address|thread]" >&2; exit 2 ;;
esac
