#!/bin/sh
# The list of races in csrc/README.md and the tests agree: each test that the list names is there, and each test that is
# named after a race is in that race's line.
set -eu
cd "$(dirname "$0")/../.."
grep -rhoE 'TEST\([A-Za-z0-9_]+\)' tests/c | sed 's/TEST(\(.*\))/test \1/' | sort -u |
  awk '
    function complain(sentence) { print sentence; wrong = 1 }
    $1 == "test" { tests[$2]; next }
    /^\| R[0-9]+ \|/ {
      split($0, column, " *[|] *")
      race = column[2]
      races[race]
      count = split(column[5], name, "`")
      for (i = 2; i <= count; i += 2) {
        if (name[i] ~ /[.\/]/) continue # a file of tests
        if (!(name[i] in tests)) complain(race ": there is no test " name[i])
        named[race, name[i]]
      }
    }
    END {
      for (i = 1; i <= 32; i++) if (!("R" i in races)) complain("R" i " is not in the list")
      for (test in tests) {
        if (test !~ /^R[0-9]+_/) continue
        for (rest = test; match(rest, /^R[0-9]+_/); rest = substr(rest, RLENGTH + 1)) {
          race = substr(rest, 1, RLENGTH - 1)
          if (!((race, test) in named)) complain(test " is not in the line of " race)
        }
      }
      exit wrong
    }' - csrc/README.md
