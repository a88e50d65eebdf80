#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET...]   builds the libFuzzer targets (clang, address and undefined-behaviour sanitizers) and runs each for
# a while (30 s) from the seeds of tests/fuzz/seeds.py.
#
# A finding is written to build/fuzz/findings/TARGET/ and fails the run: give that file to the target's program to see it again.
# Environment: PINTLE_FUZZ_BUILD (build folder, default build/fuzz), PINTLE_JOBS.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=30
case ${1:-} in
  '' | *[!0-9]*) ;;
  *) seconds=$1; shift ;;
esac
build=${PINTLE_FUZZ_BUILD:-build/fuzz}
jobs=${PINTLE_JOBS:-$(nproc)}

mkdir -p "$build"
cmake --preset fuzz -B "$build" >"$build/configure.log" 2>&1 || { tail -30 "$build/configure.log"; exit 1; }
mapfile -t programs < <(ninja -C "$build" -t targets all | sed -n 's/^\([^ ]*_fuzz\): CXX_EXECUTABLE_LINKER.*/\1/p' | sort)
[ ${#programs[@]} -gt 0 ] || { echo "error: $build has no fuzz targets" >&2; exit 1; }
if [ $# -gt 0 ]; then
  wanted=()
  for program in "${programs[@]}"; do
    for name in "$@"; do [ "$(basename "$program")" != "$name" ] || wanted+=("$program"); done
  done
  programs=("${wanted[@]}")
fi
ninja -C "$build" -j "$jobs" "${programs[@]}"

status=0
for program in "${programs[@]}"; do
  target=$(basename "$program")
  corpus=$build/corpus/$target findings=$build/findings/$target
  mkdir -p "$corpus" "$findings"
  python3 tests/fuzz/seeds.py "$target" "$corpus" "$build" || { status=1; continue; }
  if "$build/$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$findings/" \
       "$corpus" >"$findings/log" 2>&1; then
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$findings/log") inputs in $seconds s, nothing found"
  else
    echo "$target: FOUND something, in $findings:" >&2
    tail -30 "$findings/log" >&2
    status=1
  fi
done
exit $status
