#!/bin/sh
# module.sh CORE_SO: the Lua module is self-contained: it exports its luaopen function only, needs neither liblua nor
# libuffd, and stays in memory while threads of it may run.
set -eu
exports=$(nm -D --defined-only "$1" | sed 's/.* [A-Z] //')
[ "$exports" = luaopen_uffd_core ] || { echo "exports: $exports"; exit 1; }
if readelf -d "$1" | grep -E 'NEEDED.*(liblua|libuffd)'; then exit 1; fi
readelf -d "$1" | grep -q 'Flags:.*NODELETE' || { echo "not linked with -z nodelete"; exit 1; }
