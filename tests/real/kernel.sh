#!/bin/sh
# kernel.sh VERSION FOLDER: Debian's cloud kernel 6.1 or 6.12, unpacked below FOLDER and never installed. Prints the
# folder, which has vmlinuz and modules. Where it cannot be had, the reason, and exit code 1.
set -eu
version=$1 folder=$2/$1
case $version in
  6.1) meta=linux-image-cloud-amd64 ;;
  *) meta=linux-image-$version-cloud-amd64 ;;
esac
fail() { echo "$1"; exit 1; }

[ "$(uname -m)" = x86_64 ] || fail "the kernels of these tests are for x86-64"
if [ ! -e "$folder/vmlinuz" ]; then
  command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || fail "kernels come from Debian's packages: there is no apt-get here"
  package=$(apt-cache depends "$meta" 2> /dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-6/ { print $2; exit }')
  [ -n "$package" ] || fail "apt-cache knows no $meta: is there a package index (apt-get update)?"
  rm -rf "$folder.part" && mkdir -p "$folder.part"
  (cd "$folder.part" && apt-get download -q "$package" > apt.log 2>&1) || fail "apt-get cannot download $package"
  dpkg-deb -x "$folder.part/"*.deb "$folder.part/root"
  mv "$folder.part/root/boot/vmlinuz-"* "$folder.part/vmlinuz"
  mkdir "$folder.part/modules" # by their names alone, unpacked
  find "$folder.part/root" -name '*.ko' -exec mv {} "$folder.part/modules/" \;
  find "$folder.part/root" -name '*.ko.xz' -exec mv {} "$folder.part/modules/" \;
  find "$folder.part/modules" -name '*.xz' -exec xz -d {} +
  rm -rf "$folder.part/root" "$folder.part/"*.deb
  mv "$folder.part" "$folder"
fi
echo "$folder"
