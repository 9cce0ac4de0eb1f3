# Real guests: Debian's kernels in QEMU, without KVM, resumed from a snapshot while a pager brings their memory. The guest
# compares every byte of every page. Figures go to qemu.txt in the build directory.
? command -v qemu-system-x86_64 > /dev/null || { echo "qemu-system-x86_64 is not installed"; exit 1; }
? command -v busybox > /dev/null || { echo "busybox is not installed"; exit 1; }
? command -v real_guest > /dev/null || { echo "the guest's program is not built"; exit 1; }
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
? sh $TESTS/kernel.sh 6.1 $BUILD/kernels
? sh $TESTS/kernel.sh 6.12 $BUILD/kernels

# Two snapshots: Linux 6.1 with one processor, 6.12 with two.
$ for version in 6.1 6.12; do mkdir $version; cp $BUILD/kernels/$version/vmlinuz $version
> sh $TESTS/initrd.sh $version/initrd.gz $BUILD/kernels/$version/modules "virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_balloon" "$(command -v real_guest)" < $TESTS/guest.init; done
$ echo 'FIGURES=$BUILD/qemu.txt FOLDER=${FOLDER:-6.1}; . $TESTS/qemu.sh' > lib
$ rm -f $BUILD/qemu.txt; . ./lib; snapshot && cat 6.1/snap.log
$ FOLDER=6.12 SMP=2; . ./lib; snapshot

# Each kind of memory that QEMU gives a guest, served.
$ . ./lib; for backend in memory-backend-memfd,share=on memory-backend-memfd,share=off memory-backend-ram memory-backend-file,mem-path=/dev/shm/uffd-qemu.$$,share=on; do
> measure "served, $backend" serve guest $backend; echo "served: $?"; rm -f /dev/shm/uffd-qemu.$$; done
EIGHTH wrong 0
WALKED 24576 wrong 0
served: 0
EIGHTH wrong 0
WALKED 24576 wrong 0
served: 0
EIGHTH wrong 0
WALKED 24576 wrong 0
served: 0
EIGHTH wrong 0
WALKED 24576 wrong 0
served: 0
# Two processors, of a newer kernel.
$ FOLDER=6.12 SMP=2; . ./lib; for backend in memory-backend-memfd,share=on memory-backend-ram; do measure "served, 2 processors, $backend" serve guest $backend; done
EIGHTH wrong 0
WALKED 24576 wrong 0
EIGHTH wrong 0
WALKED 24576 wrong 0
# The same without a pager, to compare.
$ . ./lib; measure "mapped privately" resume guest memory-backend-file,mem-path=$FOLDER/ram.img,share=off && measure "copied first" copy_first
EIGHTH wrong 0
WALKED 24576 wrong 0
EIGHTH wrong 0
WALKED 24576 wrong 0

# The working set of one run is brought to the next before it asks: a tenth of the faults at most.
$ . ./lib; missing() { awk '/^client/ { for (i = 1; i <= NF; i++) if ($i == "missing") at = i + 1; next } /^ +1 / { print $at }' $1.log; }
> measure "recorded" serve guest memory-backend-memfd,share=on --figures --record set && cp guest.log recorded.log
> measure "replayed" serve guest memory-backend-memfd,share=on --figures --replay set && cp guest.log replayed.log
> [ $(($(missing replayed) * 10)) -lt $(missing recorded) ] || grep . recorded.log replayed.log
EIGHTH wrong 0
WALKED 24576 wrong 0
EIGHTH wrong 0
WALKED 24576 wrong 0
$ . ./lib; measure "prefetched" serve guest memory-backend-ram --prefetch
EIGHTH wrong 0
WALKED 24576 wrong 0

# The balloon takes 64 MiB of the guest, and gives them back.
$ . ./lib; for backend in memory-backend-memfd,share=on memory-backend-ram; do
> serve guest $backend && inflate guest 192 16384 && inflate guest 256 0 && ask guest walk WALKED; leave guest; echo $?; done
WALKED 24576 wrong 0
0
WALKED 24576 wrong 0
0

