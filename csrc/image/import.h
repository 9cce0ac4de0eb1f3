/*
 * Importing: other programs' snapshots become layers. What they hold is looked at here; the layer is written by the
 * store of layers, and appears when all of it is there.
 */
#ifndef UFFD_IMAGE_IMPORT_H
#define UFFD_IMAGE_IMPORT_H

#include "image/image.h"

/* An import under way. */
struct uffd_importing {
  struct uffd_import_opts opts;
  struct uffd_import_counts counts;
  uffd_store *store;
  uint64_t length; /* of the image, bytes */
  char *buffer;    /* UFFD_IMPORT_STEP bytes */
};
#define UFFD_IMPORT_STEP (UINT64_C(1) << 20)

/* Makes the layer's store. below: NULL, what the options say. */
int uffd_importing_begin(struct uffd_importing *importing, const char *path, const struct uffd_import_opts *opts,
                         uint64_t length, uint64_t page_size, uffd_image *below);
/* [offset, offset+length) of the image: zero, as below, or so many bytes of a file from at on. Progress is told. */
int uffd_importing_zero(struct uffd_importing *importing, uint64_t offset, uint64_t length);
int uffd_importing_below(struct uffd_importing *importing, uint64_t offset, uint64_t length);
int uffd_importing_copy(struct uffd_importing *importing, uint64_t offset, uint64_t length, int fd, const char *name,
                        uint64_t at);
/* Finishes the layer when result is 0; frees all. Tells the counts. The result. */
int uffd_importing_end(struct uffd_importing *importing, int result, struct uffd_import_counts *counts);

/* e2b.c: a header of E2B, version 3. */
struct uffd_e2b_run {
  uint64_t offset, length; /* in the image */
  uint64_t at;             /* in the data of its build */
  unsigned char build[16]; /* zeros: the run is zero */
};
struct uffd_e2b_header {
  uint64_t block_size, length;
  size_t count;
  struct uffd_e2b_run *runs; /* sorted, without gaps, from 0 to length */
};
/* 0; -EINVAL and a sentence that begins with name. Frees nothing that was there. */
int uffd_e2b_parse(const unsigned char *bytes, uint64_t length, const char *name, struct uffd_e2b_header *header);
void uffd_e2b_free(struct uffd_e2b_header *header);

#endif
