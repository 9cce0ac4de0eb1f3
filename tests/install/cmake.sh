#!/bin/sh
# cmake.sh BUILD_DIR: installs into a scratch prefix, moves it, and builds and runs programs against it by pkg-config, by
# find_package, shared and static; loads the module; runs the runner without any environment.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=$1
cc=${CC:-cc}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/moved

fail() {
  echo "$1"
  exit 1
}

# A program that ends with 77 found no userfaultfd here: it was built and it ran.
runs() {
  code=0
  "$@" > "$scratch/output" 2>&1 || code=$?
  [ $code = 0 ] || [ $code = 77 ] || { cat "$scratch/output"; fail "$* ended with $code"; }
}

cmake --install "$build" --prefix "$scratch/installed" > /dev/null
mv "$scratch/installed" "$prefix"
for file in include/uffd.h include/uffd.hpp lib/libuffd.a lib/libuffd.so lib/pkgconfig/uffd.pc lib/cmake/uffd/uffdConfig.cmake \
  include/uffd_pager.h lib/libuffd-pager.a lib/libuffd-pager.so lib/libuffd-preload.so lib/pkgconfig/uffd-pager.pc lib/cmake/uffd/uffdPagerTargets.cmake \
  include/uffd_image.h lib/libuffd-image.a lib/libuffd-image.so lib/pkgconfig/uffd-image.pc lib/cmake/uffd/uffdImageTargets.cmake \
  lib/lua/5.4/uffd/core.so share/lua/5.4/uffd/init.lua share/lua/5.4/uffd/core.d.lua bin/uffd-lua share/doc/uffd/LICENSE; do
  [ -e "$prefix/$file" ] || fail "$file is not installed"
done
for page in man1/uffd-lua.1 man1/uffd-lua-serve.1 man1/uffd-lua-ctl.1 man1/uffd-lua-ws.1 man3/uffd.3 man3/uffd-pager.3 \
  man3/uffd_open.3; do
  [ -e "$prefix/share/man/$page" ] || fail "the man page $page is not installed"
done
for file in share/bash-completion/completions/uffd-lua share/zsh/site-functions/_uffd-lua share/doc/uffd/examples/first.c \
  share/doc/uffd/examples/microvm.md; do
  [ -e "$prefix/$file" ] || fail "$file is not installed"
done
[ "$(find "$prefix/include" -type f | wc -l)" = 4 ] ||
  fail "more than uffd.h, uffd.hpp, uffd_image.h and uffd_pager.h in include"

export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
# shellcheck disable=SC2046
$cc -o "$scratch/shared" "$here/use.c" $(pkg-config --cflags --libs uffd)
readelf -d "$scratch/shared" | grep -q 'NEEDED.*libuffd\.so\.' || fail "not linked with libuffd.so"
LD_LIBRARY_PATH="$prefix/lib" runs "$scratch/shared"
# shellcheck disable=SC2046
$cc -static -o "$scratch/static" "$here/use.c" $(pkg-config --static --cflags --libs uffd)
runs "$scratch/static"

# The pager: a program names uffd-pager alone, and gets libuffd with it; statically, the JSON library too.
# shellcheck disable=SC2046
$cc -o "$scratch/pager" "$here/use_pager.c" $(pkg-config --cflags --libs uffd-pager)
readelf -d "$scratch/pager" | grep -q 'NEEDED.*libuffd-pager\.so\.' || fail "not linked with libuffd-pager.so"
if readelf -d "$scratch/pager" | grep 'NEEDED.*jansson'; then fail "a program needs the pager's JSON library itself"; fi
LD_LIBRARY_PATH="$prefix/lib" runs "$scratch/pager"
readelf -d "$prefix/lib/libuffd-pager.so" | grep -q 'RUNPATH.*\[$ORIGIN\]' || fail "libuffd-pager.so does not look beside itself"
# shellcheck disable=SC2046
$cc -static -o "$scratch/pager-static" "$here/use_pager.c" $(pkg-config --static --cflags --libs uffd-pager)
runs "$scratch/pager-static"
[ "$(pkg-config --modversion uffd-pager)" = "$(pkg-config --modversion uffd)" ] || fail "uffd-pager is of another version"

# Images, likewise: statically, a program gets zstd with them.
# shellcheck disable=SC2046
$cc -o "$scratch/image" "$here/use_image.c" $(pkg-config --cflags --libs uffd-image)
if readelf -d "$scratch/image" | grep 'NEEDED.*zstd'; then fail "a program needs zstd itself"; fi
LD_LIBRARY_PATH="$prefix/lib" runs "$scratch/image"
readelf -d "$prefix/lib/libuffd-image.so" | grep -q 'RUNPATH.*\[$ORIGIN\]' || fail "libuffd-image.so does not look beside itself"
# shellcheck disable=SC2046
$cc -static -o "$scratch/image-static" "$here/use_image.c" $(pkg-config --static --cflags --libs uffd-image)
runs "$scratch/image-static"

header_version=$(sed -n 's/^#define UFFD_VERSION_[A-Z]* //p' "$prefix/include/uffd.h" | paste -s -d .)
[ "$(pkg-config --modversion uffd)" = "$header_version" ] || fail "pkg-config and header differ in the version"

cmake -S "$here/package" -B "$scratch/package" -DCMAKE_PREFIX_PATH="$prefix" > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
cmake --build "$scratch/package" > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
for program in shared static cxx cxx17 pager pager-static image image-static; do runs "$scratch/package/$program"; done
for program in static pager-static image-static; do
  if readelf -d "$scratch/package/$program" | grep libuffd; then fail "$program needs a shared library of uffd"; fi
done

cd /
runs env -i "$prefix/bin/uffd-lua" --info=json
env -i "$prefix/bin/uffd-lua" -e 'print(select(2, require "uffd"))' | grep -qx uffd-lua/uffd/init.lua ||
  fail "uffd-lua does not take its own Lua files"
if command -v lua5.4 > /dev/null; then
  LUA_PATH="$prefix/share/lua/5.4/?.lua;$prefix/share/lua/5.4/?/init.lua" LUA_CPATH="$prefix/lib/lua/5.4/?.so" \
    lua5.4 -e 'assert(require("uffd").probe().kernel)'
fi
# From an installation of its own, beside a file that is somebody else's.
DESTDIR="$scratch/root" cmake --install "$build" --prefix /usr > /dev/null
echo mine > "$scratch/root/usr/share/doc/uffd/mine"
DESTDIR="$scratch/root" cmake -D "MANIFEST=$build/install_manifest.txt" -P "$here/../../csrc/cmake/uninstall.cmake" > /dev/null 2>&1
[ "$(cd "$scratch/root" && find . ! -type d)" = ./usr/share/doc/uffd/mine ] ||
  { find "$scratch/root" ! -type d; fail "uninstall leaves files behind, or takes what is not uffd's"; }
if [ -d "$scratch/root/usr/share/lua/5.4/uffd" ]; then fail "uninstall leaves an empty directory of uffd's"; fi
echo "header, libraries, pkg-config, CMake package, module and runner work from $prefix"
