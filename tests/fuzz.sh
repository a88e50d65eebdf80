#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET...]   builds the libFuzzer targets (clang, address and undefined-behaviour sanitizers) and runs each for
# a while (30 s) from a corpus of what the tree itself holds of its kind.
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

# What a target starts from: everything of its kind that the tree holds, and, for formats that the tree only makes, a small one.
seed() {
  local target=$1 corpus=$2 work
  case $target in
    profile_fuzz | document_fuzz | *manifest*fuzz | *pod*fuzz)
      find packaging plugins sdk/examples -name '*.yaml' -o -name '*.json' | while read -r file; do
        cp "$file" "$corpus/$(tr / _ <<<"$file")"
      done ;;
    *unpack*)
      work=$(mktemp -d)
      mkdir -p "$work/a/b" && echo text >"$work/a/b/file" && ln -s ../b/file "$work/a/link" && ln "$work/a/b/file" "$work/hard"
      touch "$work/.wh.gone" "$work/a/.wh..wh..opq"
      tar -C "$work" -cf "$corpus/plain.tar" . && gzip -kf "$corpus/plain.tar" && tar -C "$work" --format=pax -cf "$corpus/pax.tar" .
      rm -rf "$work" ;;
    *reference*) printf 'registry.example:5000/team/image:1.2@sha256:%064d' 7 >"$corpus/full"; printf busybox >"$corpus/short" ;;
    *http_request*)
      printf '\x07GET /containerLogs/ns/pod/c?follow=true&tailLines=5 HTTP/1.1\r\nHost: node\r\n\r\n' >"$corpus/get"
      printf '\x20POST /pods HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n' >"$corpus/chunked"
      printf '\x01PUT /%%2f HTTP/1.0\r\nContent-Length: 2\r\n\r\nab' >"$corpus/length" ;;
    *range_file*) printf '{}' >"$corpus/empty" ;;
    *plugin_file* | *elf* | *note*)
      [ -z "$(find "$build/lib/pintle/plugins" -name '*.so' 2>/dev/null)" ] || cp "$build"/lib/pintle/plugins/*.so "$corpus/"
      [ ! -d build/release/lib/pintle/plugins ] || cp build/release/lib/pintle/plugins/echo-c.so "$corpus/" 2>/dev/null || true ;;
  esac
}

status=0
for program in "${programs[@]}"; do
  target=$(basename "$program")
  corpus=$build/corpus/$target findings=$build/findings/$target
  mkdir -p "$corpus" "$findings"
  seed "$target" "$corpus"
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
