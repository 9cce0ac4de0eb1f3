# uffd-lua run: programs that know nothing of userfaultfd, whose memory a pager serves. mapper compares every byte.
# A fault that waits for long, as on a busy machine, would be reported: --watchdog says that it is not.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ uffd-lua run --help
usage: uffd-lua run --memory MATCH *
...
$ uffd-lua run --memory size=4M
uffd-lua run: it needs a program, behind --
usage: *
[2]
$ uffd-lua run -- true
uffd-lua run: it needs a --memory to serve *
usage: *
[2]
$ uffd-lua run --memory size=4M -- true
uffd-lua run: it needs the --door of a pager, or an --image to start one for
usage: *
[2]
$ uffd-lua run --memory size=big --image image -- true
uffd-lua run: '--memory' takes for size bytes, such as 4096 or "64M", not 'size=big'
usage: *
[2]
$ uffd-lua run --memory weight=3 --image image -- true
uffd-lua run: '--memory' takes fields such as *
usage: *
[2]
$ uffd-lua run --memory offset=4K --image image -- true
uffd-lua run: '--memory' takes a size, a name, an order or addresses, not 'offset=4K'
usage: *
[2]
$ uffd-lua run --memory at=5-3 --image image -- true
uffd-lua run: '--memory' takes for at two addresses, *
usage: *
[2]
$ uffd-lua run --memory size=4M --door door --image image -- true
uffd-lua run: --door names a pager that runs already, which has an image
usage: *
[2]
$ uffd-lua run --memory size=4M --door door --prefetch -- true
uffd-lua run: --prefetch is for a pager that is started here, with --image
usage: *
[2]
$ uffd-lua run --memory size=4M --door "/$(printf %0120d 0)" -- true
uffd-lua run: the path of the --door has 121 bytes, and the kernel takes 107
usage: *
[2]
$ uffd-lua run --memory size=4M --image image -- no-such-program
uffd-lua run: There is no program no-such-program that can be run: No such file or directory.
[127]
$ uffd-lua run --memory size=4M --image image -- mapper_static
uffd-lua run: *mapper_static is linked statically, so no library can be loaded into it: its mappings cannot be served
[1]
$ printf '#!%s\n' "$(command -v mapper_static)" > script; chmod +x script; uffd-lua run --memory size=4M --image image -- ./script
uffd-lua run: ./script is linked statically, *
[1]
$ uffd-lua run --memory size=4M --image image -- true
uffd-lua run: *image*
[1]

# Every kind of memory that can be served; each program is a client.
$ vmm --make 4194304 --image image && vmm --make 8388608 --image large
$ for kind in anonymous shared memfd private populate locked; do uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=$kind,4194304 check=image || echo $kind; done
uffd-preload: process * hands over 4194304 bytes in 1 mapping
pages 1024 wrong 0
uffd-preload: *
pages 1024 wrong 0
uffd-preload: *
pages 1024 wrong 0
uffd-preload: *
pages 1024 wrong 0
uffd-preload: *
pages 1024 wrong 0
uffd-preload: *
pages 1024 wrong 0
# A file in tmpfs, whose pages are all there after that: they are the program's, and another run leaves them alone.
$ file=/dev/shm/uffd-run-test.$$
> for i in 1 2; do uffd-lua run --watchdog 600000 --image image --memory name=uffd-run-test.$$ -- mapper map=file,4194304,$file check=image; echo $?; done; rm $file
uffd-preload: process * hands over 4194304 bytes in 1 mapping
pages 1024 wrong 0
0
uffd-preload: the mapping at 0x* of 4194304 bytes is left alone: its file has pages already
pages 1024 wrong 0
uffd-lua run: no memory was served: no mapping of the program fits --memory *
1

# What cannot be served is left alone, and its pages are what they would have been.
$ for kind in reserve stack; do uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=$kind,4194304; done
uffd-preload: the mapping at 0x* of 4194304 bytes is left alone: it is a reservation (PROT_NONE)
uffd-lua run: no memory was served: *
uffd-preload: the mapping at 0x* of 4194304 bytes is left alone: it grows (MAP_GROWSDOWN)
uffd-lua run: no memory was served: *
[1]
$ mkdir disk; for kind in file private-file; do uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=$kind,4194304,disk/file; done
uffd-preload: the mapping at 0x* of 4194304 bytes is left alone: it is a mapping of an ordinary file
uffd-lua run: no memory was served: *
uffd-preload: the mapping at 0x* of 4194304 bytes is left alone: it is a private mapping of an ordinary file (MAP_PRIVATE)
uffd-lua run: no memory was served: *
[1]

