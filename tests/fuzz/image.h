/*
 * What the fuzz targets of images share: files in memory, and an image that has been opened is read all over.
 */
#ifndef UFFD_TESTS_FUZZ_IMAGE_H
#define UFFD_TESTS_FUZZ_IMAGE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                                \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "not so: %s; %s\n", #condition, uffd_errmsg());                                                  \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

#define MOST  UINT64_C(65536)     /* bytes of an input */
#define READS (UINT64_C(4) << 20) /* bytes of an image that are read at once */
#define LIMIT (UINT64_C(1) << 20) /* of a frame */

/* A file of these bytes, under a path of this process's. It is old: opening a file that was just written waits. */
static inline const char *file_of(const void *bytes, size_t size) {
  static const struct timespec old[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
  static char path[64];
  static int fd = -1;
  if (fd < 0) fd = memfd_create("image", MFD_CLOEXEC);
  MUST(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
  MUST(futimens(fd, old) == 0);
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  return path;
}

/* The pieces lie side by side and cover all; reading succeeds, or fails with EIO and a sentence. */
static inline void check_image(uffd_image *image) {
  static char bytes[READS];
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  struct uffd_image_piece piece;
  uint64_t at = 0, pieces = 0;
  MUST(uffd_image_info(image, &info) == 0);
  MUST(info.length > 0 && info.bytes[UFFD_IMAGE_ZERO] + info.bytes[UFFD_IMAGE_DATA] == info.length);
  while (uffd_image_map(image, -1, at, &piece) == 1) {
    MUST(piece.offset == at && piece.length > 0 && piece.kind != UFFD_IMAGE_BELOW && piece.layer < info.layers);
    at += piece.length;
    pieces++;
  }
  MUST(at == info.length && pieces == info.pieces);
  for (uint64_t offset = 0; offset < info.length && offset < 4 * READS; offset += READS) {
    uint64_t part = min_u64(READS, info.length - offset);
    int result = uffd_image_read(image, offset, bytes, part);
    MUST(result == 0 || (result == -EIO && strlen(uffd_errmsg()) > 10));
    MUST(uffd_image_read(image, info.length - min_u64(part, 9), bytes, min_u64(part, 9)) <= 0);
  }
  MUST(uffd_image_read(image, info.length, bytes, 1) == -ERANGE);
}

static inline void open_and_check(const char *path) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  uffd_image *image = NULL;
  opts.frame_limit = LIMIT;
  if (uffd_image_open(&path, 1, &opts, &image) < 0) {
    MUST(image == NULL && strlen(uffd_errmsg()) > 10);
    return;
  }
  check_image(image);
  uffd_image_close(image);
}

#endif
