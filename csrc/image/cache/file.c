/*
 * What all who look into cache files share: their layout, their head, its lock.
 */
#include "image/cache/file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/digest.h"
#include "image/image.h"

struct uffd_cache_layout uffd_cache_lay_out(uint64_t units, uint64_t stream_bytes) {
  struct uffd_cache_layout layout = {.states = UFFD_CACHE_HEAD};
  layout.records = round_up(layout.states + units, 8);
  layout.data = round_up(layout.records + units * sizeof(struct uffd_cache_record), BASE_PAGE);
  layout.end = layout.data + stream_bytes;
  return layout;
}

static bool ends(const char *text, size_t room) {
  return memchr(text, '\0', room) != NULL;
}

int uffd_cache_read_head(int fd, struct uffd_cache_head *head) {
  struct stat status;
  if (fstat(fd, &status) != 0) return -errno;
  if (!S_ISREG(status.st_mode)) return -EPROTO;
  if (status.st_uid != geteuid()) return -EPERM;
  ssize_t got = pread(fd, head, sizeof(*head), 0);
  if (got < 0) return -errno;
  bool right = got == (ssize_t)sizeof(*head) && memcmp(head->magic, UFFD_CACHE_MAGIC, sizeof(head->magic)) == 0 &&
               head->version == UFFD_CACHE_VERSION && ends(head->boot, sizeof(head->boot)) &&
               ends(head->source, sizeof(head->source)) && ends(head->state, sizeof(head->state)) &&
               ends(head->layout, sizeof(head->layout)) && head->stream_bytes <= UFFD_IMAGE_LIMIT &&
               head->units <= head->stream_bytes;
  if (!right) return -EPROTO;
  struct uffd_cache_layout layout = uffd_cache_lay_out(head->units, head->stream_bytes);
  return (uint64_t)status.st_size == layout.end ? 0 : -EPROTO;
}

void uffd_cache_boot(char boot[40]) {
  memset(boot, 0, 40);
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t got = read(fd, boot, 36);
  if (got < 0) boot[0] = '\0';
  close(fd);
}

int uffd_cache_lock_head(int fd, short kind) {
  struct flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
  return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

uint64_t uffd_cache_digest(const void *bytes, uint64_t length) {
  unsigned char digest[UFFD_DIGEST_BYTES];
  uffd_digest_xxh3(bytes, length, digest);
  return uffd_le64(digest);
}
