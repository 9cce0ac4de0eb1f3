# uffd-lua image import: snapshots of other programs as layers.
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
$ uffd-lua $TESTS/image.lua base.raw 1 2 3 4 5 6 7 8; uffd-lua image convert -o base.img base.raw > log; echo $?
0

# A diff of Firecracker: page 2 was written, page 5 written with zeros; the holes are the parent's.
$ truncate -s 32768 diff; head -c 4096 /dev/zero | tr '\0' x | dd of=diff bs=4096 seek=2 conv=notrunc status=none
$ dd if=/dev/zero of=diff bs=4096 seek=5 count=1 conv=notrunc status=none
? uffd-lua image map diff | grep -q zero || { echo "no holes on this file system"; false; }
$ uffd-lua image import firecracker -o top.img --against base.img diff
imported: 4 KiB of data, 4 KiB of zeros, 24 KiB of the parent
top.img: 32 KiB: data 4 KiB, zero 4 KiB, below 24 KiB; *
$ uffd-lua image cat --range 8192,4 top.img; echo; uffd-lua image cat --range 20480,4096 top.img | tr -d '\0' | wc -c
xxxx
0
$ uffd-lua image import firecracker --json -o top.img --against base.img diff
{"imported":"top.img","data":4096,"zero":4096,"below":24576,"regions":0}
{"path":"top.img",*
$ cat diff > copy; uffd-lua image import firecracker -o none --against base.img copy; ls none 2> /dev/null
uffd-lua image import: copy has no holes: *
[2]
$ uffd-lua image import firecracker -o none diff
uffd-lua image import: A diff needs the image that it was made against: --against.
[1]

# An image of E2B: a header, and the data of its builds.
$ cat > e2b.lua <<'END'
> local function uuid(byte) return string.char(byte):rep(16) end
> local head = ("<I8I8I8I8"):pack(3, 4096, 16384, 1) .. uuid(0x22) .. uuid(0x11)
> local function run(offset, length, build, at) return ("<I8I8"):pack(offset, length) .. build .. ("<I8"):pack(at) end
> io.open(arg[1], "wb"):write(head, run(0, 8192, uuid(0x11), 4096), run(8192, 4096, uuid(0), 0), run(12288, 4096, uuid(0x22), 0))
> END
$ old=11111111-1111-1111-1111-111111111111; new=22222222-2222-2222-2222-222222222222; mkdir $old $new; cp base.raw $old/memfile; cp diff $new/memfile; uffd-lua e2b.lua $new/memfile.header; uffd-lua image import e2b -o e2b.img $new/memfile.header
imported: 8 KiB of data, 8 KiB of zeros, 0 bytes of the parent
e2b.img: 16 KiB: data 8 KiB, zero 8 KiB; *
$ uffd-lua image cat --range 0,8192 e2b.img > a; tail -c +4097 base.raw | head -c 8192 | cmp - a && echo equal
equal
$ printf '\4' | dd of=22222222-2222-2222-2222-222222222222/memfile.header conv=notrunc status=none; uffd-lua image import e2b -o none 22222222-2222-2222-2222-222222222222/memfile.header
uffd-lua image import: *memfile.header: byte 0: it is of version 4, and version 3 is known.
[1]

# A dump of CRIU is tested in C; what is none is told.
$ mkdir empty; uffd-lua image import criu -o none empty
uffd-lua image import: *
[1]
$ uffd-lua image import qemu -o none x
uffd-lua image import: of which program: firecracker, criu or e2b?
...
[2]
$ uffd-lua image import e2b -o none
uffd-lua image import: of which FILE?
...
[2]
