#!/bin/sh
# without_pager.sh SOURCE_DIR: where jansson is not to be found, configuring says what to do, and -DUFFD_BUILD_PAGER=OFF
# builds libraries, module and runner without it.
set -eu
source=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  echo "$1"
  exit 1
}

configure() { # build option
  cmake -S "$source" -B "$scratch/$1" "$2" -DCMAKE_BUILD_TYPE=Debug -DUFFD_BUILD_TESTS=OFF -DUFFD_BUILD_BENCH=OFF -DUFFD_BUILD_IMAGE=OFF \
    -DCMAKE_DISABLE_FIND_PACKAGE_PkgConfig=ON > "$scratch/log" 2>&1
}

if configure with -DUFFD_BUILD_PAGER=ON; then fail "configured without jansson, and with a pager"; fi
grep -q -- '-DUFFD_BUILD_PAGER=OFF' "$scratch/log" || { cat "$scratch/log"; fail "the way out is not told"; }

configure without -DUFFD_BUILD_PAGER=OFF || { cat "$scratch/log"; fail "not configured without the pager"; }
cmake --build "$scratch/without" --parallel 2 > "$scratch/log" 2>&1 || { cat "$scratch/log"; fail "not built without the pager"; }
[ -z "$(find "$scratch/without" -name '*pager*.so*' -o -name '*pager*.a')" ] || fail "the pager was built nevertheless"
for file in lib/libuffd.so lualib/uffd/core.so bin/uffd-lua; do
  [ -e "$scratch/without/$file" ] || fail "$file is not built"
  if readelf -d "$scratch/without/$file" | grep jansson; then fail "$file needs jansson"; fi
done
"$scratch/without/bin/uffd-lua" -e 'assert(require("uffd").probe().kernel)'
cmake --install "$scratch/without" --prefix "$scratch/installed" > /dev/null
[ -z "$(find "$scratch/installed" -iname '*pager*' ! -name '*.lua')" ] || fail "something of the pager is installed"
cat > "$scratch/CMakeLists.txt" << 'END'
cmake_minimum_required(VERSION 3.21)
project(user LANGUAGES C)
find_package(uffd CONFIG REQUIRED)
find_package(uffd CONFIG COMPONENTS pager)
message(STATUS "because: ${uffd_NOT_FOUND_MESSAGE}")
if(uffd_FOUND)
  message(FATAL_ERROR "the component pager is found, and is not there")
endif()
END
cmake -S "$scratch" -B "$scratch/user" -DCMAKE_PREFIX_PATH="$scratch/installed" > "$scratch/log" 2>&1 ||
  { cat "$scratch/log"; fail "the package does not tell that it has no pager"; }
grep -q 'because: .*-DUFFD_BUILD_PAGER=ON' "$scratch/log" || { cat "$scratch/log"; fail "it is not told why"; }
echo "libraries, module and runner are built without the pager, and need no jansson"
