/*
 * For tests of CRIU's dumps: image directories that the test writes byte by byte, as CRIU does. Pages can be recognised
 * by their address and a seed.
 */
#ifndef UFFD_TESTS_DUMPING_H
#define UFFD_TESTS_DUMPING_H

#include "check.h"

#define DUMP_PAGE UINT64_C(4096)

#define DUMP_COMMON  0x54564319u
#define DUMP_PSTREE  0x50273030u
#define DUMP_MM      0x57492820u
#define DUMP_PAGEMAP 0x56084025u

enum { DUMP_PARENT = 1, DUMP_LAZY = 2, DUMP_PRESENT = 4 };
#define DUMP_ANON 0x22u /* MAP_PRIVATE | MAP_ANONYMOUS */

/* Bytes that grow: a message, or a file. */
struct dump_bytes {
  unsigned char *at;
  size_t length, room;
};
void dump_add(struct dump_bytes *bytes, const void *more, size_t length);
void dump_u32(struct dump_bytes *bytes, uint32_t value);
void dump_number(struct dump_bytes *message, unsigned field, uint64_t value);
void dump_message(struct dump_bytes *message, unsigned field, struct dump_bytes *inner); /* frees inner */
void dump_begin(struct dump_bytes *file, uint32_t magic);
void dump_record(struct dump_bytes *file, struct dump_bytes *record);               /* frees the record */
void dump_write(const char *directory, const char *name, struct dump_bytes *bytes); /* frees them */

struct dump_vma {
  uint64_t start, pages;
  uint32_t flags; /* MAP_*; 0: DUMP_ANON */
  uint32_t status;
};
struct dump_run { /* pages of one pagemap entry */
  uint64_t start, pages;
  uint32_t flags;
  uint32_t seed; /* PRESENT: of their contents */
  bool old;      /* as old versions wrote it: without flags and nr_pages, in_parent for PARENT */
};

/* A directory of its own, which is removed at the end of the program. */
const char *dump_directory(void);
void dump_parent(const char *directory, const char *parent); /* makes the symbolic link */
void dump_pstree(const char *directory, const int32_t *pids, size_t count);
void dump_mm(const char *directory, int32_t pid, const struct dump_vma *vmas, size_t count);
/* pagemap-PID.img and pages-ID.img */
void dump_pages(const char *directory, int32_t pid, uint32_t id, const struct dump_run *runs, size_t count);

/* The page at an address: never zero. */
void dump_fill(void *page, uint64_t address, uint32_t seed);
bool dump_is(const void *page, uint64_t address, uint32_t seed);

#endif
