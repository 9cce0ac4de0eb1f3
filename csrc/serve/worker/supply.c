/*
 * What all clients of a worker are served from: the image, and the working set that is replayed.
 */
#include "serve/worker/supply.h"

#include "base/base.h"

int uffd_supply_open(struct uffd_supply *supply) {
  if (supply->opts.image == NULL) return 0;
  return uffd_resolver_file(supply->opts.image, NULL, &supply->image);
}

static int take_ranges(struct uffd_supply *supply, const uffd_workingset *set) {
  int64_t count = uffd_workingset_ranges(set, NULL, 0);
  if (count <= 0) return (int)count;
  supply->replay = uffd_alloc((size_t)count * sizeof(*supply->replay));
  if (supply->replay == NULL) return fail(ENOMEM, "No memory for a working set.");
  supply->replay_count = (size_t)uffd_workingset_ranges(set, supply->replay, (size_t)count);
  return 0;
}

int uffd_supply_load_replay(struct uffd_supply *supply) {
  uffd_workingset *set;
  if (supply->opts.replay == NULL) return 0;
  int result = uffd_workingset_load(supply->opts.replay, &set);
  if (result < 0) return result;
  result = take_ranges(supply, set);
  uffd_workingset_close(set);
  return result;
}

void uffd_supply_close(struct uffd_supply *supply) {
  uffd_resolver_close(supply->image);
  uffd_release(supply->replay, supply->replay_count * sizeof(*supply->replay));
}
