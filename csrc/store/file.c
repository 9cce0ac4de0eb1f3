/*
 * A file of bytes. Zero pages are holes: they are not written, and data that was there before is punched out.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "store/store.h"

struct file {
  uffd_store head;
  struct uffd_newfile file;
  uint64_t length;
  bool written; /* some data is there: zeros may have to replace it */
};

static int write_zeros(const struct file *file, uint64_t offset, uint64_t length) {
  static const char zeros[65536];
  for (uint64_t done = 0; done < length;) {
    uint64_t part = min_u64(length - done, sizeof(zeros));
    int result = uffd_write_exactly(file->file.fd, file->file.path, offset + done, zeros, part);
    if (result < 0) return result;
    done += part;
  }
  return 0;
}

static int put(uffd_store *store, uint64_t offset, uint32_t kind, const void *data, uint64_t length) {
  struct file *file = (struct file *)store;
  if (offset > file->length || length > file->length - offset) {
    return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " end beyond the file, which has %" PRIu64 ".", length,
                offset, file->length);
  }
  if (kind == UFFD_STORE_BELOW) return fail(EINVAL, "A file of bytes has nothing below it: put data or zeros.");
  if (kind == UFFD_STORE_DATA) {
    file->written = true;
    return uffd_write_exactly(file->file.fd, file->file.path, offset, data, length);
  }
  if (!file->written) return 0;
  int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return fallocate(file->file.fd, mode, (off_t)offset, (off_t)length) == 0 ? 0 : write_zeros(file, offset, length);
}

static int flush(uffd_store *store) {
  const struct file *file = (const struct file *)store;
  if (fdatasync(file->file.fd) == 0) return 0;
  return fail(errno, "Cannot write %s to its disk: %s.", file->file.path, strerror(errno));
}

static int finish(uffd_store *store) {
  return uffd_newfile_keep(&((struct file *)store)->file);
}

static void give_up(uffd_store *store) {
  uffd_newfile_discard(&((struct file *)store)->file);
}

static void destroy(uffd_store *store) {
  struct file *file = (struct file *)store;
  if (file->file.fd >= 0) close(file->file.fd); /* in a forked child: the parent's file stays */
  DELETE(file);
}

int uffd_store_file(const char *path, uint64_t length, uffd_store **store) {
  static const struct uffd_store_class class = {
      .kind = "file", .put = put, .flush = flush, .finish = finish, .abort = give_up, .destroy = destroy};
  *store = NULL;
  if (path == NULL) return fail(EINVAL, "No path: name a file.");
  if (length == 0 || length > INT64_MAX) return fail(EINVAL, "A file of %" PRIu64 " bytes cannot be made.", length);
  struct file *file = NEW(struct file);
  if (file == NULL) return fail(ENOMEM, "No memory for a store.");
  uffd_store_init(&file->head, &class);
  file->length = length;
  int result = uffd_newfile_open(&file->file, path);
  if (result == 0 && ftruncate(file->file.fd, (off_t)length) != 0) {
    result = fail(errno, "Cannot make %s %" PRIu64 " bytes long: %s.", file->file.path, length, strerror(errno));
    uffd_newfile_discard(&file->file);
  }
  if (result < 0) {
    DELETE(file);
    return result;
  }
  *store = &file->head;
  return 0;
}