# Which mapping: by name, by order, by address, by what is left; several together, and where they lie in the image.
$ uffd-lua run --watchdog 600000 --image image --memory name=ram -- mapper map=memfd,4194304,other unmap map=memfd,4194304,ram check=image
uffd-preload: process * hands over 4194304 bytes in 1 mapping
pages 1024 wrong 0
$ uffd-lua run --watchdog 600000 --image image --memory size=4M,order=2 -- mapper map=memfd,4194304 unmap map=memfd,4194304 check=image
uffd-preload: *
pages 1024 wrong 0
$ uffd-lua run --watchdog 600000 --image image --memory size=4M,at=0x1000-0x2000 -- mapper map=memfd,4194304
uffd-lua run: no memory was served: *
[1]
$ uffd-lua run --watchdog 600000 --image image --memory at=0-0x7fffffffffff,size=4M -- mapper map=memfd,4194304 check=image
uffd-preload: *
pages 1024 wrong 0
$ uffd-lua run --image large --memory size=2M --memory size=2M --memory size=4M -- mapper map=memfd,2097152 map=anonymous,2097152 map=shared,4194304 check=large
uffd-preload: the mapping at 0x* of 2097152 bytes waits for 2 more
uffd-preload: the mapping at 0x* of 2097152 bytes waits for 1 more
uffd-preload: process * hands over 8388608 bytes in 3 mappings
pages 2048 wrong 0
$ head -c 4194304 large > halves; tail -c 4194304 large | cat - halves > swapped
$ uffd-lua run --image swapped --memory name=a,offset=4M --memory name=b,offset=0 -- mapper map=memfd,4194304,a map=memfd,4194304,b check=large
...
uffd-preload: process * hands over 8388608 bytes in 2 mappings
pages 2048 wrong 0
# What waits may be unmapped, moved and dropped, and a child may be forked: no pager is there to read of it.
$ uffd-lua run --image large --memory size=4M --memory size=4M -- mapper map=memfd,4194304 unmap map=memfd,4194304 brief drop=0,4096 drop=0,0 move map=anonymous,4194304 check=large
...
pages 2048 wrong 0
...

# What happens to the memory afterwards.
$ uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=anonymous,4194304 fork check=image
uffd-preload: *
pages 1024 wrong 0
$ uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=memfd,4194304 both both check=image
uffd-preload: *
pages 1024 wrong 0
pages 1024 wrong 0
pages 1024 wrong 0
pages 1024 wrong 0
$ for kind in anonymous memfd; do uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=$kind,4194304 drop=8192,819200 move check=image; done
uffd-preload: *
pages 1024 wrong 0
uffd-preload: *
pages 1024 wrong 0
$ uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=memfd,4194304 punch=8192,819200 check=image move
uffd-preload: *
pages 1024 wrong 0
$ uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=anonymous,4194304 grow=8388608 unmap map=memfd,8192
uffd-preload: *
# A program that replaces itself, or starts others: whoever maps the memory is a client.
$ uffd-lua run --watchdog 600000 --image image --memory size=4M --figures -- mapper map=memfd,4194304 check=image exec=sh -c 'mapper map=anonymous,4194304 check=image; exit 3'
uffd-preload: *
pages 1024 wrong 0
uffd-preload: *
pages 1024 wrong 0
client * pid * end
     1 * 4.0 * gone
     2 * 4.0 * gone
[3]

# The exit code is the program's, signals too; what is sent to uffd-lua goes on to it.
$ uffd-lua run --watchdog 600000 --image image --memory size=4M -- sh -c 'mapper map=memfd,4194304 check=image; kill -TERM $$'
uffd-preload: *
pages 1024 wrong 0
[143]
$ uffd-lua run --watchdog 600000 --image image --memory size=4M -- sh -c 'mapper map=memfd,4194304 check=image; trap "exit 5" TERM; kill -TERM $PPID; while :; do sleep 0.01; done'
uffd-preload: *
pages 1024 wrong 0
[5]
# An image of another length is refused, and the program is ended, because nobody would answer its faults.
$ uffd-lua run --image large --memory size=4M -- mapper map=memfd,4194304 check=image
uffd-preload: *
uffd-lua run: the pager refuses this memory: *belongs to another client*
[137]
# A policy makes the memory.
$ cat > policy.lua <<'END'
> local uffd = require "uffd"
> local client, image = ...
> return uffd.resolver.layers { { 0, image }, { 0, uffd.resolver.file("large", { offset = 0, length = 4096 }), length = 4096 } }
> END
$ cp large mixed; tail -c 4190208 image | cat - > rest; head -c 4096 large | cat - rest > mixed
$ uffd-lua run --watchdog 600000 --image image --policy policy.lua --memory size=4M -- mapper map=memfd,4194304 check=mixed
uffd-preload: *
pages 1024 wrong 0

# A pager that runs already: the program takes the place of uffd-lua.
$ uffd-lua run --door door --memory size=4M -- mapper map=memfd,4194304
uffd-preload: Nobody listens at *door: start the pager first.
[1]
$ rm -f out err; uffd-lua serve --socket door --image image --once > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> uffd-lua run --door door --memory size=4M -- mapper map=memfd,4194304 check=image; echo $?; wait $pid; echo $?
uffd-preload: process * hands over 4194304 bytes in 1 mapping
pages 1024 wrong 0
0
0
$ uffd-lua run --door door --memory size=5M --memory size=4M,order=9 -- mapper map=memfd,4194304
uffd-preload: 2 of 2 --memory named no mapping that can be served; the largest mapping seen has 4194304 bytes
$ uffd-lua run --list -- mapper map=memfd,4194304,ram map=file,4194304,disk/file map=anonymous,1048576
...
uffd-preload: mapper has mapped size=4194304,name=ram at 0x*, shared
uffd-preload: mapper has mapped size=4194304,name=*disk/file at 0x*, shared; cannot be served: it is a mapping of an ordinary file
uffd-preload: mapper has mapped size=1048576 at 0x*, private

# Where userfaultfd is forbidden.
$ deny_userfaultfd 1 uffd-lua run --door door --memory size=4M -- mapper map=memfd,4194304
uffd-preload: This user may not serve the faults of system calls: *
[77]
