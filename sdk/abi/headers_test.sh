#!/usr/bin/env bash
# headers_test.sh GENERATED   compiles each public header alone: those in C as C11 and as C++20, strictly, those in C++ as C++20;
# by gcc and by clang. GENERATED holds the headers of the schemas.
set -uo pipefail
include=$(realpath "$(dirname "$0")/../include")
generated=$1
failed=0

# compiles LANGUAGE COMPILER HEADER FLAGS...
compiles() {
  local language=$1 compiler=$2 header=$3
  shift 3
  # Included twice: a header guards itself.
  printf '#include <%s>\n#include <%s>\n' "$header" "$header" |
    "$compiler" -x "$language" -fsyntax-only -Wall -Wextra -Werror -I"$include" "$@" - || {
      echo "FAILED: $header alone, as $language by $compiler $*"
      failed=1
    }
}

cd "$include"
for header in pintle/*.h; do
  for c in gcc clang-14; do compiles c $c "$header" -std=c11 -pedantic-errors; done
  for cxx in g++ clang++-14; do compiles c++ $cxx "$header" -std=c++20 -pedantic-errors; done
done
for header in pintle/*.hpp; do
  for cxx in g++ clang++-14; do compiles c++ $cxx "$header" -std=c++20 -isystem "$generated"; done
done
exit $failed
