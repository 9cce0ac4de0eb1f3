/*
 * For tests of images: files that the test makes byte by byte, so that the library does not read what it wrote itself.
 * Patterns, zstd files with seek tables, indexes; right and damaged ones.
 */
#ifndef UFFD_TESTS_IMAGING_H
#define UFFD_TESTS_IMAGING_H

#include <stdint.h>

#include "check.h"
#include "uffd_image.h"

#define PAGE UINT64_C(4096)

/* A buffer of bytes that grows. */
struct bytes {
  unsigned char *at;
  uint64_t length, room;
};
void bytes_add(struct bytes *bytes, const void *more, uint64_t length);
void bytes_u32(struct bytes *bytes, uint32_t value);
void bytes_u64(struct bytes *bytes, uint64_t value);
void bytes_free(struct bytes *bytes);

/* Page i of count is the word first + i, repeated. */
unsigned char *imaging_pages(uint32_t first, uint64_t count);

/* A path in a directory that is the test's own and is removed at the end. */
const char *imaging_path(const char *name);
void imaging_write(const char *path, const void *at, uint64_t length);
/* Runs a command with sh in that directory: its exit code. */
int imaging_run(const char *command);

/* A zstd file under construction. */
struct zstd_file {
  struct bytes bytes; /* frames */
  struct bytes table; /* entries of the seek table */
  uint32_t count;
  bool checksums; /* of the table */
};
/* A frame of these bytes. */
void zstd_file_frame(struct zstd_file *file, const void *at, uint64_t length);
/* Frames of so many bytes each. */
void zstd_file_frames(struct zstd_file *file, const void *at, uint64_t length, uint64_t frame);
/* A skippable frame, with an entry in the table. */
void zstd_file_skip(struct zstd_file *file, uint32_t magic, const void *at, uint64_t length);
void zstd_file_entry(struct zstd_file *file, uint32_t packed, uint32_t decoded, uint32_t checksum);
/* Writes the table, and the file. Frees all. */
void zstd_file_finish(struct zstd_file *file, const char *path);

struct extent {
  uint64_t offset, length, stream;
  uint32_t kind;
};

/* The fields of an index. Those that are 0 get the right value. */
struct index_file {
  uint64_t length, stream;
  uint32_t flags, generation;
  const char *parent;
  const unsigned char *parent_id;
  const unsigned char *contents; /* of all the image, for the digests */
  const struct extent *extents;
  uint64_t count;
  unsigned char id[32]; /* is filled in */
};
/* The payload of an index. */
struct bytes index_make(struct index_file *index);
/* Computes the checksum at the end again, after a change. */
void index_seal(struct bytes *payload);

/* Opens an image of these files; NULL ends the list. */
uffd_image *imaging_open(const char *first, const char *second, const char *third);
/* Opening these files must be refused, with these words in the sentence. */
void imaging_refused(const char *first, const char *second, int error, const char *words);
/*
 * uffd_image_read() and the faults of a loop, from the last page to the first, must give these bytes and zeros after
 * them.
 */
void imaging_expect(uffd_image *image, const unsigned char *expected, uint64_t length);

#endif
