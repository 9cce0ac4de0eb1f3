/*
 * Headers of E2B's images, version 3: which run of blocks lies in which build's data. They have no checksums: what can
 * be checked is that all adds up.
 *
 *   0   u64 version 3, u64 block size, u64 length, u64 generation; two uuids: the build, and the lowest one
 *   64  runs of 40 bytes: {u64 offset, u64 length, uuid build (nil: zero), u64 offset in the build's data}
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "image/digest.h"
#include "image/import.h"

#define HEAD    64u
#define RUN     40u
#define VERSION 3u

static const unsigned char nil[16];

static int refuse(const char *name, uint64_t at, const char *format, ...) UFFD_PRINTF(3, 4);
static int refuse(const char *name, uint64_t at, const char *format, ...) {
  char why[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof(why), format, arguments);
  va_end(arguments);
  return fail(EINVAL, "%s: byte %" PRIu64 ": %s.", name, at, why);
}

void uffd_e2b_free(struct uffd_e2b_header *header) {
  uffd_release(header->runs, header->count * sizeof(*header->runs));
  *header = (struct uffd_e2b_header){.runs = NULL};
}

static int check_head(const unsigned char *bytes, uint64_t length, const char *name) {
  if (length < HEAD) return refuse(name, 0, "a header has 64 bytes at least, not %" PRIu64, length);
  uint64_t version = uffd_le64(bytes), block = uffd_le64(bytes + 8), size = uffd_le64(bytes + 16);
  if (version != VERSION) return refuse(name, 0, "it is of version %" PRIu64 ", and version 3 is known", version);
  if (block < BASE_PAGE || block > (UINT64_C(1) << 30) || (block & (block - 1)) != 0) {
    return refuse(name, 8, "%" PRIu64 " is no size of blocks", block);
  }
  if (size == 0 || size > UFFD_IMAGE_LIMIT || size % block != 0) {
    return refuse(name, 16, "an image of %" PRIu64 " bytes is not whole blocks of %" PRIu64, size, block);
  }
  if (length == HEAD || (length - HEAD) % RUN != 0) {
    return refuse(name, HEAD, "%" PRIu64 " bytes of runs, which have %u each", length - HEAD, RUN);
  }
  return 0;
}

static int check_run(const struct uffd_e2b_run *run, uint64_t at, uint64_t expected, const char *name,
                     const struct uffd_e2b_header *header) {
  if (run->offset != expected) {
    return refuse(name, at, "a run begins at offset %" PRIu64 ", and the one before it ends at %" PRIu64, run->offset,
                  expected);
  }
  if (run->length == 0 || run->length % header->block_size != 0 || run->length > header->length - run->offset) {
    return refuse(name, at + 8, "a run of %" PRIu64 " bytes is not whole blocks of the image", run->length);
  }
  if (memcmp(run->build, nil, sizeof(nil)) != 0 && run->at > UFFD_IMAGE_LIMIT) {
    return refuse(name, at + 32, "a run lies at byte %" PRIu64 " of its data", run->at);
  }
  return 0;
}

int uffd_e2b_parse(const unsigned char *bytes, uint64_t length, const char *name, struct uffd_e2b_header *header) {
  uint64_t expected = 0;
  *header = (struct uffd_e2b_header){.runs = NULL};
  int result = check_head(bytes, length, name);
  if (result < 0) return result;
  header->block_size = uffd_le64(bytes + 8);
  header->length = uffd_le64(bytes + 16);
  header->count = (size_t)((length - HEAD) / RUN);
  header->runs = uffd_alloc(header->count * sizeof(*header->runs));
  if (header->runs == NULL) return fail(ENOMEM, "No memory for the header %s.", name);
  for (size_t i = 0; result == 0 && i < header->count; i++) {
    const unsigned char *p = bytes + HEAD + i * RUN;
    struct uffd_e2b_run *run = &header->runs[i];
    run->offset = uffd_le64(p);
    run->length = uffd_le64(p + 8);
    memcpy(run->build, p + 16, sizeof(run->build));
    run->at = uffd_le64(p + 32);
    result = check_run(run, HEAD + i * RUN, expected, name, header);
    expected = run->offset + run->length;
  }
  if (result == 0 && expected != header->length) {
    result = refuse(name, length, "its runs end at offset %" PRIu64 " of %" PRIu64, expected, header->length);
  }
  if (result < 0) uffd_e2b_free(header);
  return result;
}
