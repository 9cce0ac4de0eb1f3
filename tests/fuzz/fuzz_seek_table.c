/*
 * zstd files: any bytes as they are; and as a seek table behind frames that are right, with the parts of it that must
 * fit made to fit, or none would get past them.
 */
#include "image.h"

#include <zstd.h>

#include "image/digest.h"

/* Frames of 100, 4096 and 5000 bytes. */
static size_t frames(uint8_t *out, size_t room) {
  static uint8_t bytes[5000];
  const size_t lengths[] = {100, 4096, 5000};
  size_t at = 0;
  for (unsigned i = 0; i < 3; i++) {
    memset(bytes, (int)i + 1, sizeof(bytes));
    at += ZSTD_compress(out + at, room - at, bytes, lengths[i], 1);
  }
  return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t file[2 * MOST];
  if (size > MOST || size == 0) return 0;
  open_and_check(file_of(data, size));
  size_t at = frames(file, MOST), entries = (size - 1) / 12 * 12; /* the first byte is the descriptor */
  uffd_put_le32(file + at, UFFD_MAGIC_SEEK);
  uffd_put_le32(file + at + 4, (uint32_t)entries + 9);
  memcpy(file + at + 8, data + 1, entries);
  uint8_t *footer = file + at + 8 + entries;
  footer[4] = data[0];
  uffd_put_le32(footer, (uint32_t)(entries / ((data[0] & 0x80) != 0 ? 12 : 8)));
  uffd_put_le32(footer + 5, UFFD_MAGIC_TABLE);
  open_and_check(file_of(file, at + 8 + entries + 9));
  return 0;
}
