#!/bin/sh
# example.sh SOURCE BUILD LUA: runs what examples/qemu.md shows: its console blocks are a transcript, in whose folder a kernel
# lies.
set -eu
source=$1 build=$2 lua=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{
  cat << 'END'
? command -v qemu-system-x86_64 > /dev/null || { echo "qemu-system-x86_64 is not installed"; exit 1; }
? command -v busybox > /dev/null || { echo "busybox is not installed"; exit 1; }
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
END
  echo "? sh $source/tests/real/kernel.sh 6.1 $build/kernels"
  echo "\$ cp $build/kernels/6.1/vmlinuz ."
  awk '$0 == "```console" { shown = 1; next } /^```/ { shown = 0 } shown' "$source/examples/qemu.md"
} > "$folder/qemu.t"
"$lua" "$source/tests/cli/transcript.lua" "$folder/qemu.t" "$build"
