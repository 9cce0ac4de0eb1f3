# uffd-lua serve: an image that lies elsewhere, alone and below an increment; workers connect to it themselves.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
? command -v nbdkit >/dev/null || { echo "nbdkit is not installed"; false; }
$ vmm --make 4194304 --image image; (nbdkit -f -r -U socket -P pid --filter=delay file image rdelay=2ms > kit 2>&1 &); await '[ -s pid ]'
? uffd-lua image info "nbd+unix:///?socket=$PWD/socket" > said 2>&1 || { cat said; false; }
$ cat > with <<'END'
> options=""
> while [ "$1" != -- ]; do options="$options $1"; shift; done; shift
> rm -f out err
> env --default-signal=INT uffd-lua serve --socket door $options > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> pid=$pid sh -c "$*"
> wait $pid; echo "serve: $?"
> END
$ export UFFD_CACHE=$PWD/cache; sh with --image "nbd+unix:///?socket=$PWD/socket" --once -- 'vmm --socket door --image image --threads 4'; cat err
pages 1024 wrong 0 ms *
serve: 0
...
client 1 has come: process *, 4.0 MiB in 1 region
...

# With a sidecar beside it (there is none by NBD), it may be below an increment; so may a compressed file.
$ uffd-lua image convert -o base.img image; cp image next; printf changed | dd of=next bs=4096 seek=3 conv=notrunc status=none; uffd-lua image convert -o next.img --against base.img next
base.img: *
next.img: *
$ (nbdkit -f -r -U socket2 -P pid2 file base.img > kit 2>&1 &); await '[ -s pid2 ]'
$ export UFFD_CACHE=$PWD/cache; sh with --image "nbd+unix:///?socket=$PWD/socket2" --image next.img --once -- 'vmm --socket door --image next --threads 4'
pages 1024 wrong 0 ms *
serve: 0
$ kill $(cat pid) $(cat pid2)
