#!/bin/sh
# static.sh SOURCE_DIR: -DBUILD_SHARED_LIBS=OFF builds and installs static libraries alone; programs name the same targets
# and packages as elsewhere, and get what the libraries need.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
source=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  echo "$1"
  exit 1
}

run() {
  "$@" > "$scratch/log" 2>&1 || { cat "$scratch/log"; fail "$* failed"; }
}

run cmake -S "$source" -B "$scratch/build" -DBUILD_SHARED_LIBS=OFF -DCMAKE_BUILD_TYPE=Debug -DUFFD_BUILD_LUA=OFF \
  -DUFFD_BUILD_RUNNER=OFF -DUFFD_BUILD_TESTS=OFF -DUFFD_BUILD_BENCH=OFF
run cmake --build "$scratch/build" --parallel 2
run cmake --install "$scratch/build" --prefix "$scratch/installed"
[ -z "$(find "$scratch/installed" -name 'libuffd.so*' -o -name 'libuffd-pager.so*')" ] || fail "shared libraries are installed"

export PKG_CONFIG_PATH="$scratch/installed/lib/pkgconfig"
# shellcheck disable=SC2046
run "${CC:-cc}" -o "$scratch/use" "$here/use.c" $(pkg-config --cflags --libs uffd)
# shellcheck disable=SC2046
run "${CC:-cc}" -o "$scratch/use_pager" "$here/use_pager.c" $(pkg-config --cflags --libs uffd-pager)

mkdir "$scratch/user"
cat > "$scratch/user/CMakeLists.txt" << END
cmake_minimum_required(VERSION 3.21)
project(user LANGUAGES C)
find_package(uffd CONFIG REQUIRED COMPONENTS pager)
add_executable(use $here/use.c)
target_link_libraries(use PRIVATE uffd::uffd)
add_executable(use_pager $here/use_pager.c)
target_link_libraries(use_pager PRIVATE uffd::pager)
END
run cmake -S "$scratch/user" -B "$scratch/user/build" -DCMAKE_PREFIX_PATH="$scratch/installed"
run cmake --build "$scratch/user/build"
for program in use use_pager user/build/use user/build/use_pager; do
  code=0
  "$scratch/$program" > "$scratch/log" 2>&1 || code=$?
  [ $code = 0 ] || [ $code = 77 ] || { cat "$scratch/log"; fail "$program ended with $code"; }
done
sed -i 's/COMPONENTS pager/COMPONENTS pagers/' "$scratch/user/CMakeLists.txt"
if cmake -S "$scratch/user" -B "$scratch/user/build" > "$scratch/log" 2>&1; then fail "found a component that is none"; fi
tr '\n' ' ' < "$scratch/log" | grep -q "no *component *'pagers'" || { cat "$scratch/log"; fail "it is not told why"; }
echo "static libraries alone are built, installed, and linked by their usual names"
