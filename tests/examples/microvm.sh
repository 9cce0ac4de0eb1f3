#!/bin/sh
# sh microvm.sh SOURCE BUILD LUA: runs what examples/microvm.md shows. Its console blocks are a transcript, in whose folder
# an image lies, and the policy. systemd looks at the unit, where it is there.
set -eu
source=$1 build=$2 lua=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

blocks() { # language
  awk -v fence="\`\`\`$1" '$0 == fence { shown = 1; next } /^```/ { shown = 0 } shown' "$source/examples/microvm.md"
}

if command -v systemd-analyze > /dev/null; then
  blocks ini | sed "s,/usr/bin/uffd-lua,$build/bin/uffd-lua," > "$folder/uffd-web.service"
  systemd-analyze verify "$folder/uffd-web.service"
fi
{
  cat << 'END'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 8388608 --image mem
$ printf 'uffd identity page 6f3a9c\0' | tee text | dd of=mem bs=1 seek=5054464 conv=notrunc status=none
$ dd if=text of=mem bs=1 seek=1234567 conv=notrunc status=none
END
  printf '$ cp %s/examples/microvm-policy.lua .\n' "$source"
  blocks console
} > "$folder/microvm.t"
"$lua" "$source/tests/cli/transcript.lua" "$folder/microvm.t" "$build"
