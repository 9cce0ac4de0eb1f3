/*
 * A file of bytes, read and not mapped: a short or failed read is an errno of the page that it concerns, where a
 * mapping would raise a signal.
 */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "image/source/source.h"

struct file {
  struct uffd_source head;
  int fd;
};

int uffd_read_exactly(int fd, const char *path, uint64_t offset, void *buffer, uint64_t length) {
  char *at = buffer;
  for (uint64_t done = 0; done < length;) {
    ssize_t got = pread(fd, at + done, length - done, (off_t)(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return fail(EIO, "%s: cannot read at byte %" PRIu64 ": %s.", path, offset + done, strerror(errno));
    }
    if (got == 0) {
      return fail(EIO, "%s has shrunk: it ends at byte %" PRIu64 ", and %" PRIu64 " bytes from %" PRIu64 " are needed.",
                  path, offset + done, length, offset);
    }
    done += (uint64_t)got;
  }
  return 0;
}

int uffd_packed_read(const struct uffd_packed *packed, uint64_t offset, void *buffer, uint64_t length) {
  if (packed->remote != NULL) return packed->read(packed->remote, offset, buffer, length);
  return uffd_read_exactly(packed->fd, packed->path, offset, buffer, length);
}

static int read_file(struct uffd_source *source, struct uffd_reader *reader, uint64_t offset, char *buffer,
                     uint64_t length) {
  (void)reader;
  return uffd_read_exactly(((const struct file *)source)->fd, source->path, offset, buffer, length);
}

static void destroy(struct uffd_source *source) {
  struct file *file = (struct file *)source;
  close(file->fd);
  DELETE(file);
}

int uffd_source_file(int fd, const char *path, uint64_t file_bytes, struct uffd_source **source) {
  static const struct uffd_source_class class = {.kind = "file", .read = read_file, .destroy = destroy};
  struct file *file = NEW(struct file);
  if (file == NULL) return fail(ENOMEM, "No memory for the source %s.", path);
  file->head = (struct uffd_source){&class, path, file_bytes, file_bytes, NULL};
  file->fd = fd;
  *source = &file->head;
  return 0;
}
