#!/bin/sh
# resident.sh LIBRARY: dlclose() leaves the library in memory: its SIGBUS handler stays the process's, and a thread that
# it gave a signal stack calls it when it ends.
set -eu
readelf -d "$1" | grep -q 'Flags:.*NODELETE' || { echo "not linked with -z nodelete"; exit 1; }
