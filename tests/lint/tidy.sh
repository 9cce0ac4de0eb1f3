#!/bin/sh
# sh tidy.sh CLANG_TIDY BUILD FILE...: clang-tidy over the files, one process a processor. It takes seconds a file, so a
# file that has passed is left out until it, what it includes or .clang-tidy changes: BUILD/lint has its checksum.
set -u
tidy=$1 build=$2
shift 2

check_one() {
  stamp=$build/lint/$(echo "$1" | tr / _)
  included=$("${CC:-cc}" -MM -MG -D_GNU_SOURCE -Iinclude -Icsrc "$1" | sed 's/^[^:]*://; s/\\$//') || return 1
  # shellcheck disable=SC2086
  sum=$(cat .clang-tidy $included 2> /dev/null | cksum)
  [ "$(cat "$stamp" 2> /dev/null)" != "$sum" ] || return 0
  "$tidy" -p "$build" --quiet "$1" 2> "$stamp.errors" || { cat "$stamp.errors"; rm -f "$stamp"; return 1; }
  echo "$sum" > "$stamp"
}

if [ $# = 1 ]; then
  check_one "$1"
else
  mkdir -p "$build/lint"
  printf '%s\n' "$@" | xargs -P "$(nproc)" -n 1 sh "$0" "$tidy" "$build"
fi
