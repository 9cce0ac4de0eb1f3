/*
 * Sidecars: any bytes beside a raw file, as they are, and with a checksum and a length that fit.
 */
#include "image.h"

#include <fcntl.h>

#include "image/digest.h"

#define RAW UINT64_C(40000) /* bytes of the file beside it */

static char raw_path[64], sidecar_path[80];

static void remove_files(void) {
  unlink(raw_path);
  unlink(sidecar_path);
}

static void write_file(const char *path, const void *bytes, size_t length) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  MUST(fd >= 0 && write(fd, bytes, length) == (ssize_t)length && close(fd) == 0);
}

static void make_raw(void) {
  static uint8_t bytes[RAW];
  memset(bytes, 7, sizeof(bytes));
  snprintf(raw_path, sizeof(raw_path), "/dev/shm/uffd-fuzz-%ld", (long)getpid());
  snprintf(sidecar_path, sizeof(sidecar_path), "%s.uidx", raw_path);
  atexit(remove_files);
  write_file(raw_path, bytes, sizeof(bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t sealed[MOST + 8];
  if (size > MOST) return 0;
  if (raw_path[0] == '\0') make_raw();
  write_file(sidecar_path, data, size);
  open_and_check(raw_path);
  if (size < UFFD_DIGEST_BYTES) return 0;
  uffd_put_le32(sealed, UFFD_MAGIC_INDEX);
  uffd_put_le32(sealed + 4, (uint32_t)size);
  memcpy(sealed + 8, data, size);
  uffd_digest_xxh3(sealed + 8, size - UFFD_DIGEST_BYTES, sealed + 8 + size - UFFD_DIGEST_BYTES);
  write_file(sidecar_path, sealed, size + 8);
  open_and_check(raw_path);
  return 0;
}
