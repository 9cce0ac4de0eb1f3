# A real virtual machine: two processors walk 64 MiB of memory, in random order.
? command -v vmm_kvm || { echo "the guest's code is for x86-64"; exit 1; }
? vmm_kvm can
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'

# The guest by itself: it finds all as it should be, or says what is not.
$ vmm_kvm make image && vmm_kvm run image
16368 pages seen by both processors, 3580 written to, 32 blocks given back
$ cp image damaged && printf x | dd of=damaged bs=1 seek=40000003 conv=notrunc status=none && vmm_kvm run damaged
vmm_kvm: processor 1: word 320 of page 9765 is 0x*, in the image it is 0x*
[1]

# The same, its memory served: the pager's faults, a balloon's removals and a disk's writes into missing pages.
$ cat > with <<'END'
> rm -f out err; uffd-lua serve --socket door --image image --once > out 2> err & pid=$!
> await 'grep -q "listening on" err'
> sh -c "$*"
> wait $pid; echo "serve: $?"
> END
$ sh with 'vmm_kvm run image door'
16368 pages seen by both processors, 3580 written to, 32 blocks given back
serve: 0
$ tail -1 out
     1 * exited

# Workers that are killed while the guest runs: it notices nothing.
$ cat > killing <<'END'
> vmm_kvm run image door & guest=$!
> for i in 1 2 3; do
>   await "[ \$(grep -c 'has started' err) -ge $i ]"
>   kill -KILL $(sed -n 's/worker 0 has started: process //p' err | tail -1)
> done
> wait $guest
> END
$ sh with 'sh killing'
16368 pages seen by both processors, 3580 written to, 32 blocks given back
serve: 0
$ grep -c 'worker 0 has died' err
3

# An image that is not the snapshot's.
$ cp damaged image; sh with 'vmm_kvm run image door'
vmm_kvm: processor 1: word 320 of page 9765 is 0x*, in the image it is 0x*
serve: 0