# Three clones at one pager, each of which finds its own name in the page that a policy makes. New workers in the midst
# of it; a worker that is killed before a walk, and in it; at the end all memory is completed, and the pager is gone.
$ . ./lib; offset=$(grep -abo 'uffd identity page 6f3a9c' $FOLDER/ram.img | awk -F: '$1 % 4096 == 0 { print $1; exit }')
> start_pager --policy $TESTS/../../examples/microvm-policy.lua $offset web
> for i in 1 2 3; do join clone$i memory-backend-memfd,share=on || exit; pids="$pids $qemu"; done
> for i in 1 2 3; do ask clone$i who NAME; done
> kill_worker; ask clone1 walk WALKED
> say clone2.console.in walk; kill_worker; kill -HUP $pager; answer clone2 WALKED
> kill -TERM $pager; ask clone3 walk WALKED; wait $pager; echo "serve: $?"
> for i in 1 2 3; do ask clone$i walk WALKED; ask clone$i who NAME; monitor clone$i quit; done; wait $pids
NAME web-1
NAME web-2
NAME web-3
WALKED 24576 wrong 0
WALKED 24576 wrong 0
WALKED 24576 wrong 0
serve: 0
WALKED 24576 wrong 0
NAME web-1
WALKED 24576 wrong 0
NAME web-2
WALKED 24576 wrong 0
NAME web-3
$ grep -c 'is complete' serve.err; grep -c 'worker 0 has died' serve.err
3
2

# The supervisor is killed in a walk, alone, then with its worker: another one takes the guest over.
$ . ./lib; start_pager --keep --control control; join guest memory-backend-memfd,share=on
> supervisor() { uffd-lua ctl --socket control status 2> /dev/null | sed -n 's/^pid  *//p'; }
> another() { new=$(supervisor); [ -n "$new" ] && [ "$new" != "$old" ]; }
> old=$(supervisor); say guest.console.in eighth; kill -KILL $old; answer guest EIGHTH; wait_for another
> old=$(supervisor); say guest.console.in walk; kill -KILL $old; kill_worker; answer guest WALKED; wait_for another
> leave guest; kill -TERM $pager; wait $pager; echo "serve: $?"; grep -c 'is taken over' serve.err
EIGHTH wrong 0
WALKED 24576 wrong 0
serve: 0
2

# Who is killed takes the guest along: it never sees zeros.
$ . ./lib; serve guest memory-backend-memfd,share=on; vm=$(pgrep -x -P $qemu qemu-system-x86)
> exec 2> /dev/null # a shell may say "Killed", or not
> kill -KILL $qemu; wait $qemu; echo $?
> gone() { ! grep -qs . /proc/$vm/cmdline; }; [ -n "$vm" ] && wait_for gone
137
# An image of another guest.
$ . ./lib; head -c 134217728 $FOLDER/ram.img > half.img
> uffd-lua run --image half.img --memory size=256M -- qemu-system-x86_64 -M pc -accel tcg -m 256 -nodefaults -display none -S -object memory-backend-ram,id=ram,size=256M -machine memory-backend=ram
uffd-preload: *
uffd-lua run: the pager refuses this memory: *belongs to another client*
[137]
# The guest is not merely polite: a byte that differs in the image is found.
$ . ./lib; at=$(LC_ALL=C grep -abo -P '\x15\x7c\x4a\x7f\xb9\x79\x37\x9e' $FOLDER/ram.img | awk -F: '$1 % 4096 == 0 { print $1; exit }')
> printf x | dd of=$FOLDER/ram.img bs=1 seek=$((at + 100)) conv=notrunc status=none
> serve guest memory-backend-ram && ask guest walk WALKED; leave guest
WALKED 24576 wrong 1
$ cat $BUILD/qemu.txt | wc -l
11
