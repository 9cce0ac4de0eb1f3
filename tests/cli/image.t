# Images: looked into, compared, written; chains of them; what goes wrong says so.
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
$ uffd-lua $TESTS/image.lua base.raw 1 2 0 4 5 6 7 8; uffd-lua $TESTS/image.lua next.raw 1 2 0 9 5 0 7 8 10

$ uffd-lua image convert -o base.img base.raw
base.img: 32 KiB: data 28 KiB, zero 4 KiB; *
$ uffd-lua image convert -o next.img --against base.img next.raw
next.img: 36 KiB: data 8 KiB, zero 4 KiB, below 24 KiB; *
$ uffd-lua image info next.img
image: 36 KiB (36864 bytes), pages of 4 KiB
  data      28 KiB (77.8%)
  zero      8 KiB (22.2%)
  layers    2, in 7 pieces
  2  next.img
     format    zstd, with an index
     file      * for 8 KiB in 1 frame, *% of it
     frames    up to 8 KiB each, with checksums
     pages     data 8 KiB (22.2%), zero 4 KiB (11.1%), below 24 KiB (66.7%)
     id        *, xxh3
     made      20*Z, generation 1
     parent    *, base.img
  1  base.img
     format    zstd, with an index
     file      * for 32 KiB in 1 frame, *% of it
     frames    up to 32 KiB each, with checksums
     pages     data 28 KiB (87.5%), zero 4 KiB (12.5%)
     id        *, xxh3
     made      20*Z, generation 0
