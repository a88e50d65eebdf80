#!/usr/bin/env bash
# run.sh [--all]   installs what is needed (Debian 12, root), builds, and runs the gate through ctest.
#
# --all adds what takes long: sanitizer builds of the parts that gain by them, fuzz targets for a while each, soaks, benchmarks.
# Environment: PINTLE_BUILD (build folder, default build/release), PINTLE_JOBS (default: number of cores).
set -euo pipefail
cd "$(dirname "$0")/.."
all=false
case ${1:-} in
  "") ;;
  --all) all=true ;;
  *) echo "usage: tests/run.sh [--all]" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { echo "error: tests make namespaces, links and cgroups: run them as root (sudo tests/run.sh)" >&2; exit 1; }
build=${PINTLE_BUILD:-build/release}
jobs=${PINTLE_JOBS:-$(nproc)}
started=$SECONDS
# Another checkout of the same sources finds what was compiled for this one.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

bash packaging/dependencies.sh build run test
$all && bash packaging/dependencies.sh long
bash tests/peers/build.sh crictl cnitool || true  # needs go; the tests that use it say by name that they were skipped

# crun 1.8 refuses cgroup v1 while a controller sits on a v2 hierarchy (hybrid): hugetlb is mounted as v1 for the tests.
if [ -d /sys/fs/cgroup/unified ] && ! mountpoint -q /sys/fs/cgroup/hugetlb && grep -q '^hugetlb' /proc/cgroups; then
  mkdir -p /sys/fs/cgroup/hugetlb 2>/dev/null && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb 2>/dev/null || true
fi

mkdir -p "$build"
cmake --preset release -B "$build" >"$build/configure.log" 2>&1 || { tail -30 "$build/configure.log"; exit 1; }
ninja -C "$build" -j "$jobs"
echo "built in $((SECONDS - started)) s"

labels=(-L gate)
$all && labels=()
status=0
ctest --test-dir "$build" "${labels[@]}" -j "$jobs" --output-on-failure --no-tests=error || status=$?

if $all; then
  bash tests/sanitize.sh || status=1
  bash tests/fuzz.sh || status=1
fi
echo "all in $((SECONDS - started)) s"
exit $status
