# Images that lie elsewhere: by NBD, kept in a cache, and what the cache has.
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
$ uffd-lua image info ftp://here/x.img
uffd-lua image info: Images come from paths, http, https, s3 and nbd, not from ftp://.
[1]
? command -v nbdkit >/dev/null || { echo "nbdkit is not installed"; false; }
$ uffd-lua $TESTS/image.lua a.raw 1 2 0 4 - - 7 8; (nbdkit -f -r -U socket -P pid file a.raw > said 2>&1 &); await '[ -s pid ]'
? uffd-lua image info "nbd+unix:///?socket=$PWD/socket" 2>&1 | grep libnbd || true; ! uffd-lua image info "nbd+unix:///?socket=$PWD/socket" 2>&1 | grep -q libnbd
$ export UFFD_CACHE=$PWD/cache; uffd-lua image info "nbd+unix:///?socket=$PWD/socket"
image: 32 KiB (32768 bytes), pages of 4 KiB
  data      32 KiB (100.0%)
  zero      0 bytes (0.0%)
  layers    1, in 1 piece
  1  nbd+unix:///?socket=*/socket
     format    raw
     file      32 KiB
     version   the server tells none
     latency   *.* ms for 64 KiB
     cached    0.0%
     pages     data 32 KiB (100.0%)

# NBD does not say when a file changes: what is fetched is kept when the user says that it does not.
$ export UFFD_CACHE=$PWD/cache; uffd-lua image cat "nbd+unix:///?socket=$PWD/socket" | cmp - a.raw; uffd-lua image cache ls
$ export UFFD_CACHE=$PWD/cache; uffd-lua image convert --unversioned -o b.img "nbd+unix:///?socket=$PWD/socket"; uffd-lua image compare a.raw b.img
b.img: 32 KiB: data 20 KiB, zero 12 KiB; *
the same
$ export UFFD_CACHE=$PWD/cache; uffd-lua image cache ls; uffd-lua image cache verify --json
  20*Z  nbd+unix:///?socket=*/socket  * KiB  100.0%
{"file":"*.uffd-cache","source":"nbd+unix:///?socket=*","version":"unversioned","stream_bytes":32768,"file_bytes":*,"units":1,"units_there":1,"units_wrong":0,"used_ns":*,"used":false,"doubted":false,"broken":false}
$ uffd-lua image cache gc cache --max 1G; uffd-lua image cache --json gc cache --max 1G; uffd-lua image cache gc cache; uffd-lua image cache ls cache
removed 0 files, 0 bytes; left 1 file, * KiB
{"files":1,"bytes":*,"removed_files":0,"removed_bytes":0}
removed 1 file, * KiB; left 0 files, 0 bytes
$ uffd-lua image cache rm cache
uffd-lua image cache: 'rm' is none of ls, gc and verify
[1]
$ uffd-lua image cache ls nowhere; ls nowhere; UFFD_CACHE=$PWD/nowhere uffd-lua image cache ls; ls nowhere
uffd-lua image cache: The cache nowhere cannot be used: No such file or directory.
ls: *nowhere*
ls: *nowhere*
[2]

# Every verb that reads images takes what an image needs to be opened.
$ export UFFD_CACHE=; uffd-lua image plot --unversioned --color never "nbd+unix:///?socket=$PWD/socket" | head -1
32 KiB in 1 layer*
$ kill $(cat pid)
