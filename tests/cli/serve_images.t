# uffd-lua serve with layers: a chain on the command line, in a configuration file, and for new clients by ctl.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 1048576 --image image
$ cp image changed; printf 'other bytes' | dd of=changed bs=4096 seek=9 conv=notrunc status=none
$ uffd-lua image convert -o base.layer changed > log && uffd-lua image convert -o top.layer --against base.layer image >> log; echo $?
0
$ cat > with <<'END'
> options=""
> while [ "$1" != -- ]; do options="$options $1"; shift; done; shift
> rm -f err
> env --default-signal=INT uffd-lua serve --socket door --control ctl $options > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> pid=$pid sh -c "$*"
> wait $pid; echo "serve: $?"
> END
$ sh with --image base.layer --image top.layer --once -- 'vmm --socket door --image image --threads 2'
pages 256 wrong 0 ms *
serve: 0
$ sh with --image top.layer --once -- 'vmm --socket door --image image --regions 2'
pages 256 wrong 0 ms *
serve: 0

# A configuration file has a list; --check opens it as the pager does.
$ cat > config.lua <<'END'
> return { image = { "base.layer", "top.layer" }, once = true }
> END
$ uffd-lua serve --config config.lua --check
image: base.layer + top.layer, 1048576 bytes
client: *
$ sh with --config config.lua -- 'vmm --socket door --image image'
pages 256 wrong 0 ms *
serve: 0
$ echo 'return { image = {} }' > wrong.lua; uffd-lua serve --config wrong.lua --check
uffd-lua serve: wrong.lua: image takes a string, or a list of them
[1]

# ctl image takes a stack, too; what does not fit leaves all as it was.
$ cat > live <<'END'
> uffd-lua ctl --socket ctl image base.layer image
> uffd-lua ctl --socket ctl image base.layer top.layer
> vmm --socket door --image image
> uffd-lua ctl --socket ctl image base.layer
> vmm --socket door --image changed
> uffd-lua ctl --socket ctl image image
> vmm --socket door --image image
> kill -TERM $pid
> END
$ sh with --image changed -- 'sh live'
uffd-lua ctl: *image is a whole image, not an increment: nothing of *base.layer, below it, would be seen.
pages 256 wrong 0 ms *
pages 256 wrong 0 ms *
pages 256 wrong 0 ms *
serve: 0
$ grep -c 'New clients get the image /' err
3

# A working set that was recorded with the raw file is one of the chain.
$ sh with --image image --once --record boot.ws -- 'vmm --socket door --image image'
pages 256 wrong 0 ms *
serve: 0
$ sh with --image base.layer --image top.layer --once --replay boot.ws -- 'vmm --socket door --image image'
pages 256 wrong 0 ms *
serve: 0
$ uffd-lua serve --image base.layer --replay boot.ws --check
image: base.layer, 1048576 bytes
uffd-lua serve: The working set is of another image *
[1]
