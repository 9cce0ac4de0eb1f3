/*
 * Headers of E2B: any bytes, as they are, and behind a right beginning. What is taken covers the image, without gaps.
 */
#include "image.h"

#include "image/digest.h"
#include "image/import.h"

static void check(const uint8_t *bytes, uint64_t length) {
  struct uffd_e2b_header header;
  uint64_t at = 0;
  if (uffd_e2b_parse(bytes, length, "header", &header) < 0) {
    MUST(header.runs == NULL && strlen(uffd_errmsg()) > 10);
    return;
  }
  MUST(header.count > 0 && header.count <= length / 40);
  for (size_t i = 0; i < header.count; i++) {
    MUST(header.runs[i].offset == at && header.runs[i].length > 0 && header.runs[i].length % header.block_size == 0);
    at += header.runs[i].length;
  }
  MUST(at == header.length);
  uffd_e2b_free(&header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t made[MOST + 64];
  if (size > MOST) return 0;
  check(data, size);
  uffd_put_le64(made, 3);
  uffd_put_le64(made + 8, 4096);
  uffd_put_le64(made + 16, UINT64_C(4096) * (size / 40 + 1));
  memcpy(made + 64, data, size);
  check(made, size + 64);
  return 0;
}
