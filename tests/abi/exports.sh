#!/bin/sh
# exports.sh LIBRARY HEADER SYMBOLS [NEEDED]...: the library exports what the list tests/abi/SYMBOLS says and nothing
# else, the list is the header's, and the library needs libc and the libraries NEEDED only. A new function is added to
# the header, then to the list, under the version that brings it. Names of a PRIVATE version are between our libraries.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
library=$1
header=$2
symbols=$3
shift 3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

compare() { # what expected actual
  if ! diff -u "$2" "$3" > "$scratch/difference"; then
    echo "$1 differ from tests/abi/$symbols:"
    sed 1,2d "$scratch/difference"
    failed=1
  fi
}

grep -v '^#' "$here/$symbols" | LC_ALL=C sort > "$scratch/listed"
sed '/ UFFD_[A-Z_]*PRIVATE/d; s/ .*//' "$scratch/listed" > "$scratch/names"

sed -n 's/;.*//; s/^UFFD_EXPORT .*[ *]\(uffd_[a-z0-9_]*\)(.*/\1/p' "$here/../../include/$header" | LC_ALL=C sort > "$scratch/header"
compare "the functions of $header" "$scratch/names" "$scratch/header"

nm -D --defined-only --with-symbol-versions "$library" | sed -n 's/.* [A-Z] \(.*\)@@\(.*\)/\1 \2/p' |
  LC_ALL=C sort > "$scratch/exported"
compare "the symbols of $library" "$scratch/listed" "$scratch/exported"
nm -D --defined-only "$library" | grep -Ev ' (uffd_|A UFFD_)' > "$scratch/strange" || :
if [ -s "$scratch/strange" ]; then
  echo "exported, but not by name:"
  cat "$scratch/strange"
  failed=1
fi

for name in 'libc\.' ld-linux "$@"; do echo "^$name"; done > "$scratch/allowed"
readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -v -f "$scratch/allowed" > "$scratch/needed" || :
if [ -s "$scratch/needed" ]; then
  echo "needed beside libc $*:"
  cat "$scratch/needed"
  failed=1
fi
echo "$(wc -l < "$scratch/exported") functions exported"
exit $failed
