/* A working set: what the files of this room share. */
#ifndef UFFD_SERVE_WORKINGSET_H
#define UFFD_SERVE_WORKINGSET_H

#include "base/base.h"
#include "serve/workingset/pageset.h"
#include "uffd_pager.h"

/* A record, in memory and in the file: the page's index in the low bits, the kind of access in the high ones. */
#define RECORD_KIND_SHIFT   56u
#define RECORD_KINDS        UINT64_C(0xff)
#define RECORD_PAGE(record) ((record) & ((UINT64_C(1) << RECORD_KIND_SHIFT) - 1))
#define RECORD_KIND(record) ((record) >> RECORD_KIND_SHIFT)

struct uffd_workingset {
  uint64_t page_size, image_length, image_identity;
  uint64_t *records;
  uint64_t count, capacity;
  struct uffd_pageset pages; /* of the records */
};

/* The number of pages of an image; the last page may be partial. */
static inline uint64_t pages_of(uint64_t length, uint64_t page_size) {
  return (length - 1) / page_size + 1;
}

/* Adds a record whose page is inside the image: 1; 0 when the page is in the set already; -ENOMEM. */
int uffd_workingset_add_record(uffd_workingset *set, uint64_t record);

/* workingset_file.c: loading in two steps, so that a file is opened once and read in several processes. */
int uffd_workingset_open(const char *path); /* a descriptor, or -errno with a sentence */
/* As uffd_workingset_load(). fd stays the caller's, and keeps its position; path is for sentences. */
int uffd_workingset_read(int fd, const char *path, uffd_workingset **set);

/*
 * identity.c: the identity of contents of so many bytes, which read gives: 0, or -errno with a sentence. length is at
 * most 4096. The identity is that of a file of the same contents.
 */
typedef int uffd_sample_fn(void *ctx, uint64_t offset, unsigned char *bytes, uint64_t length);
int uffd_identity_by(uffd_sample_fn *read, void *ctx, uint64_t length, uint64_t *identity);

/* FNV-1a, 64 bits. hash: FNV_BASIS at first, then the last result. */
#define FNV_BASIS UINT64_C(0xcbf29ce484222325)
uint64_t uffd_fnv(uint64_t hash, const void *bytes, size_t length);

#endif
