#!/bin/sh
# header.sh CC CXX: uffd.h, uffd_image.h and uffd_pager.h stand alone, as C99 and as C++11, before and after the
# kernel's header, without a warning.
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

cat > "$scratch/pager" <<'END'
int use(uffd_pager **pager);
int use(uffd_pager **pager) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  struct uffd_client_status client = UFFD_CLIENT_STATUS_INIT;
  struct uffd_pager_status status = UFFD_PAGER_STATUS_INIT;
  struct uffd_handoff_opts handoff = UFFD_HANDOFF_OPTS_INIT;
  struct uffd_workingset_info info = UFFD_WORKINGSET_INFO_INIT;
  struct uffd_open_opts open = UFFD_OPEN_OPTS_INIT;
  return (int)(client.size + status.size + handoff.size + info.size + open.size) + uffd_pager_create(&opts, pager);
}
END

cat > "$scratch/image" <<'END'
int use(uffd_image **image);
int use(uffd_image **image) {
  const char *paths[] = {"image"};
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  return (int)(info.size + layer.size) + uffd_image_open(paths, 1, &opts, image);
}
END

check_one() { # compiler standard language body headers
  for header in $5; do echo "#include <$header>"; done > "$scratch/unit"
  cat "$scratch/$4" >> "$scratch/unit"
  echo "$1 -std=$2: $5"
  "$1" -std="$2" -pedantic -Wall -Wextra -Wconversion -Werror -I "$include" -fsyntax-only -x "$3" "$scratch/unit"
}

check() { # compiler standard language
  command -v "$1" > /dev/null || { echo "$1 is not installed: left out"; return 0; }
  for order in 'uffd.h' 'uffd.h linux/userfaultfd.h' 'linux/userfaultfd.h uffd.h' 'uffd.h uffd.h'; do
    check_one "$1" "$2" "$3" body "$order"
  done
  for order in 'uffd_pager.h' 'uffd_pager.h uffd.h' 'linux/userfaultfd.h uffd_pager.h uffd_pager.h'; do
    check_one "$1" "$2" "$3" pager "$order"
  done
  for order in 'uffd_image.h' 'uffd_image.h uffd.h' 'uffd_pager.h uffd_image.h uffd_image.h'; do
    check_one "$1" "$2" "$3" image "$order"
  done
}

check "$1" c99 c
check "$1" c11 c
check "$2" c++11 c++
check "$2" c++17 c++
check clang c99 c
check clang++ c++11 c++