$ uffd-lua image info --json base.img next.img
{"length":36864,"page_size":4096,"data":28672,"zero":8192,"layers":2,"pieces":7}
{"layer":1,"path":"base.img","format":"zstd","indexed":true,"length":32768,*
{"layer":2,"path":"next.img","format":"zstd","indexed":true,"length":36864,"page_size":4096,"data":8192,"zero":4096,"below":24576,*"generation":1,*
$ uffd-lua image map next.img
  offset      length  kind  layer  in its stream
  0x00000000   8 KiB  data      1     0x00000000
  0x00002000   4 KiB  zero      1
  0x00003000   4 KiB  data      2     0x00000000
  0x00004000   4 KiB  data      1     0x00004000
  0x00005000   4 KiB  zero      2
  0x00006000   8 KiB  data      1     0x00006000
  0x00008000   4 KiB  data      2     0x00001000
$ uffd-lua image map --totals next.img
  layer         data   zero    below  pieces
  2 next.img   8 KiB  4 KiB  0 bytes       3
  1 base.img  20 KiB  4 KiB  0 bytes       4
$ uffd-lua image map --json --layer 2 next.img | head -2
{"offset":0,"length":12288,"kind":"below","layer":2}
{"offset":12288,"length":4096,"kind":"data","layer":2,"stream_offset":0}
$ uffd-lua image map --layer 3 next.img
uffd-lua image map: there are layers 1 to 2, not 3
[1]

# The same bytes, whatever they are kept as.
$ uffd-lua image cat next.img | cmp - next.raw && uffd-lua image cat --range 12K,4 next.img | od -An -tu1
   9   9   9   9
$ uffd-lua image cat --range 36K,1 next.img
uffd-lua image cat: the image has 36864 bytes: 1 from 36864 on are not in it
[1]
$ uffd-lua image compare next.raw next.img
the same
$ uffd-lua image compare base.raw next.img
differ first at byte 12288, in page 3; 3 pages in all
[1]
$ uffd-lua image compare --json base.raw next.img
{"same":false,"length_a":32768,"length_b":36864,"pages":3,"first":12288}
[1]
$ uffd-lua image diff base.img next.raw
  offset      length  pages
  0x00003000   4 KiB      1
  0x00005000   4 KiB      1
  0x00008000   4 KiB      1
3 ranges: 12 KiB
[1]
$ uffd-lua image diff --json base.img base.raw
$ uffd-lua image compare nowhere base.raw
uffd-lua image compare: Cannot open nowhere: No such file or directory.
[2]
$ uffd-lua image verify next.img
0 problems of 36 KiB
$ uffd-lua image verify --json --sample 1 next.img
{"problems":0,"length":36864,"digest":"xxh3"}

# Chains are made longer and shorter; their contents stay the same.
$ uffd-lua image create -o third.img --against next.img && uffd-lua image compare third.img next.raw
third.img: 36 KiB: below 36 KiB; *
the same
$ uffd-lua image compact -o short.img third.img && uffd-lua image compare short.img next.raw
short.img: 36 KiB: data 8 KiB, zero 4 KiB, below 24 KiB; *
the same
$ uffd-lua image info --json short.img | head -1
{"length":36864,"page_size":4096,"data":28672,"zero":8192,"layers":2,"pieces":7}
$ uffd-lua image compact --keep 3 -o x.img third.img
uffd-lua image compact: of 3 layers, 1 to 2 can be kept, not 3
[1]
$ uffd-lua image rebase -o rebased.img --against third.img short.img && uffd-lua image compare rebased.img next.raw
rebased.img: 36 KiB: zero 8 KiB, below 28 KiB; *
the same
$ uffd-lua image rebase -o whole.img short.img && uffd-lua image info --json whole.img | head -1
whole.img: 36 KiB: data 28 KiB, zero 8 KiB; *
{"length":36864,"page_size":4096,"data":28672,"zero":8192,"layers":1,*
$ cp base.img old.img; uffd-lua image commit next.img && uffd-lua image compare base.img next.raw
base.img: 36 KiB: data 28 KiB, zero 8 KiB; *
the same
$ uffd-lua image info next.img
uffd-lua image info: base.img is not the parent that next.img was made on: its contents are others.
[1]
$ uffd-lua image info --json old.img next.img | head -1
{"length":36864,*
$ uffd-lua image convert -o back.raw --format raw old.img next.img && cmp back.raw next.raw
back.raw: 36 KiB: *

# Raw files get an identity by a sidecar.
$ uffd-lua image convert -o x.img --against base.raw next.raw
uffd-lua image convert: base.raw has no index, and so no identity: make one with `uffd-lua image index`.
[1]
$ uffd-lua image index --digest sha256 base.raw
base.raw.uidx: id *, sha256; 4 KiB of 32 KiB are zero
$ uffd-lua image convert -o x.img --against base.raw next.raw && uffd-lua image compare x.img next.raw
x.img: 36 KiB: data 8 KiB, zero 4 KiB, below 24 KiB; *
the same
$ uffd-lua image verify x.img && printf x | dd of=base.raw bs=1 seek=4100 conv=notrunc 2>/dev/null; touch -r base.raw.uidx base.raw; uffd-lua image verify x.img
0 problems of 36 KiB
0x00000000+36864: The contents at offset 0 are not those that x.img was made with.
1 problem of 36 KiB
[1]
$ touch base.raw; uffd-lua image verify x.img
uffd-lua image verify: The parent of x.img: base.raw was written to after its index base.raw.uidx was made: `uffd-lua image index` makes one of what it holds now.
[1]

# Damage is told with its place, and nothing is written of it.
$ printf xx | dd of=old.img bs=1 seek=20 conv=notrunc 2>/dev/null; uffd-lua image verify old.img
0x00000000+32768: old.img: frame 0 (at byte 0, 32768 bytes from 0) is damaged: *.
1 problem of 32 KiB
[1]
$ uffd-lua image convert -o y.img old.img; ls y.img*
uffd-lua image convert: old.img: frame 0 * is damaged: *
ls: *
[2]
$ head -c 100 base.img > cut.img; uffd-lua image info cut.img
uffd-lua image info: cut.img: *
[1]

# Wrong usage.
$ uffd-lua image
uffd-lua image: what is to be done?
usage: uffd-lua image info|map|*
[2]
$ uffd-lua image explode x
uffd-lua image: 'explode' is none of its verbs
usage: *
[2]
$ uffd-lua image convert base.raw
uffd-lua image convert: -o OUT: where to?
usage: *
[2]
$ uffd-lua image compare base.raw
uffd-lua image compare: two files or more
usage: *
[2]
$ uffd-lua image compare a b c
uffd-lua image compare: 'c' is too much
usage: *
[2]
$ uffd-lua image convert -o x --level 99 base.raw
uffd-lua image convert: '--level' takes a level of zstd, -100 to 22, not '99'
usage: *
[2]
$ uffd-lua image convert -o x --format raw --against base.img base.img
uffd-lua image convert: a raw file cannot be an increment: --against goes with --format zstd
[1]
$ uffd-lua image create -o x
uffd-lua image create: --size N: how many bytes has the image?
[1]
$ uffd-lua image map --help
usage: uffd-lua image info *
...
