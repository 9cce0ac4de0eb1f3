# uffd-lua image plot and bench.
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
$ uffd-lua $TESTS/image.lua a.raw 1 2 - - 5 6 7 8; uffd-lua $TESTS/image.lua b.raw 1 2 - - 5 9 9 8
$ uffd-lua image convert -o a.img a.raw > log; uffd-lua image convert -o b.img --against a.img b.raw > log; echo $?
0
$ uffd-lua image plot --color never --width 30 b.img
32 KiB in 2 layers; a cell is 4 KiB, a row 16 KiB

0x00000000 11..
0x00004000 1221

2  2 b.img  8 KiB, 25.0%
1  1 a.img  16 KiB, 50.0%
.  zero  8 KiB, 25.0%
$ uffd-lua image plot --color always b.img | grep -c '38;5'
4
$ uffd-lua image plot -o b.svg b.img && grep -c '<svg' b.svg && grep -o '2 b.img  8 KiB, 25.0%' b.svg
1
2 b.img  8 KiB, 25.0%
$ uffd-lua image plot -o b.jpg b.img
uffd-lua image plot: a picture's name ends in .svg or .png
...
[2]
$ uffd-lua image plot -o b.svg --width 9 b.img
uffd-lua image plot: a picture is 400 to 10000 pixels wide
...
[2]
? uffd-lua -e 'os.exit(require("uffd").probe().usable)' || { echo "no userfaultfd here"; exit 1; }
$ uffd-lua image bench b.img
32 KiB of 32 KiB, by handler threads
  read * MiB/s
  fault, p50 * us
  fault, p99 * us
  in order * MiB/s
$ uffd-lua image bench --json b.img
{"measured":"read","unit":"MiB/s","value":*}
{"measured":"fault, p50","unit":"us","value":*}
{"measured":"fault, p99","unit":"us","value":*}
{"measured":"in order","unit":"MiB/s","value":*}

# PNG, where there is libpng: wide as asked for, and nothing is left of one that cannot be written.
$ uffd-lua -e 'package.preload["uffd.png"] = nil' image plot -o a.png b.img
uffd-lua image plot: a.png: this uffd-lua was built without libpng (Debian: libpng-dev). A name that ends in .svg works.
[1]
? uffd-lua -e 'require "uffd.png"' >/dev/null 2>&1 || { echo "built without libpng"; exit 1; }
$ uffd-lua image plot -o b.png --width 640 b.img && head -c 8 b.png | od -An -c
 211   P   N   G  \r  \n 032  \n
$ uffd-lua -e 'local bytes = io.open("b.png", "rb"):read "a"; print(string.unpack(">I4", bytes, 17) // 100, bytes:sub(-8, -5))'
6	IEND
$ uffd-lua image plot -o no/where.png b.img
uffd-lua image plot: Cannot write no/where.png: No such file or directory.
[1]
$ ln -s /dev/full full.png; uffd-lua image plot -o full.png b.img
uffd-lua image plot: Cannot write full.png: *.
[1]
