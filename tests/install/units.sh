#!/bin/sh
# units.sh BUILD: the units for systemd are what systemd understands, and the service is confined.
set -eu
build=$1
command -v systemd-analyze > /dev/null || { echo "systemd-analyze is not here"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for unit in service socket; do
  # Neither the program nor its man page need be installed for this.
  sed "s|^ExecStart=[^ ]*|ExecStart=/bin/true|; /^Documentation=/d" "$build/uffd-pager.$unit" > "$scratch/uffd-pager.$unit"
done
systemd-analyze verify "$scratch/uffd-pager.service" "$scratch/uffd-pager.socket"
if systemd-analyze security --help 2>&1 | grep -q offline; then
  systemd-analyze security --offline=true --threshold=30 "$scratch/uffd-pager.service" | tail -1
fi
