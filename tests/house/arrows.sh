#!/bin/sh
# sh arrows.sh [--print] [BUILD]: who calls whom between the files of csrc/, from the object files of a build: the test
# of the order that csrc/README.md describes. It fails on a file that uses a room above its own, on files that use each
# other in a circle, and on a file of lua/ or runner/ that includes more of the core than its public headers.
#   --print  draws the arrows between rooms, highest room first
set -eu
print=""
[ "${1:-}" != --print ] || { print=yes; shift; }
root=$(cd "$(dirname "$0")/../.." && pwd -P)
build=${1:-$root/build}

# Lowest first; rooms on one line do not use each other. A file belongs to the longest name that it begins with.
rooms='base
kernel
memory
resolver store
loop/pages
loop/line
loop/engine
loop/engine/inline loop/engine/placed
loop
image/digest
image/source image/cache
image/remote
image
serve/workingset
serve/paper
serve/door serve/worker serve/keeper
serve/offload
serve/supervisor
preload
lua
runner'

# Natural pairs: one thing in two files.
pairs='resolver/callback resolver/resolver
runner/command runner/options'

# A build directory keeps the objects of files that were moved.
objects=""
for object in $(find "$build/CMakeFiles" -path '*.dir/csrc/*.c.o' | sort); do
  source=${object##*.dir/}
  [ ! -f "$root/${source%.o}" ] || objects="$objects $object"
done
[ -n "$objects" ] || { echo "no object files in $build: build it first" >&2; exit 1; }
{
  echo "$rooms" | sed 's/^/room /'
  echo "$pairs" | sed 's/^/pair /'
  # shellcheck disable=SC2086
  nm -A $objects | sed -n 's/^.*\.dir\/csrc\/\(.*\)\.c\.o:.* \([A-Z]\) \(uffd_[^ ]*\|luaopen_[^ ]*\)$/\2 \1 \3/p'
} | awk -v picture="$print" -f "$root/tests/house/arrows.awk"

inner=$(cd "$root/csrc" && grep -n '^#include "' lua/*.[ch] runner/*.[ch] | grep -v '"\(uffd\|uffd_[a-z]*\)\.h"$' |
  awk -F'"' '{ split($1, at, "/"); file = at[1] "/" $2; sub(/^(lua|runner)\/(lua|runner)\//, at[1] "/", file)
               if ((getline line < file) < 0) print $0; close(file) }')
[ -z "$inner" ] || { echo "not a public header:" >&2; echo "$inner" >&2; exit 1; }
