#!/bin/sh
# cpp.sh BUILD_DIR: uffd.hpp is compiled without a warning by each C++ compiler that is there, by the oldest standard or a
# newer one, and cpp.cc works with it; so does the program of include/README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sed -n '/^```cpp$/,/^```$/p' "$here/../../include/README.md" | grep -v '^```' > "$scratch/page.cc"
build() { # compiler standard source
  "$1" -std="$2" -pedantic -Wall -Wextra -Wconversion -Werror -I "$here/../../include" -o "$scratch/program" "$3" \
    "$build/lib/libuffd.a" -pthread
}
build=$1
compiler=
try() { # compiler standard
  command -v "$1" > /dev/null || { echo "$1 is not installed: left out"; return 0; }
  echo "$1 -std=$2"
  compiler=$1
  build "$1" "$2" "$here/cpp.cc"
  code=0
  "$scratch/program" || code=$?
  [ $code = 0 ] || exit $code
}
try g++ c++17
try clang++ c++20
[ -n "$compiler" ] || { echo "no C++ compiler is installed"; exit 77; }
build "$compiler" c++17 "$scratch/page.cc"
[ "$("$scratch/program")" = "the ground, clone-7" ] || { echo "the program of include/README.md says something else"; exit 1; }
