#!/bin/sh
# example.sh SOURCE BUILD LUA PAGE: runs what examples/PAGE.md shows (qemu, or criu): its console blocks are a transcript. In
# the folder of qemu.md lies a kernel. CRIU= names the binary that criu.md runs, if it is not in PATH.
set -eu
source=$1 build=$2 lua=$3 page=$4
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -n "${CRIU:-}" ]; then
  mkdir "$folder/bin"
  ln -s "$CRIU" "$folder/bin/criu"
  PATH=$folder/bin:$PATH
fi
{
  cat << 'END'
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
END
  case $page in
    qemu) cat << END ;;
? command -v qemu-system-x86_64 > /dev/null || { echo "qemu-system-x86_64 is not installed"; exit 1; }
? command -v busybox > /dev/null || { echo "busybox is not installed"; exit 1; }
? sh $source/tests/real/kernel.sh 6.1 $build/kernels
\$ cp $build/kernels/6.1/vmlinuz .
END
    criu) cat << 'END' ;;
? command -v criu > /dev/null || { echo "criu is not installed, and CRIU names none"; exit 1; }
? criu check > check.log 2>&1 || { echo "criu does not run here: $(grep -m 1 Error check.log)"; exit 1; }
END
  esac
  awk '$0 == "```console" { shown = 1; next } /^```/ { shown = 0 } shown' "$source/examples/$page.md"
} > "$folder/$page.t"
"$lua" "$source/tests/cli/transcript.lua" "$folder/$page.t" "$build"
