#!/bin/sh
# initrd.sh OUTPUT MODULES "MODULE..." FILE...: a root for a guest: busybox, the modules as /modules/1.ko, 2.ko, ... in
# their order where the kernel has them, each FILE as /bin/FILE, the libraries that the FILEs need, and /init from stdin.
set -eu
output=$1 modules=$2 names=$3
shift 3
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/modules" "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
cat > "$root/init" && chmod 755 "$root/init"
chmod 755 "$root" # of mktemp: tests that become another user need /proc
cp "$(command -v busybox)" "$root/bin/busybox"
# The C library opens it when a thread is cancelled.
unwinder=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2> /dev/null | sed -n 's/.*libgcc_s\.so\.1 .*x86-64.* => //p' | head -n 1)
number=1
for name in $names; do
  [ ! -e "$modules/$name.ko" ] || cp "$modules/$name.ko" "$root/modules/$number.ko"
  number=$((number + 1))
done
for file; do
  cp "$file" "$root/bin/"
  for library in $(ldd "$file" 2> /dev/null | grep -o '/[^ ]*') $unwinder; do
    mkdir -p "$root${library%/*}" && cp -L "$library" "$root$library"
  done
done
(cd "$root" && find . | busybox cpio -o -H newc 2> /dev/null) | gzip -1 > "$output"
