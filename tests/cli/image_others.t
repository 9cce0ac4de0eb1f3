# The zstd program and qemu-img, as the other side of the formats.
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
? command -v zstd >/dev/null || { echo "zstd is not installed"; false; }
$ uffd-lua $TESTS/image.lua a.raw 1 2 0 4 - - 7 8; uffd-lua image convert -o a.img a.raw
a.img: 32 KiB: data 20 KiB, zero 12 KiB; *

# zstd reads what is written here.
$ zstd -q -t a.img && zstd -q -d -c a.img | cmp - a.raw && echo equal
equal

# What zstd writes is read here: one frame, several without a table; not one of unknown or excessive length.
$ zstd -q a.raw -o one.zst && uffd-lua image compare one.zst a.raw
the same
$ (zstd -q -c a.raw; zstd -q -c a.raw) > two.zst 2>/dev/null; cat a.raw a.raw > two.raw; uffd-lua image compare two.zst two.raw
the same
$ head -c 20000000 /dev/zero > zeros; zstd -q zeros -o large.zst; uffd-lua image info large.zst
uffd-lua image info: large.zst: its frame at byte 0 has 20000000 bytes, and 16777216 is the limit: write it anew with shorter frames, from `zstd -d`.
[1]
$ cat a.raw | zstd -q > stream.zst; uffd-lua image info stream.zst
uffd-lua image info: stream.zst: it has no seek table, and its frame at byte 0 cannot be passed: it does not say how long it is.
[1]

# qemu-img sees the same bytes in what is written raw, and what it makes sparse is read.
? command -v qemu-img >/dev/null || { echo "qemu-img is not installed"; false; }
$ uffd-lua image convert --format raw -o b.raw a.img && qemu-img compare -f raw -F raw a.raw b.raw
b.raw: 32 KiB: *
Images are identical.
$ qemu-img convert -f raw -O raw a.raw c.raw && uffd-lua image compare c.raw a.img
the same
