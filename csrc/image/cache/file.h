/*
 * The layout of a cache file. What is read from one is checked, because any program of the user may have written it.
 */
#ifndef UFFD_IMAGE_CACHE_FILE_H
#define UFFD_IMAGE_CACHE_FILE_H

#include "base/base.h"

#define UFFD_CACHE_MAGIC   "uffdcach"
#define UFFD_CACHE_VERSION 1u
#define UFFD_CACHE_HEAD    UINT64_C(4096)
#define UFFD_CACHE_SUFFIX  ".uffd-cache"

/* The first 4096 bytes, in the machine's byte order: a cache stays on its machine. */
struct uffd_cache_head {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t stream_bytes;
  uint64_t units;
  char boot[40]; /* of the machine, when units were last published */
  char source[1536];
  char state[512]; /* what the server calls its state */
  char layout[64];
};

/* Written before a unit's byte says that it is there. */
struct uffd_cache_record {
  uint64_t offset; /* in the stream */
  uint64_t length;
  uint64_t digest; /* of its bytes: the low half of XXH3-128 */
};

/* Where things lie in a file of so many units. */
struct uffd_cache_layout {
  uint64_t states;  /* one byte a unit */
  uint64_t records; /* one a unit */
  uint64_t data;
  uint64_t end; /* the file's length */
};
struct uffd_cache_layout uffd_cache_lay_out(uint64_t units, uint64_t stream_bytes);

/* Reads and checks a head: 0, -EPROTO another version or no cache file, -EPERM another user's; without a sentence. */
int uffd_cache_read_head(int fd, struct uffd_cache_head *head);
/* The text of /proc/sys/kernel/random/boot_id; "" if it cannot be read. */
void uffd_cache_boot(char boot[40]);
/* A lock on the head: F_RDLCK, F_WRLCK or F_UNLCK of the open file description. 1, or 0: another one is in the way. */
int uffd_cache_lock_head(int fd, short kind);
uint64_t uffd_cache_digest(const void *bytes, uint64_t length);

/* room.c: bytes that the directory's files take; removes unused ones until they are at most limit. */
int uffd_cache_make_room(const char *directory, uint64_t limit, uint64_t *bytes);

#endif
