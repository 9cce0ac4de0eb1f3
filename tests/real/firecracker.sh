#!/bin/sh
# firecracker.sh VERSION KERNELS BUILD FIRECRACKER SECONDS: boots Debian's kernel VERSION in QEMU with nested virtualisation
# by TCG, and in it Firecracker with a guest of the same kernel: see firecracker.init. Prints the lines that tell how far it
# came; the whole output goes to BUILD/firecracker-VERSION.txt.
set -eu
version=$1 kernels=$2 build=$3 firecracker=$4 seconds=$5
here=${0%/*} log=$build/firecracker-$version.txt folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$firecracker" "$folder/firecracker"
sh "$here/elf.sh" "$kernels/$version/vmlinuz" "$folder/guest.elf"
sh "$here/initrd.sh" "$folder/guest.gz" "$kernels/$version/modules" "virtio_ring virtio virtio_mmio virtio_balloon" \
  "$build/tests/real_guest" << 'END'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
for module in 1 2 3 4; do
  [ ! -e /modules/$module.ko ] || /bin/busybox insmod /modules/$module.ko
done
exec /bin/real_guest 64
END
sh "$here/initrd.sh" "$folder/initrd" "$kernels/$version/modules" "irqbypass ccp kvm kvm-amd" "$build/bin/uffd-lua" \
  "$build/tests/real_request" "$folder/firecracker" "$folder/guest.elf" "$folder/guest.gz" < "$here/firecracker.init"
timeout "$seconds" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -nodefaults -display none \
  -serial stdio -no-reboot -kernel "$kernels/$version/vmlinuz" -initrd "$folder/initrd" \
  -append "console=ttyS0 panic=-1 no_timer_check quiet" < /dev/null > "$log" 2>&1 || echo "the machine did not end within $seconds s"
tr -d '\r' < "$log" | sed -n 's/^FC: //p'
