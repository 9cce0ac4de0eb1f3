#!/bin/sh
# exports.sh LIBRARY: libuffd.so exports what uffd.symbols lists and nothing else, the list is the header's, and the
# library needs libc only. A new function is added to the header, then to the list, under the version that brings it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
library=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

compare() { # what expected actual
  if ! diff -u "$2" "$3" > "$scratch/difference"; then
    echo "$1 differ from tests/abi/uffd.symbols:"
    sed 1,2d "$scratch/difference"
    failed=1
  fi
}

grep -v '^#' "$here/uffd.symbols" | LC_ALL=C sort > "$scratch/listed"
sed 's/ .*//' "$scratch/listed" > "$scratch/names"

sed -n 's/^UFFD_EXPORT .*[ *]\(uffd_[a-z0-9_]*\)(.*/\1/p' "$here/../../include/uffd.h" | LC_ALL=C sort > "$scratch/header"
compare "the functions of uffd.h" "$scratch/names" "$scratch/header"

nm -D --defined-only --with-symbol-versions "$library" | sed -n 's/.* [A-Z] \(.*\)@@\(.*\)/\1 \2/p' |
  LC_ALL=C sort > "$scratch/exported"
compare "the symbols of $library" "$scratch/listed" "$scratch/exported"
nm -D --defined-only "$library" | grep -Ev ' (uffd_|A UFFD_)' > "$scratch/strange" || :
if [ -s "$scratch/strange" ]; then
  echo "exported, but not by name:"
  cat "$scratch/strange"
  failed=1
fi

readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -Ev '^(libc\.so\.6|ld-linux.*)$' > "$scratch/needed" || :
if [ -s "$scratch/needed" ]; then
  echo "needed beside libc:"
  cat "$scratch/needed"
  failed=1
fi
echo "$(wc -l < "$scratch/exported") functions exported"
exit $failed
