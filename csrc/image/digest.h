/*
 * Digests: of frames, of chunks, and the identity of an image's contents. And numbers as files have them.
 */
#ifndef UFFD_IMAGE_DIGEST_H
#define UFFD_IMAGE_DIGEST_H

#include "base/base.h"

#define UFFD_DIGEST_BYTES 16u

/* Of one chunk, by UFFD_DIGEST_*: UFFD_DIGEST_BYTES. */
void uffd_digest_chunk(uint32_t digest, const void *bytes, uint64_t length, unsigned char *out);
/* XXH3-128, the low half first. */
void uffd_digest_xxh3(const void *bytes, uint64_t length, unsigned char *out);
/* What a seek table has of a frame: the low half of XXH64. */
uint32_t uffd_digest_frame(const void *bytes, uint64_t length) __attribute__((nonnull));

struct uffd_sha256 {
  uint32_t state[8];
  uint64_t length;
  unsigned char block[64];
};
void uffd_sha256_start(struct uffd_sha256 *sha);
void uffd_sha256_add(struct uffd_sha256 *sha, const void *bytes, uint64_t length);
void uffd_sha256_end(struct uffd_sha256 *sha, unsigned char out[32]);

/* Little-endian numbers. */
static inline uint32_t uffd_le32(const unsigned char *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}
static inline uint64_t uffd_le64(const unsigned char *at) {
  return uffd_le32(at) | (uint64_t)uffd_le32(at + 4) << 32;
}
static inline void uffd_put_le32(unsigned char *at, uint32_t value) {
  for (unsigned i = 0; i < 4; i++) {
    at[i] = (unsigned char)(value >> 8 * i);
  }
}
static inline void uffd_put_le64(unsigned char *at, uint64_t value) {
  uffd_put_le32(at, (uint32_t)value);
  uffd_put_le32(at + 4, (uint32_t)(value >> 32));
}

#endif
