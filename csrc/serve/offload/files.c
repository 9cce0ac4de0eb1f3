/*
 * The files of a snapshot: their names, and reading the short ones.
 */
#include "serve/offload/files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

int uffd_ch_path(const char *directory, const char *name, char *path, size_t size) {
  int length = snprintf(path, size, "%s/%s", directory, name);
  if (length > 0 && (size_t)length < size) return 0;
  return fail(ENAMETOOLONG, "The path of a snapshot's %s is too long.", name);
}

static int read_all(int fd, const char *path, struct uffd_ch_text *text) {
  for (uint64_t got = 0; got < text->length;) {
    ssize_t count = read(fd, text->bytes + got, text->length - got);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(errno, "Cannot read %s: %s.", path, strerror(errno));
    if (count == 0) return fail(EIO, "%s has become shorter while it was read.", path);
    got += (uint64_t)count;
  }
  return 0;
}

static int open_text(const char *path, uint64_t max, uint64_t *length) {
  struct stat status;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(errno, "Cannot open %s: %s.", path, strerror(errno));
  int result = fd;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    result = fail(EINVAL, "%s is not a regular file.", path);
  } else if ((uint64_t)status.st_size > max) {
    result = fail(E2BIG, "%s has %" PRIu64 " bytes, and at most %" PRIu64 " are taken.", path, (uint64_t)status.st_size,
                  max);
  }
  if (result < 0) close(fd);
  if (result >= 0) *length = (uint64_t)status.st_size;
  return result;
}

int uffd_ch_read_text(const char *directory, const char *name, uint64_t max, struct uffd_ch_text *text) {
  char path[PATH_MAX];
  *text = (struct uffd_ch_text){0};
  int result = uffd_ch_path(directory, name, path, sizeof(path));
  int fd = result == 0 ? open_text(path, max, &text->length) : result;
  if (fd < 0) return fd;
  text->bytes = uffd_alloc(text->length + 1);
  result = text->bytes != NULL ? read_all(fd, path, text) : fail(ENOMEM, "No memory for %s.", path);
  close(fd);
  if (result < 0) uffd_ch_text_free(text);
  return result;
}

void uffd_ch_text_free(struct uffd_ch_text *text) {
  if (text->bytes != NULL) uffd_release(text->bytes, text->length + 1);
  *text = (struct uffd_ch_text){0};
}
