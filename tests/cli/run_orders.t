# uffd-lua run: what programs do before, amid and after the mapping that is served, in orders that nobody expects.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
? uffd-lua -e 'os.exit(require("uffd").probe().event_fork)' || { echo "the kernel tells this user nothing of forks"; exit 1; }
$ vmm --make 4194304 --image image && vmm --make 8388608 --image large && cp large swapped && { tail -c 4194304 large; head -c 4194304 large; } > swapped
$ cat > served <<'END'
> exec uffd-lua run --watchdog 600000 "$@"
> END
$ chmod +x served

# Who starts others: by posix_spawn, by vfork; a child that shares the memory maps something while a mapping waits.
$ ./served --image image --memory size=4M -- mapper map=memfd,4194304 spawn='mapper map=anonymous,4194304 check=image' vfork='mapper map=shared,4194304 check=image' check=image
uffd-preload: process * hands over 4194304 bytes in 1 mapping
uffd-preload: process * hands over 4194304 bytes in 1 mapping
pages 1024 wrong 0
uffd-preload: process * hands over 4194304 bytes in 1 mapping
pages 1024 wrong 0
pages 1024 wrong 0
$ ./served --image large --memory size=4M --memory size=4M -- mapper map=memfd,4194304 brief-map vfork=true spawn=true map=anonymous,4194304 brief-map check=large
...
uffd-preload: process * hands over 8388608 bytes in 2 mappings
pages 2048 wrong 0

# A program that takes no library is executed in the place of one that was served, or is started: it is as it would be.
$ ./served --image image --memory size=4M --figures -- mapper map=memfd,4194304 check=image exec=mapper_static map=memfd,4194304
uffd-preload: *
pages 1024 wrong 0
client * pid * end
     1 * 4.0 * gone
$ ./served --image image --memory size=4M -- sh -c 'mapper_static map=memfd,4194304'
uffd-lua run: no memory was served: *
[1]
$ { printf '\177ELF\001\001\001'; head -c 100 /dev/zero; } > narrow; chmod +x narrow; uffd-lua run --image image --memory size=4M -- ./narrow
uffd-lua run: ./narrow is a 32-bit program, and libuffd-preload.so is for 64 bits
[1]

# Libraries: one that is loaded late maps the memory; the user preloads another one.
$ ./served --image image --memory size=4M -- mapper load=$BUILD/tests/mapper_late.so check=image
uffd-preload: *
pages 1024 wrong 0
$ ASAN_OPTIONS="$ASAN_OPTIONS:verify_asan_link_order=0" LD_PRELOAD=libm.so.6 ./served --image image --memory size=4M -- sh -c 'echo "$LD_PRELOAD"; mapper map=memfd,4194304 check=image'
*/libuffd-preload.so libm.so.6
uffd-preload: *
pages 1024 wrong 0

# The environment: a program clears its own, which changes nothing; who gets none is not watched, which is said.
$ ./served --image image --memory size=4M -- mapper clear map=memfd,4194304 check=image
uffd-preload: *
pages 1024 wrong 0
$ ./served --image image --memory size=4M -- env -i PATH="$PATH" mapper map=memfd,4194304
uffd-lua run: no memory was served: *
[1]

# By address: the second of two that are alike.
$ ./served --image image --memory size=4M,at=0x210000000000-0x220000000000 -- mapper at=0x200000000000 map=memfd,4194304 unmap at=0x210000000000 map=memfd,4194304 check=image
uffd-preload: *
pages 1024 wrong 0
$ ./served --image image --memory size=4M,order=2 -- mapper at=0x200000000000 map=memfd,4194304 at=0x200000000000 unmap at=0x200000000000 map=anonymous,4194304 check=image
uffd-preload: *
pages 1024 wrong 0

# Other memory is mapped over what is served: a hole in the file of the old one is none of the new one's.
$ ./served --image image --memory size=4M -- mapper map=memfd,4194304 check=image over
uffd-preload: *
pages 1024 wrong 0
$ ./served --image image --memory size=4M -- mapper map=memfd,4194304 over map=memfd,4194304
uffd-preload: *
# Over one that waits for another: the next one that fits takes its place.
$ ./served --image large --memory size=4M --memory size=4M -- mapper at=0x200000000000 map=memfd,4194304 unmap at=0x200000000000 map=anonymous,4194304 map=memfd,4194304 check=large
...
uffd-preload: process * hands over 8388608 bytes in 2 mappings
pages 2048 wrong 0

# What a file loses is zero, also within a page that nobody has touched before.
$ for length in 0 4096 5000 4194303; do ./served --image image --memory size=4M -- mapper map=memfd,4194304 cut=$length check=image; done 2> /dev/null
pages 1024 wrong 0
pages 1024 wrong 0
pages 1024 wrong 0
pages 1024 wrong 0
$ for hole in 100,50 4000,200 1,4194303 12288,4096; do ./served --image image --memory size=4M -- mapper map=memfd,4194304 punch=$hole check=image; done 2> /dev/null
pages 1024 wrong 0
pages 1024 wrong 0
pages 1024 wrong 0
pages 1024 wrong 0
# Another mapping of the same file would read zeros, which is said.
$ ./served --image image --memory size=4M -- mapper map=memfd,4194304 again check=image
uffd-preload: process *
uffd-preload: the mapping at 0x* of 4194304 bytes is left alone: another one of its file is served, *
pages 1024 wrong 0
$ ./served --image large --memory size=4M --memory size=4M,name=two -- mapper map=memfd,4194304,one again map=memfd,4194304,two check=large
uffd-preload: the mapping * waits for 1 more
uffd-preload: the mapping * is left alone: another one of its file is served, *
uffd-preload: process *
pages 2048 wrong 0

# A thread that is to be cancelled maps memory, and the next one that does is not kept waiting.
$ ./served --image large --memory size=4M --memory size=4M -- mapper cancel=4194304 map=memfd,4194304 cancel=8192 map=memfd,4194304 check=large
...
uffd-preload: process *
pages 2048 wrong 0

# Programs close what they do not know. What waits cannot be served any more; what was handed over is.
$ ./served --image image --memory size=4M -- mapper map=memfd,4194304 close check=image
uffd-preload: *
pages 1024 wrong 0
$ ./served --image large --memory size=4M --memory size=4M -- mapper map=memfd,4194304 close map=anonymous,4194304
uffd-preload: *
uffd-preload: The program has closed descriptor *, the userfaultfd of its memory, before all that --memory names was there: *
uffd-lua run: no memory was served: *
[1]

# A pager that runs already refuses the memory: the program says so, and does not sleep at its first page.
$ uffd-lua serve --socket door --image large 2> err & pid=$!
> await 'grep -qs "listening on" err'
> uffd-lua run --door door --memory size=4M -- mapper map=memfd,4194304 check=image; echo $?; kill $pid; wait
uffd-preload: process *
uffd-preload: The pager refuses this memory: *belongs to another client*
1
