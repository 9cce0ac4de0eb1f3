/*
 * The index of a layer: which pages it has, where their bytes lie in the stream, what its parent is, and a digest of
 * each chunk. Read from, and written as, the payload of one skippable frame, or a sidecar.
 */
#ifndef UFFD_IMAGE_INDEX_H
#define UFFD_IMAGE_INDEX_H

#include "base/base.h"

#define UFFD_INDEX_CHUNK UINT64_C(65536) /* bytes that a digest is of */
#define UFFD_INDEX_ID    32u

enum { UFFD_INDEX_EXTERNAL = 1u, UFFD_INDEX_HAS_PARENT = 2u };

/* As the file has them: sorted, without gaps. */
struct uffd_index_extent {
  uint64_t offset, length, stream_offset;
  uint32_t kind; /* UFFD_IMAGE_ZERO, ... */
};

struct uffd_index {
  uint32_t flags;
  uint32_t generation;
  uint64_t length;
  uint64_t page_size;
  uint64_t stream_bytes;
  uint64_t time_ns;
  uint32_t digest; /* UFFD_DIGEST_*; NONE: the file has no index */
  unsigned char id[UFFD_INDEX_ID], parent_id[UFFD_INDEX_ID], uuid[16];
  char *parent;     /* a name, "" if none */
  char *attributes; /* JSON, "" if none */
  size_t extents_count, extents_room;
  struct uffd_index_extent *extents;
  unsigned char *digests; /* chunks of them, or NULL */
};

/* 0, or -EINVAL and a sentence that begins with path and tells the place; then index is empty. */
int uffd_index_parse(const unsigned char *payload, uint64_t length, const char *path, struct uffd_index *index);
/* The payload of an index, to be released with *length; NULL: no memory. */
unsigned char *uffd_index_encode(const struct uffd_index *index, uint64_t *length);
/* Writes it as a skippable frame at byte at of a file: how many *bytes it has there. */
int uffd_index_write(int fd, const char *path, uint64_t at, const struct uffd_index *index, uint64_t *bytes);
/* A name of a parent: relative, and without "..". */
bool uffd_index_is_name(const char *name);
void uffd_index_free(struct uffd_index *index);
/* Appends, joined with the extent before it where both are of one kind and follow each other. 0 or -ENOMEM. */
int uffd_index_add(struct uffd_index *index, const struct uffd_index_extent *extent);
/* The extent that holds offset, which is below the length. */
size_t uffd_index_find(const struct uffd_index *index, uint64_t offset);
uint64_t uffd_index_chunks(const struct uffd_index *index);
/*
 * Do the digests of a sidecar say what each chunk of its file is? Not where pages are a parent's, or the image has them
 * in another order.
 */
bool uffd_index_describes_file(const struct uffd_index *index);
/* Sets the id, which is the contents': SHA-256 of the length, the kind of digest, and the digests. */
void uffd_index_identify(struct uffd_index *index);

#endif
