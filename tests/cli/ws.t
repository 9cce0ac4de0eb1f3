# Files of working sets: what is in them, merged, compared. The pictures are ws_plot.t's.
? uffd-lua -e 'assert(require "uffd.core".workingset_create, "built without the pager")'
$ uffd-lua $TESTS/ws.lua a.ws 64K 3 4w 5 0 15
$ uffd-lua $TESTS/ws.lua b.ws 64K 5 0 9 10

$ uffd-lua ws info a.ws
a.ws
  image     64 KiB, identity 000000000000002a
  touched   5 pages of 16, 4 KiB each: 20 KiB, 31.2% of the image
  writes    1 page first touched by a write (20.0%)
  order     2 pages right after the page before (40.0%)
  runs      3, the longest 12 KiB
  offset      length  pages  first touch  writes
  0x00000000   4 KiB      1            4       0
  0x00003000  12 KiB      3            1       1
  0x0000f000   4 KiB      1            5       0
$ uffd-lua ws info --runs 1 a.ws b.ws
a.ws
...
  offset      length  pages  first touch  writes
  0x00000000   4 KiB      1            4       0
  and 2 runs more: --runs 3
b.ws
...
  and 2 runs more: --runs 3
$ uffd-lua ws info --json b.ws
{"file":"b.ws","image_length":65536,"image_identity":"000000000000002a","page_size":4096,"pages":4,"bytes":16384,"writes":0,"runs":3,"longest_run":2,"sequential":1}
{"file":"b.ws","offset":0,"length":4096,"pages":1,"first_touch":2,"writes":0}
{"file":"b.ws","offset":20480,"length":4096,"pages":1,"first_touch":1,"writes":0}
{"file":"b.ws","offset":36864,"length":8192,"pages":2,"first_touch":3,"writes":0}
$ uffd-lua $TESTS/ws.lua empty.ws 1T; uffd-lua ws info empty.ws
empty.ws
  image     1 TiB, identity 000000000000002a
  touched   0 pages of 268435456, 4 KiB each: 0 bytes, 0.0% of the image
  writes    0 pages first touched by a write (-)
  order     0 pages right after the page before (-)
  runs      0, the longest 0 bytes

# The union, in the order of the files; the output may be one of them.
$ uffd-lua ws merge -o c.ws a.ws b.ws
c.ws: 7 pages, 28 KiB, of 2 files
$ uffd-lua -e 'for _, offset in require "uffd".workingset.load "c.ws":iterate() do io.write(offset >> 12, " ") end'
3 4 5 0 15 9 10
$ cp b.ws d.ws; uffd-lua ws merge d.ws a.ws --output=d.ws && uffd-lua ws diff c.ws d.ws >/dev/null
d.ws: 7 pages, 28 KiB, of 2 files

# The same pages or not, whatever the order: the exit code is diff's.
$ uffd-lua ws diff a.ws b.ws
                  pages   bytes
  < only in a.ws      3  12 KiB
  > only in b.ws      2   8 KiB
  = in both           2   8 KiB
  Jaccard 0.286
    offset      length  pages
  = 0x00000000   4 KiB      1
  < 0x00003000   8 KiB      2
  = 0x00005000   4 KiB      1
  > 0x00009000   8 KiB      2
  < 0x0000f000   4 KiB      1
[1]
$ uffd-lua ws diff --json a.ws b.ws
{"a":"a.ws","b":"b.ws","only_a":3,"only_b":2,"both":2,"jaccard":0.2857142857142857,"page_size":4096}
{"in":"both","offset":0,"length":4096,"pages":1}
{"in":"a","offset":12288,"length":8192,"pages":2}
{"in":"both","offset":20480,"length":4096,"pages":1}
{"in":"b","offset":36864,"length":8192,"pages":2}
{"in":"a","offset":61440,"length":4096,"pages":1}
[1]
$ uffd-lua $TESTS/ws.lua e.ws 64K 15 5 4 3 0; uffd-lua ws diff a.ws e.ws
...
  Jaccard 1.000
...
$ uffd-lua $TESTS/ws.lua none.ws 64K; uffd-lua ws diff none.ws none.ws
...
  Jaccard 1.000

# What cannot be done, in a sentence.
$ uffd-lua ws info nowhere.ws
uffd-lua ws info: Cannot open nowhere.ws: No such file or directory.
[1]
$ echo hello > foreign.ws; uffd-lua ws info foreign.ws
uffd-lua ws info: foreign.ws is not a working-set file: it does not begin as one.
[1]
$ head -c 90 a.ws > cut.ws; uffd-lua ws info a.ws cut.ws
a.ws
...
uffd-lua ws info: cut.ws is cut off at byte 90: it has room for 2 of its 5 records.
[1]
$ (head -c 80 a.ws; printf x; tail -c +82 a.ws) > damaged.ws; uffd-lua ws merge -o x.ws damaged.ws; test ! -e x.ws
uffd-lua ws merge: damaged.ws is damaged: its record 2 (at byte 80) names page 120 beyond the image.
$ IDENTITY=7 uffd-lua $TESTS/ws.lua other.ws 64K 1; uffd-lua ws merge -o x.ws a.ws other.ws
uffd-lua ws merge: other.ws, beside a.ws: The working set is of another image of the same length: *
[1]
$ uffd-lua ws diff a.ws empty.ws
uffd-lua ws diff: empty.ws, beside a.ws: The working set is of another image: that has 1099511627776 bytes, this one 65536. *
[2]
$ uffd-lua ws merge -o no/where.ws a.ws
uffd-lua ws merge: Cannot make a file beside no/where.ws: No such file or directory.
[1]

# Wrong usage.
$ uffd-lua ws merge a.ws
uffd-lua ws merge: -o OUT: where to?
usage: uffd-lua ws *
[2]
$ uffd-lua ws info
uffd-lua ws info: of which FILE?
usage: *
[2]
$ uffd-lua ws diff a.ws
uffd-lua ws diff: two files are compared
usage: *
[2]
$ uffd-lua ws info --color always a.ws
uffd-lua ws info: '--color' is not an option
usage: *
[2]
$ uffd-lua ws info --runs many a.ws
uffd-lua ws info: '--runs' takes an integer from 0 on, not 'many'
usage: *
[2]
$ uffd-lua ws info --runs
uffd-lua ws info: '--runs' needs a value
usage: *
[2]
$ uffd-lua ws diff --json=yes a.ws b.ws
uffd-lua ws diff: '--json' takes no value
usage: *
[2]
$ cp a.ws -- --json; uffd-lua ws info -- --json | head -1
--json
$ uffd-lua ws plot --help
usage: uffd-lua ws plot *
  plot     a heat map *
...
exit codes: 0 done, *
