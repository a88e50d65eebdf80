#!/usr/bin/env bash
# vendor_test.sh BUILD|DEBS   lives the first hour of a plugin's vendor: an SDK as the packages install it, an empty folder, gcc and
# clang. BUILD is a build tree with all targets built, DEBS a folder with the two packages. What they hold is laid below a temporary
# root, nothing on this machine changes.
set -euo pipefail

source=$(realpath "$1")
work=$(mktemp -d --tmpdir pintle-vendor-XXXXXX)
trap 'rm -rf "$work"' EXIT
root=$work/root
log=$work/log
export PATH=$root/usr/bin:$PATH
failures=0

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# run COMMAND...   its output is shown only if it fails
run() {
  "$@" >"$log" 2>&1 && return 0
  cat "$log"
  fail "$*"
  return 1
}

# expect EXIT "what" COMMAND...   and leaves the output in $log
expect() {
  local wanted=$1 what=$2 code=0
  shift 2
  "$@" >"$log" 2>&1 || code=$?
  if [ "$code" = "$wanted" ]; then
    echo "ok: $what"
  else
    cat "$log"
    fail "$what: exit code $code instead of $wanted: $*"
  fi
}

expect_output() {
  grep -qF -- "$1" "$log" || fail "\"$1\" is missing in: $(cat "$log")"
}

# compile FOLDER COMPILER   a vendor's own warnings are on, and ours must not get in the way
compile() {
  local c cxx log
  log=$(mktemp -p "$work") # several may run at once
  case $2 in
    gcc) c=gcc cxx=g++ ;;
    clang) c=clang-14 cxx=clang++-14 ;;
  esac
  run env CC=$c CXX=$cxx CFLAGS="-Wall -Wextra -Wpedantic -Werror" CXXFLAGS="-Wall -Wextra -Wpedantic -Werror" \
    cmake -S "$1" -B "$1/$2" -G Ninja -DCMAKE_PREFIX_PATH="$root/usr" -DCMAKE_BUILD_TYPE=Debug &&
    run cmake --build "$1/$2" -j2 && echo "ok: $(basename "$1") builds with $2"
}

if [ -e "$source/CMakeCache.txt" ]; then
  for component in node sdk; do
    DESTDIR=$root run cmake --install "$source" --prefix /usr --component $component || exit 1
  done
else
  for package in "$source"/*.deb; do run dpkg-deb -x "$package" "$root" || exit 1; done
fi
mkdir "$work/vendor"
cd "$work/vendor"

# ---- New plugins, in both languages, by both compilers ----
expect 0 "a new plugin in C++" pintle plugin new acme-runtime --interface RuntimeBackend
expect 0 "a new plugin in C" pintle plugin new acme-network --interface pintle.network.v1.PodNetwork --language c --output network
expect 2 "an unknown interface is refused" pintle plugin new acme-network --interface PodNetwrok --output elsewhere
expect_output "did you mean PodNetwork?"
[ ! -e elsewhere ] || fail "a refused plugin left its folder"
expect 6 "a folder that holds something is left alone" pintle plugin new acme-other --interface Echo --output network
compile acme-runtime gcc &
compile network gcc
wait $! || failures=$((failures + 1))
for compiler in gcc clang; do
  [ $compiler = gcc ] || { compile acme-runtime clang; compile network clang; }
  expect 6 "what is unfinished is told apart, in C++ by $compiler" pintle plugin check acme-runtime/$compiler/acme-runtime.so
  for method in Describe CreateContainer StartContainer SignalContainer RemoveContainer ListContainers Exec UpdateResources Stats \
    ReopenLog Events CreateSandbox RemoveSandbox; do
    expect_output "$method is unimplemented"
  done
  expect 6 "what is unfinished is told apart, in C by $compiler" pintle plugin check network/$compiler/acme-network.so
  for method in Describe Attach Detach Check List Collect; do expect_output "$method is unimplemented"; done
  expect 0 "the new plugin's own test by $compiler" acme-runtime/$compiler/plugin_test
done

# ---- The finished examples, out of the tree ----
cp -r "$root/usr/share/doc/pintle/examples" .
for compiler in gcc clang; do
  for example in echo-c echo-cpp; do
    compile examples/$example $compiler
    expect 0 "$example by $compiler is green" pintle plugin check examples/$example/$compiler/$example.so
    expect_output "$example: green"
  done
done

# ---- What is no plugin, or a patched one ----
expect 3 "a file that is not there" pintle plugin check nowhere.so
expect 2 "a program is no plugin" pintle plugin check /bin/true
LC_ALL=C sed 's/touches nothing/TOUCHES nothing/' examples/echo-c/gcc/echo-c.so >patched.so
expect 1 "a manifest that was patched after the build" pintle plugin check patched.so
expect_output "changed after the build"

[ "$failures" = 0 ] || exit 1
echo "all as promised, in $SECONDS s"
