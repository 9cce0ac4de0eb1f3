# A real virtual machine: two processors walk 64 MiB of memory, in random order.
? command -v vmm_kvm || { echo "the guest's code is for x86-64"; exit 1; }
? vmm_kvm can

# The guest by itself: it finds all as it should be, or says what is not.
$ vmm_kvm make image && vmm_kvm run image
16368 pages seen by both processors, 3580 written to, 32 blocks given back
$ cp image damaged && printf x | dd of=damaged bs=1 seek=40000003 conv=notrunc status=none && vmm_kvm run damaged
vmm_kvm: processor 1: word 320 of page 9765 is 0x*, in the image it is 0x*
[1]
