/*
 * The files that are served.
 */
#include "image.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK (1 * MIB)

static int make_file(uint64_t length) {
  char path[4096];
  const char *folder = getenv("TMPDIR");
  snprintf(path, sizeof(path), "%s/uffd-bench-XXXXXX", folder != NULL ? folder : "/tmp");
  int fd = mkostemp(path, O_CLOEXEC);
  if (fd < 0 || ftruncate(fd, (off_t)length) != 0) die("cannot make %s: %m (TMPDIR names another folder)", path);
  unlink(path);
  return fd;
}

static void fill_random(uint64_t *words, size_t bytes, uint64_t *state) {
  for (size_t i = 0; i < bytes / sizeof(*words); i++) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    words[i] = *state | 1;
  }
}

/* Runs of zero pages alternate with runs of others, 1 to 31 pages each: half of all pages are zero. */
static void zero_runs(char *pages, uint64_t first, uint64_t count, uint64_t *state, uint64_t *run_end, bool *zero) {
  for (uint64_t page = first; page < first + count; page++) {
    if (page == *run_end) {
      *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      *run_end += 1 + (*state >> 33) % 31;
      *zero = !*zero;
    }
    if (*zero) memset(pages + (page - first) * PAGE, 0, PAGE);
  }
}

static bool is_zero(const char *page) {
  return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

static void write_bytes(int fd, const char *bytes, uint64_t length, uint64_t offset) {
  if (pwrite(fd, bytes, length, (off_t)offset) != (ssize_t)length) die("cannot write the image: %m");
}

/* Each run of pages that are not zero in one piece, as programs write files. */
static void write_data(int fd, const char *block, uint64_t offset) {
  for (uint64_t at = 0, end; at < BLOCK; at = end) {
    bool hole = is_zero(block + at);
    for (end = at + PAGE; end < BLOCK && is_zero(block + end) == hole;) {
      end += PAGE;
    }
    if (!hole) write_bytes(fd, block + at, end - at, offset + at);
  }
}

/*
 * Lines of 64 bytes as a process's heap has them: objects (a type, a pointer, a small number), text, zeros, and some
 * that are like nothing else. The shares are those with which zstd packs it as small, and decodes it as fast, as the
 * memory of CPython, Lua and git: to 0.18, in 3.1 us a page (0.17, 3.2 us), and at level -1 to 0.19, in 2.5 us
 * (0.19, 2.5 us).
 */
static void fill_typical(uint64_t *words, size_t bytes, uint64_t *state) {
  static const char *const texts[] = {
      "the page is missing and comes from the layer below, which has it for all of us\n",
      "local function next_page(offset) return offset + page_size end -- to the next one",
      "GET /images/base HTTP/1.1 Range: bytes=65536-131071 Accept-Encoding: identity ...",
      "{\"name\":\"worker\",\"pid\":4711,\"state\":\"serving\",\"clients\":[1,2,3],\"age\":12}"};
  for (size_t i = 0; i + 8 <= bytes / sizeof(*words); i += 8) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint64_t draw = *state >> 20, kind = draw % 16, type = UINT64_C(0x000055d0c0de0000) | (draw >> 8 & 15) << 5;
    for (size_t j = 0; j < 8; j++) {
      uint64_t mixed = (draw + j * 77) * UINT64_C(0x9E3779B97F4A7C15);
      uint64_t pointer = UINT64_C(0x00007f3a00000000) | (mixed >> 50) << 6;
      uint64_t object[] = {type, pointer, mixed >> 61, 0};
      words[i + j] = kind < 8 ? object[j % 4] : kind < 10 ? 0 : mixed;
    }
    if (kind >= 10 && kind < 15) memcpy(&words[i], texts[draw / 16 % 4] + draw / 64 % 13, 64);
    words[i] |= 1;
  }
}

enum zeros { NONE, HOLES, WRITTEN, TYPICAL };

/* The file is written back before anything is measured, so that no writing goes on meanwhile. */
static void make(struct image *image, uint64_t length, enum zeros zeros) {
  static char block[BLOCK] __attribute__((aligned(4096)));
  uint64_t contents = 1, runs = 7, run_end = 0;
  bool zero = false;
  image->fd = make_file(length);
  image->length = length;
  for (uint64_t offset = 0; offset < length; offset += BLOCK) {
    if (zeros == TYPICAL) {
      fill_typical((uint64_t *)(void *)block, BLOCK, &contents);
    } else {
      fill_random((uint64_t *)(void *)block, BLOCK, &contents);
    }
    if (zeros == HOLES || zeros == WRITTEN) zero_runs(block, offset / PAGE, BLOCK / PAGE, &runs, &run_end, &zero);
    if (zeros == HOLES) {
      write_data(image->fd, block, offset);
    } else {
      write_bytes(image->fd, block, BLOCK, offset);
    }
  }
  if (fdatasync(image->fd) != 0) die("cannot write the image: %m");
  image->mapping = mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_POPULATE, image->fd, 0);
  if (image->mapping == MAP_FAILED) die("cannot map the image: %m");
}

const struct image *image_dense(void) {
  static struct image image;
  if (image.length == 0) make(&image, IMAGE_BYTES, NONE);
  return &image;
}

const struct image *image_typical(void) {
  static struct image image;
  if (image.length == 0) make(&image, TYPICAL_BYTES, TYPICAL);
  return &image;
}

const struct image *image_holes(void) {
  static struct image image;
  if (image.length == 0) make(&image, SPARSE_BYTES, HOLES);
  return &image;
}

const struct image *image_written(void) {
  static struct image image;
  if (image.length == 0) make(&image, SPARSE_BYTES, WRITTEN);
  return &image;
}
