#!/bin/sh
# run.sh PROGRAM CORPUS [INPUTS]: the corpus, and a short run from it, of so many inputs (20000); or SECONDS of it where
# UFFD_FUZZ_SECONDS is set, as `tests/run --fuzz SECONDS` does. An input that fails is left beside the program.
set -eu
program=$1
corpus=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch" "$scratch.log"' EXIT

# This sanitizer cannot place its shadow memory where the kernel randomises addresses widely.
fixed_addresses=
if setarch "$(uname -m)" -R true 2> /dev/null; then fixed_addresses="setarch $(uname -m) -R"; fi

[ -n "$(ls "$corpus")" ] || { echo "the corpus $corpus is empty"; exit 1; }
length="-runs=${3:-20000}"
[ -z "${UFFD_FUZZ_SECONDS:-}" ] || length="-max_total_time=$UFFD_FUZZ_SECONDS"
# shellcheck disable=SC2086
if ! $fixed_addresses "$program" $length -seed=1 -timeout=10 -rss_limit_mb=1024 -max_len=8192 -print_final_stats=1 \
  -verbosity=0 -artifact_prefix="$program-failed-" "$scratch" "$corpus" > "$scratch.log" 2>&1; then
  cat "$scratch.log"
  exit 1
fi
sed -n 's/^stat::number_of_executed_units: */inputs tried: /p' "$scratch.log"
