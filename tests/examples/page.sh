#!/bin/sh
# sh page.sh SOURCE BUILD LUA PAGE: runs what examples/PAGE.md shows: its console blocks are a transcript. Before those of
# microvm.md an image and the policy are put into the folder. systemd looks at a unit, where systemd is there.
set -eu
source=$1 build=$2 lua=$3 page=$4
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

blocks() { # language
  awk -v fence="\`\`\`$1" '$0 == fence { shown = 1; next } /^```/ { shown = 0 } shown' "$source/examples/$page.md"
}

blocks ini | sed "s,/usr/bin/uffd-lua,$build/bin/uffd-lua," > "$folder/uffd-web.service"
if [ -s "$folder/uffd-web.service" ] && command -v systemd-analyze > /dev/null; then
  systemd-analyze verify "$folder/uffd-web.service"
fi
{
  cat << 'END'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
END
  if [ "$page" = microvm ]; then
    cat << 'END'
$ vmm --make 8388608 --image mem
$ printf 'uffd identity page 6f3a9c\0' | tee text | dd of=mem bs=1 seek=5054464 conv=notrunc status=none
$ dd if=text of=mem bs=1 seek=1234567 conv=notrunc status=none
END
    printf '$ cp %s/examples/microvm-policy.lua .\n' "$source"
  fi
  blocks console
} > "$folder/$page.t"
"$lua" "$source/tests/cli/transcript.lua" "$folder/$page.t" "$build"
