#!/bin/sh
# elf.sh VMLINUZ OUTPUT: the uncompressed ELF of an x86-64 kernel, which is what Firecracker boots. The payload of a bzImage
# lies behind the setup's sectors, at the offset and of the length that its header tells; Debian's 6.1 is packed by LZ4,
# 6.12 by zstd.
set -eu
vmlinuz=$1 output=$2
number() { od -An -t "u$2" -j "$1" -N "$2" "$vmlinuz" | tr -d ' '; }
sectors=$(number 497 1)
[ "$sectors" != 0 ] || sectors=4
offset=$(((sectors + 1) * 512 + $(number 584 4))) length=$(number 588 4)
tail -c +$((offset + 1)) "$vmlinuz" | head -c "$length" > "$output.packed"
case $(od -An -t x1 -N 4 "$output.packed" | tr -d ' ') in
  02214c18) lz4 -dc < "$output.packed" > "$output" 2> /dev/null || : ;; # complains of the length that follows
  28b52ffd) zstd -dcq < "$output.packed" > "$output" 2> /dev/null || : ;;
  *) echo "$vmlinuz is packed in an unknown way"; exit 1 ;;
esac
rm -f "$output.packed"
[ "$(head -c 4 "$output" | tail -c 3)" = ELF ] || { echo "$output is no ELF file"; exit 1; }
