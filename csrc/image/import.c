/*
 * What all importers share: the layer's store, runs of bytes put into it, counts, progress; and Firecracker's diffs.
 */
#include "image/import.h"

#include <inttypes.h>
#include <string.h>

int uffd_importing_begin(struct uffd_importing *importing, const char *path, const struct uffd_import_opts *opts,
                         uint64_t length, uint64_t page_size, uffd_image *below) {
  struct uffd_store_layer_opts layer = UFFD_STORE_LAYER_OPTS_INIT;
  *importing = (struct uffd_importing){.opts = *opts, .length = length};
  layer.length = length;
  layer.page_size = below == NULL ? page_size : 0;
  layer.below = below;
  layer.frame_bytes = opts->frame_bytes;
  layer.level = opts->level;
  layer.digest = opts->digest;
  layer.attributes = opts->attributes;
  importing->buffer = uffd_alloc(UFFD_IMPORT_STEP);
  if (importing->buffer == NULL) return fail(ENOMEM, "No memory to import an image.");
  return uffd_store_layer(path, &layer, &importing->store);
}

static int tell(const struct uffd_importing *importing, uint64_t done) {
  const struct uffd_import_opts *opts = &importing->opts;
  if (opts->progress == NULL || opts->progress(opts->progress_ctx, done, importing->length) == 0) return 0;
  return fail(ECANCELED, "Given up at offset %" PRIu64 " of %" PRIu64 ".", done, importing->length);
}

int uffd_importing_zero(struct uffd_importing *importing, uint64_t offset, uint64_t length) {
  importing->counts.zero_bytes += length;
  int result = uffd_store_put(importing->store, offset, UFFD_STORE_ZERO, NULL, length);
  return result < 0 ? result : tell(importing, offset + length);
}

int uffd_importing_below(struct uffd_importing *importing, uint64_t offset, uint64_t length) {
  importing->counts.below_bytes += length;
  int result = uffd_store_put(importing->store, offset, UFFD_STORE_BELOW, NULL, length);
  return result < 0 ? result : tell(importing, offset + length);
}

/* Pages of the file that are zero count as such: whoever wrote them there meant zeros. */
static void count(struct uffd_importing *importing, uint64_t length) {
  for (uint64_t at = 0; at < length; at += BASE_PAGE) {
    const char *page = importing->buffer + at;
    uint64_t part = min_u64(BASE_PAGE, length - at);
    bool zero = page[0] == 0 && memcmp(page, page + 1, part - 1) == 0;
    *(zero ? &importing->counts.zero_bytes : &importing->counts.data_bytes) += part;
  }
}

int uffd_importing_copy(struct uffd_importing *importing, uint64_t offset, uint64_t length, int fd, const char *name,
                        uint64_t at) {
  for (uint64_t done = 0; done < length;) {
    uint64_t part = min_u64(UFFD_IMPORT_STEP, length - done);
    int result = uffd_read_exactly(fd, name, at + done, importing->buffer, part);
    if (result == 0) result = uffd_store_put(importing->store, offset + done, UFFD_STORE_DATA, importing->buffer, part);
    if (result == 0) result = tell(importing, offset + done + part);
    if (result < 0) return result;
    count(importing, part);
    done += part;
  }
  return 0;
}

int uffd_importing_end(struct uffd_importing *importing, int result, struct uffd_import_counts *counts) {
  if (result == 0) result = uffd_store_finish(importing->store);
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_store_close(importing->store);
  uffd_release(importing->buffer, UFFD_IMPORT_STEP);
  uffd_restore_sentence(&why);
  if (result < 0) return result;
  if (counts != NULL) *counts = importing->counts;
  return 0;
}

/* ---- Firecracker */

/* Where the diff has a hole the page is the parent's; what was written is the diff's, zeros too. */
static int import_diff(struct uffd_importing *importing, const uffd_image *diff) {
  const struct uffd_layer_file *file = diff->layers[0];
  int result = 0;
  for (size_t i = 0; result == 0 && i < diff->pieces_count; i++) {
    const struct uffd_piece *piece = &diff->pieces[i];
    uint64_t length = piece[1].offset - piece->offset;
    if (piece->kind == UFFD_IMAGE_ZERO) {
      result = uffd_importing_below(importing, piece->offset, length);
    } else {
      result = uffd_importing_copy(importing, piece->offset, length, file->fd, file->path, piece->offset);
    }
  }
  if (result == 0 && !uffd_stamp_holds(file->fd, &file->stamp)) {
    result = fail(ESTALE, "%s was changed while it was imported.", file->path);
  }
  return result;
}

/* A diff that was copied without its holes would replace the parent's pages by zeros. */
static int check_diff(const uffd_image *diff, const uffd_image *parent) {
  const struct uffd_layer_file *file = diff->layers[0];
  uint64_t holes = 0;
  if (file->fd < 0) return fail(EINVAL, "%s is not on this machine: its holes cannot be seen.", file->path);
  if (file->format != UFFD_IMAGE_RAW) return fail(EINVAL, "%s is a zstd file, not a diff.", file->path);
  if (parent == NULL) return fail(EINVAL, "A diff needs the image that it was made against: --against.");
  if (diff->length != parent->length) {
    return fail(EINVAL, "%s has %" PRIu64 " bytes, and the image that it is a diff of %" PRIu64 ".", file->path,
                diff->length, parent->length);
  }
  for (size_t i = 0; i < diff->pieces_count; i++) {
    if (diff->pieces[i].kind == UFFD_IMAGE_ZERO) holes++;
  }
  if (holes > 0) return 0;
  return fail(EINVAL,
              "%s has no holes: it is no diff, or was copied in a way that filled them; the pages of its parent cannot "
              "be told from zeros. Import it on the machine that wrote it.",
              file->path);
}

int uffd_import_diff(const char *diff_path, uffd_image *parent, const char *path,
                     const struct uffd_import_opts *user_opts, struct uffd_import_counts *counts) {
  const struct uffd_image_opts image_opts = UFFD_IMAGE_OPTS_INIT;
  struct uffd_import_opts opts = UFFD_IMPORT_OPTS_INIT;
  struct uffd_importing importing = {.store = NULL};
  uffd_image *diff;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_import_opts");
  if (result == 0 && (diff_path == NULL || path == NULL)) result = fail(EINVAL, "No path: name a file.");
  if (result == 0) result = uffd_image_open_plain(diff_path, &image_opts, &diff);
  if (result != 0) return result;
  result = check_diff(diff, parent);
  if (result == 0) result = uffd_importing_begin(&importing, path, &opts, diff->length, 0, parent);
  if (result == 0) result = import_diff(&importing, diff);
  result = uffd_importing_end(&importing, result, counts);
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_image_close(diff);
  uffd_restore_sentence(&why);
  return result;
}
