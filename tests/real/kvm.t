# A KVM guest where there is no /dev/kvm: in QEMU, whose processor by TCG has nested virtualisation, on Debian's kernels 6.1
# and 6.12. Two processors walk 64 MiB in random order, as in cli.kvm.
? command -v qemu-system-x86_64 > /dev/null || { echo "qemu-system-x86_64 is not installed"; exit 1; }
? command -v busybox > /dev/null || { echo "busybox is not installed"; exit 1; }
? command -v vmm_kvm > /dev/null || { echo "the guest's code is for x86-64"; exit 1; }
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? sh $TESTS/kernel.sh 6.1 $BUILD/kernels
? sh $TESTS/kernel.sh 6.12 $BUILD/kernels
$ sh $TESTS/machine.sh 6.1 $BUILD/kernels $BUILD 600 kvm && tr -d '\r' < $BUILD/machine-6.1.txt
6.1.*
16368 pages seen by both processors, 3580 written to, 32 blocks given back
...
16368 pages seen by both processors, 3580 written to, 32 blocks given back
client * pid * time * missing * end
     1 * exited
...
16368 pages seen by both processors, 3580 written to, 32 blocks given back
...
RESULT kvm 0
DONE
...
$ sh $TESTS/machine.sh 6.12 $BUILD/kernels $BUILD 600 kvm && tr -d '\r' < $BUILD/machine-6.12.txt
...
6.12.*
16368 pages seen by both processors, 3580 written to, 32 blocks given back
...
RESULT kvm 0
DONE
...
