#!/bin/sh
# cpp.sh BUILD_DIR: uffd.hpp is compiled without a warning by each C++ compiler that is there, and cpp.cc works with it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
compilers=0
code=0
for compiler in g++ clang++; do
  command -v "$compiler" > /dev/null || { echo "$compiler is not installed: left out"; continue; }
  compilers=$((compilers + 1))
  for standard in c++17 c++20; do
    echo "$compiler -std=$standard"
    "$compiler" -std=$standard -pedantic -Wall -Wextra -Wconversion -Werror -I "$here/../../include" \
      -o "$scratch/cpp" "$here/cpp.cc" "$1/lib/libuffd.a" -pthread
    "$scratch/cpp" || code=$?
    [ $code = 0 ] || exit $code
  done
done
[ $compilers -gt 0 ] || { echo "no C++ compiler is installed"; exit 77; }
# The program of include/README.md
sed -n '/^```cpp$/,/^```$/p' "$here/../../include/README.md" | grep -v '^```' > "$scratch/page.cc"
for compiler in g++ clang++; do
  command -v "$compiler" > /dev/null || continue
  "$compiler" -std=c++17 -Wall -Wextra -Werror -I "$here/../../include" -o "$scratch/page" "$scratch/page.cc" "$1/lib/libuffd.a" -pthread
  [ "$("$scratch/page")" = "the ground, clone-7" ] || { echo "the program of include/README.md says something else"; exit 1; }
done
