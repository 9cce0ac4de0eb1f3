#!/bin/sh
# header.sh CC CXX: uffd.h stands alone, as C99 and as C++11, before and after the kernel's header, without a warning.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
include=$here/../../include
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat > "$scratch/body" <<'END'
int use(uffd_object **object);
int use(uffd_object **object) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  struct uffd_map_opts map = UFFD_MAP_OPTS_INIT;
  struct uffd_file_opts file = UFFD_FILE_OPTS_INIT;
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  struct uffd_loop_opts loop = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts region = UFFD_REGION_OPTS_INIT;
  struct uffd_probe probe = UFFD_PROBE_INIT;
  struct uffd_stats stats = UFFD_STATS_INIT;
  opts.features = UFFD_FEAT_MOVE | UFFD_FEAT_POISON;
  return (int)(map.size + file.size + ops.size + loop.size + region.size + probe.size + stats.size) +
         uffd_open(&opts, object);
}
END

check() { # compiler standard language
  command -v "$1" > /dev/null || { echo "$1 is not installed: left out"; return 0; }
  for order in 'uffd.h' 'uffd.h linux/userfaultfd.h' 'linux/userfaultfd.h uffd.h' 'uffd.h uffd.h'; do
    for header in $order; do echo "#include <$header>"; done > "$scratch/unit"
    cat "$scratch/body" >> "$scratch/unit"
    echo "$1 -std=$2: $order"
    "$1" -std="$2" -pedantic -Wall -Wextra -Wconversion -Werror -I "$include" -fsyntax-only -x "$3" "$scratch/unit"
  done
}

check "$1" c99 c
check "$1" c11 c
check "$2" c++11 c++
check "$2" c++17 c++
check clang c99 c
check clang++ c++11 c++
