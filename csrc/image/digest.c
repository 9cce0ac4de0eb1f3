/*
 * Digests: XXH64 and XXH3 of xxhash's header, and SHA-256 (FIPS 180-4).
 */
#define XXH_INLINE_ALL
#include "image/digest.h"

#include <string.h>
#include <xxhash.h>

#include "uffd_image.h"

void uffd_digest_xxh3(const void *bytes, uint64_t length, unsigned char *out) {
  XXH128_hash_t hash = XXH3_128bits(bytes, length);
  uffd_put_le64(out, hash.low64);
  uffd_put_le64(out + 8, hash.high64);
}

uint32_t uffd_digest_frame(const void *bytes, uint64_t length) {
  return (uint32_t)XXH64(bytes, length, 0);
}

void uffd_digest_chunk(uint32_t digest, const void *bytes, uint64_t length, unsigned char *out) {
  unsigned char whole[32];
  struct uffd_sha256 sha;
  if (digest != UFFD_DIGEST_SHA256) {
    uffd_digest_xxh3(bytes, length, out);
    return;
  }
  uffd_sha256_start(&sha);
  uffd_sha256_add(&sha, bytes, length);
  uffd_sha256_end(&sha, whole);
  memcpy(out, whole, UFFD_DIGEST_BYTES);
}

static uint32_t rotate(uint32_t value, unsigned bits) {
  return value >> bits | value << (32 - bits);
}

static void expand(const unsigned char *block, uint32_t words[64]) {
  for (unsigned i = 0; i < 16; i++) {
    words[i] = __builtin_bswap32(uffd_le32(block + 4 * (size_t)i));
  }
  for (unsigned i = 16; i < 64; i++) {
    uint32_t a = words[i - 15], b = words[i - 2];
    words[i] = words[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + words[i - 7] +
               (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
  }
}

static void mix(struct uffd_sha256 *sha, const unsigned char *block) {
  static const uint32_t constants[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  uint32_t words[64], s[8];
  expand(block, words);
  memcpy(s, sha->state, sizeof(s));
  for (unsigned i = 0; i < 64; i++) {
    uint32_t one = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                   constants[i] + words[i];
    uint32_t two =
        (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    memmove(s + 1, s, 7 * sizeof(*s));
    s[4] += one;
    s[0] = one + two;
  }
  for (unsigned i = 0; i < 8; i++) {
    sha->state[i] += s[i];
  }
}

void uffd_sha256_start(struct uffd_sha256 *sha) {
  static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  memcpy(sha->state, first, sizeof(first));
  sha->length = 0;
}

void uffd_sha256_add(struct uffd_sha256 *sha, const void *bytes, uint64_t length) {
  const unsigned char *at = bytes;
  while (length > 0) {
    uint64_t has = sha->length % 64, part = min_u64(64 - has, length);
    memcpy(sha->block + has, at, part);
    sha->length += part;
    at += part;
    length -= part;
    if (sha->length % 64 == 0) mix(sha, sha->block);
  }
}

void uffd_sha256_end(struct uffd_sha256 *sha, unsigned char out[32]) {
  static const unsigned char padding[64] = {0x80};
  uint64_t bits = sha->length * 8, has = sha->length % 64;
  unsigned char count[8];
  uffd_sha256_add(sha, padding, has < 56 ? 56 - has : 120 - has);
  for (unsigned i = 0; i < 8; i++) {
    count[i] = (unsigned char)(bits >> (56 - 8 * i));
  }
  uffd_sha256_add(sha, count, sizeof(count));
  for (unsigned i = 0; i < 8; i++) {
    uint32_t word = __builtin_bswap32(sha->state[i]);
    memcpy(out + 4 * (size_t)i, &word, 4);
  }
}
