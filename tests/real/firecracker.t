# A real Firecracker in a virtual machine with nested virtualisation, where FIRECRACKER= names its binary (a static one, as
# its releases have it): boot, snapshot, resume through the pager, balloon, two clones, workers that are killed. No package
# of Debian has it, so it is not run anywhere by itself.
? [ -n "${FIRECRACKER:-}" ] || { echo "FIRECRACKER names no binary"; exit 1; }
? [ -x "$FIRECRACKER" ] || { echo "$FIRECRACKER is no program"; exit 1; }
? command -v qemu-system-x86_64 > /dev/null || { echo "qemu-system-x86_64 is not installed"; exit 1; }
? command -v busybox > /dev/null || { echo "busybox is not installed"; exit 1; }
? command -v lz4 > /dev/null || { echo "lz4 is not installed"; exit 1; }
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? sh $TESTS/kernel.sh 6.1 $BUILD/kernels
$ sh $TESTS/firecracker.sh 6.1 $BUILD/kernels $BUILD "$FIRECRACKER" 900
Firecracker v*
first: PONG
snapshot of 128 MiB
resumed: PONG
resumed: WALKED 16384 wrong 0
resumed: PONG
resumed: WALKED 16384 wrong 0
one: PONG
one: WALKED 16384 wrong 0
two: WALKED 16384 wrong 0
workers that died: 2
serve: 0
two: WALKED 16384 wrong 0
done
