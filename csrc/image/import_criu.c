/*
 * Importing a dump of CRIU: its lazy memory, one mapping after the other. What lies where is told, since an image has
 * no addresses.
 */
#include "image/import.h"
#include "resolver/criu.h"

#include <inttypes.h>

static int import_extents(struct uffd_importing *importing, const struct uffd_criu *criu, const char *directory) {
  size_t count;
  const struct uffd_criu_extent *extents = uffd_criu_extents(criu, &count);
  uint64_t at = 0;
  int result = 0;
  for (size_t i = 0; result == 0 && i < count; i++) {
    const struct uffd_criu_extent *extent = &extents[i];
    if (extent->offset > at) result = uffd_importing_zero(importing, at, extent->offset - at);
    if (result == 0) {
      result = uffd_importing_copy(importing, extent->offset, extent->length, uffd_criu_fd(criu, extent->file),
                                   directory, extent->position);
    }
    at = extent->offset + extent->length;
  }
  if (result == 0 && at < importing->length) result = uffd_importing_zero(importing, at, importing->length - at);
  if (result == 0 && !uffd_criu_holds(criu)) {
    result = fail(ESTALE, "The dump in %s was changed while it was imported.", directory);
  }
  return result;
}

static void tell_regions(const struct uffd_criu *criu, const struct uffd_import_opts *opts) {
  size_t tasks_count, regions_count;
  const struct uffd_criu_task *tasks = uffd_criu_tasks(criu, &tasks_count);
  const struct uffd_criu_region *regions = uffd_criu_regions(criu, &regions_count);
  for (size_t i = 0; opts->region != NULL && i < tasks_count; i++) {
    for (size_t j = 0; j < tasks[i].count; j++) {
      const struct uffd_criu_region *region = &regions[tasks[i].first_region + j];
      const struct uffd_import_region told = {region->address, region->length, region->offset, tasks[i].pid, 0};
      opts->region(opts->region_ctx, &told);
    }
  }
}

int uffd_import_criu(const char *directory, const char *path, const struct uffd_import_opts *user_opts,
                     struct uffd_import_counts *counts) {
  struct uffd_import_opts opts = UFFD_IMPORT_OPTS_INIT;
  struct uffd_importing importing = {.store = NULL};
  struct uffd_criu *criu;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_import_opts");
  if (result == 0 && (directory == NULL || path == NULL))
    result = fail(EINVAL, "No path: name a directory and a file.");
  if (result == 0) result = uffd_criu_open(-1, directory, &criu);
  if (result != 0) return result;
  result = uffd_importing_begin(&importing, path, &opts, uffd_criu_length(criu), 0, NULL);
  if (result == 0) result = import_extents(&importing, criu, directory);
  if (result == 0) tell_regions(criu, &opts);
  result = uffd_importing_end(&importing, result, counts);
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_criu_close(criu);
  uffd_restore_sentence(&why);
  return result;
}
