#!/bin/sh
# kernels.sh BUILD [REGEX]: the C tests whose names match, each in Debian's kernels 6.1 and 6.12, in QEMU by TCG; then a
# table of what became of each. A machine has an hour. Fails when a test fails, or did not run.
set -eu
here=${0%/*} build=$1 regex=${2:-.} status=0
tests=$(cd "$build/tests" && ls | grep '^test_' | grep -v '^test_storm$' | grep -E "$regex") || { echo "no test matches $regex"; exit 1; }
for version in 6.1 6.12; do
  why=$(sh "$here/kernel.sh" $version "$build/kernels") || { echo "$why"; exit 77; }
done
for version in 6.1 6.12; do
  # shellcheck disable=SC2086
  lines=$(sh "$here/machine.sh" $version "$build/kernels" "$build" 3600 $tests)
  [ -z "$lines" ] || { status=1; printf 'kernel %s:\n%s\n' $version "$lines"; }
done
# A program says "N tests, S skipped, F failed", then the machine says "RESULT name code".
for version in 6.1 6.12; do
  tr -d '\r' < "$build/machine-$version.txt" | sed "s/^/$version /"
done | awk -v tests="$tests" '
  / tests?, [0-9]+ skipped, [0-9]+ failed/ { all[$1] = $2; skipped[$1] = $4; failed[$1] = $6 }
  $2 == "RESULT" {
    told = $4 == 0 || $4 == 77 ? "ok" : $4 == 143 ? "too slow" : "failed"
    if (all[$1] != "") told = told " " all[$1] - skipped[$1] - failed[$1] "/" all[$1]
    if (skipped[$1] > 0) told = told ", " skipped[$1] " skipped"
    result[$3, $1] = told
    all[$1] = ""; skipped[$1] = failed[$1] = 0
  }
  END {
    printf "%-28s %-26s %s\n", "", "6.1", "6.12"
    count = split(tests, names, /[ \n]+/)
    for (i = 1; i <= count; i++) {
      row = names[i]
      printf "%-28s %-26s %s\n", substr(row, 6), tell(row, "6.1"), tell(row, "6.12")
    }
  }
  function tell(row, version) { return (row, version) in result ? result[row, version] : "not run" }'
exit $status
