/*
 * Files that appear only when they are whole: each is written under another name beside its target, and renamed over
 * it.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define TEMPORARIES 100u /* names to try: processes that were killed may have left some of them behind */

/*
 * Follows a symbolic link, so that its target is replaced and not the link, and returns the mode of the file that is
 * there; 0: there is none.
 */
static int find_target(struct uffd_newfile *file, const char *path, mode_t *mode) {
  struct stat status;
  *mode = 0;
  if (stat(path, &status) == 0) {
    if (!S_ISREG(status.st_mode)) return fail(EINVAL, "%s is not a regular file: it would be replaced.", path);
    *mode = status.st_mode & 07777;
    if (realpath(path, file->target) != NULL) return 0;
  } else if (errno == ENOENT) {
    int length = snprintf(file->target, sizeof(file->target), "%s", path);
    if (length > 0 && (size_t)length < sizeof(file->target)) return 0;
    errno = length > 0 ? ENAMETOOLONG : ENOENT;
  }
  return fail(errno, "Cannot write %s: %s.", path, strerror(errno));
}

int uffd_newfile_open(struct uffd_newfile *file, const char *path) {
  mode_t mode;
  int result = find_target(file, path, &mode);
  if (result < 0) return result;
  for (unsigned i = 0; i < TEMPORARIES; i++) {
    int length = snprintf(file->path, sizeof(file->path), "%s.%ld-%u", file->target, (long)getpid(), i);
    if (length < 0 || (size_t)length >= sizeof(file->path)) {
      return fail(ENAMETOOLONG, "Cannot write %s: %s.", path, strerror(ENAMETOOLONG));
    }
    file->fd = open(file->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->fd >= 0) {
      if (mode != 0) fchmod(file->fd, mode); /* without an old file the umask decides */
      return 0;
    }
    if (errno != EEXIST) break;
  }
  return fail(errno, "Cannot make a file beside %s: %s.", path, strerror(errno));
}

/* After this the new name is on the disk. An error is ignored where the file system cannot sync a directory. */
static void sync_directory(const char *path) {
  char directory[sizeof(((struct uffd_newfile *)NULL)->target)];
  const char *slash = strrchr(path, '/');
  snprintf(directory, sizeof(directory), "%.*s", slash != NULL ? (int)(slash - path) + 1 : 1,
           slash != NULL ? path : ".");
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

void uffd_newfile_discard(struct uffd_newfile *file) {
  if (file->fd < 0) return;
  close(file->fd);
  unlink(file->path);
  file->fd = -1;
}

int uffd_newfile_keep(struct uffd_newfile *file) {
  int result = 0;
  if (fsync(file->fd) < 0) {
    result = fail(errno, "Cannot write %s to its disk: %s.", file->path, strerror(errno));
  } else {
    BARRIER("newfile-written", file);
    if (rename(file->path, file->target) < 0) {
      result = fail(errno, "Cannot put %s in the place of %s: %s.", file->path, file->target, strerror(errno));
    }
  }
  if (result < 0) {
    uffd_newfile_discard(file);
    return result;
  }
  close(file->fd);
  file->fd = -1;
  sync_directory(file->target);
  return 0;
}

int uffd_write_exactly(int fd, const char *path, uint64_t offset, const void *bytes, uint64_t length) {
  const char *at = bytes;
  for (uint64_t done = 0; done < length;) {
    ssize_t put = pwrite(fd, at + done, length - done, (off_t)(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      int error = put < 0 ? errno : ENOSPC;
      return fail(error, "Cannot write %s at byte %" PRIu64 ": %s.", path, offset + done, strerror(error));
    }
    done += (uint64_t)put;
  }
  return 0;
}
