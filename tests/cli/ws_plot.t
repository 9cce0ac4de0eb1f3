# Heat maps: as text, with colours, as pictures.
? uffd-lua -e 'assert(require "uffd.core".workingset_create, "built without the pager")'
$ uffd-lua $TESTS/ws.lua a.ws 64K 3 4w 5 0 15
$ uffd-lua $TESTS/ws.lua b.ws 64K 5 0 9 10
$ uffd-lua ws plot a.ws
a.ws
5 pages of 4 KiB: 20 KiB of 64 KiB; a cell is 4 KiB, a row 16 KiB
0x00000000 7..0
0x00004000 25..
0x00008000 ....
0x0000c000 ...9
0 to 9: touched first to last; . not touched
$ uffd-lua ws plot a.ws b.ws
a.ws, b.ws
2 files, an image of 64 KiB; a cell is 4 KiB, a row 16 KiB
0x00000000 2..1
0x00004000 12..
0x00008000 .11.
0x0000c000 ...1
1 to 2: touched in so many of the files; . in none
$ uffd-lua ws plot --width 13 a.ws | sed -n 4,5p
0x00000000 7..0
0x00004000 25..

# Rows of nothing become one; the last row of an image may be a part of one.
$ uffd-lua $TESTS/ws.lua far.ws 1000M 0 200000; uffd-lua ws plot far.ws
far.ws
2 pages of 4 KiB: 8 KiB of 1000 MiB; a cell is 512 KiB, a row 32 MiB
0x00000000 0...............................................................
           ... 736 MiB not touched ...
0x30000000 ..........................9.....................................
           ... *
0 to 9: *
$ uffd-lua $TESTS/ws.lua part.ws 20K 4; uffd-lua ws plot part.ws | sed -n 4,5p
0x00000000 ....
0x00004000 0

# Colours: two rows a line, where they are asked for.
$ uffd-lua ws plot --color always a.ws | tr '\033' '^'
a.ws
5 pages of *
0x00000000 ^[38;5;*;48;5;*m▀*^[0m
0x00008000 *▀*
touched first ^[38;5;33m█*^[0m last   ^[38;5;236m█^[0m not touched
$ LC_ALL=C.UTF-8 TERM=xterm uffd-lua ws plot a.ws | grep -c 38 
0
[1]

# SVG.
$ uffd-lua ws plot -o a.svg a.ws && sed -n '1p;$p' a.svg
<svg xmlns="http://www.w3.org/2000/svg" width="*" height="*" viewBox="0 0 *" *>
</svg>
$ grep -c '>0x0000' a.svg; grep -o '>a.ws<' a.svg; grep -o 'not touched' a.svg; grep -o '>5 pages of 4 KiB[^<]*' a.svg
4
>a.ws<
not touched
>5 pages of 4 KiB: 20 KiB of 64 KiB; a cell is 4 KiB, a row 16 KiB
$ cp a.ws 'x<&">.ws'; uffd-lua ws plot -o x.svg 'x<&">.ws'; grep -o 'x&lt;&amp;&quot;&gt;.ws' x.svg
x&lt;&amp;&quot;&gt;.ws
$ uffd-lua ws plot -o many.svg --width 600 a.ws b.ws; grep -o 'touched in 1 file' many.svg
touched in 1 file

# What cannot be drawn.
$ uffd-lua ws plot -o a.gif a.ws
uffd-lua ws plot: a picture's name ends in .svg or .png
usage: *
[2]
$ uffd-lua ws plot -o no/where.svg a.ws
uffd-lua ws plot: Cannot write no/where.svg: No such file or directory.
[1]
$ uffd-lua ws plot -o a.svg --width 20 a.ws
uffd-lua ws plot: a picture is 400 to 10000 pixels wide
usage: *
[2]
$ uffd-lua ws plot --color sometimes a.ws
uffd-lua ws plot: '--color' takes one of always, never, auto, not 'sometimes'
usage: *
[2]
$ uffd-lua -e 'package.preload["uffd.png"] = nil' ws plot -o a.png a.ws
uffd-lua ws plot: a.png: this uffd-lua was built without libpng (Debian: libpng-dev). A name that ends in .svg works.
[1]

# PNG, where there is libpng.
? uffd-lua -e 'require "uffd.png"' >/dev/null 2>&1 || { echo "built without libpng"; exit 1; }
$ uffd-lua ws plot -o a.png a.ws && head -c 8 a.png | od -An -c
 211   P   N   G  \r  \n 032  \n
$ uffd-lua ws plot -o many.PNG a.ws b.ws && uffd-lua -e 'print(string.unpack(">I4", io.open("many.PNG", "rb"):read "a", 17) > 400)'
true
$ uffd-lua ws plot -o no/where.png a.ws
uffd-lua ws plot: Cannot write no/where.png: No such file or directory.
[1]
$ ln -s /dev/full full.png; uffd-lua ws plot -o full.png a.ws
uffd-lua ws plot: Cannot write full.png: *.
[1]
$ ln -s /dev/full full.svg; uffd-lua ws plot -o full.svg a.ws
uffd-lua ws plot: Cannot write full.svg: No space left on device.
[1]
