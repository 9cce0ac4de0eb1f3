#!/bin/sh
# luarocks.sh: `luarocks make` in a fresh clone of this checkout, offline, into a scratch tree; module, runner, header and
# library work from there, and git sees nothing left behind.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
for tool in luarocks lua5.4 git make; do
  command -v $tool > /dev/null || { echo "$tool is not installed"; exit 77; }
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
clone=$scratch/clone
tree=$scratch/tree

fail() {
  echo "$1"
  exit 1
}

# What is in the checkout, committed or not, but not what git ignores; also without git, and as another user.
mkdir "$clone"
export HOME="$scratch" GIT_CONFIG_GLOBAL="$scratch/gitconfig" GIT_CONFIG_NOSYSTEM=1
git config --global safe.directory '*'
git config --global user.name test
git config --global user.email test@localhost
cd "$checkout"
if git rev-parse --git-dir > /dev/null 2>&1; then
  git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || echo "$f"; done' sh |
    tar cf - -T - | tar xf - -C "$clone"
else
  tar cf - --exclude './build*' . | tar xf - -C "$clone"
fi
cd "$clone"
git init -q -b main && git add . && git commit -q -m clone

export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-2}"
luarocks --lua-version 5.4 make --tree "$tree" > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
left=$(git status --porcelain)
[ -z "$left" ] || fail "left behind: $left"

rock=$(luarocks --lua-version 5.4 --tree "$tree" show --rock-dir uffd)
for file in include/uffd_pager.h clib/libuffd-pager.so clib/pkgconfig/uffd-pager.pc \
  include/uffd.h clib/libuffd.a clib/libuffd.so clib/pkgconfig/uffd.pc clib/cmake/uffd/uffdConfig.cmake doc/LICENSE; do
  [ -e "$rock/$file" ] || fail "$file is not in the rock"
done
[ "$(cd "$tree/lib/lua/5.4" && find . -type f)" = ./uffd/core.so ] || fail "more than the module in lib/lua/5.4"

cd /
eval "$(luarocks --lua-version 5.4 --tree "$tree" path)"
lua5.4 - "$tree" <<'END'
local uffd, where = require "uffd"
assert(where:find(arg[1], 1, true) == 1, where)
assert(uffd.probe().kernel)
END
env -i "$tree/bin/uffd-lua" -e 'print(select(2, require "uffd"))' | grep -qx uffd-lua/uffd/init.lua ||
  fail "uffd-lua does not take its own Lua files"
PKG_CONFIG_PATH="$rock/clib/pkgconfig"
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
${CC:-cc} -o "$scratch/use" "$here/use.c" $(pkg-config --cflags --libs uffd)
code=0
LD_LIBRARY_PATH="$rock/clib" "$scratch/use" || code=$?
[ $code = 0 ] || [ $code = 77 ] || fail "a program with the rock's library ended with $code"
# shellcheck disable=SC2046
${CC:-cc} -o "$scratch/use_pager" "$here/use_pager.c" $(pkg-config --cflags --libs uffd-pager)
code=0
LD_LIBRARY_PATH="$rock/clib" "$scratch/use_pager" || code=$?
[ $code = 0 ] || [ $code = 77 ] || fail "a program with the rock's pager ended with $code"

luarocks --lua-version 5.4 --tree "$tree" remove uffd > /dev/null 2>&1
[ -z "$(find "$tree/bin" "$tree/share" "$tree/lib/lua" -name '*uffd*' -type f)" ] || fail "luarocks remove leaves files"
echo "module, runner, header and library work from the rock"
