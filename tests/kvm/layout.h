/*
 * What the guest and its monitor agree on: where memory is, what it holds, how one asks the other.
 */
#ifndef UFFD_KVM_LAYOUT_H
#define UFFD_KVM_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_SHIFT 12
#define PAGE       (UINT64_C(1) << PAGE_SHIFT)
#define WORDS      (PAGE / sizeof(uint64_t))
#define CPUS       2u

/* Two regions with a gap below 4 GiB between them, where a PC has its devices. Pages are numbered through both. */
#define LOW_BYTES  (UINT64_C(48) << 20)
#define HIGH_BASE  (UINT64_C(4) << 30)
#define HIGH_BYTES (UINT64_C(16) << 20)
#define LOW_PAGES  (LOW_BYTES >> PAGE_SHIFT)
#define PAGES      ((LOW_BYTES + HIGH_BYTES) >> PAGE_SHIFT)

/* The first pages are the machine's own, in the image like everything else. */
#define SHARED      (1 * PAGE) /* what the processors tell each other */
#define PAGE_TABLES (2 * PAGE) /* four of them */
#define STACKS      (6 * PAGE) /* a page a processor; they grow down from its end */
#define CODE        (8 * PAGE)
#define FIRST_PAGE  16u /* from here on the pages are walked */

static inline uint64_t address_of(uint64_t page) {
  return page < LOW_PAGES ? page * PAGE : HIGH_BASE + (page - LOW_PAGES) * PAGE;
}

/* What the image holds: no word twice, and none of them 0. */
static inline uint64_t word_of(uint64_t page, uint64_t index) {
  return (page * WORDS + index + 1) * UINT64_C(0x9E3779B97F4A7C15);
}

/* Every 8th block of 64 pages is given back to the monitor while the guest runs. */
#define BLOCK_PAGES 64u
#define BLOCKS      (PAGES / BLOCK_PAGES)
#define IS_GIVEN(b) ((b) % 8 == 7)

/* Some of the others are read from a disk: the monitor's read(2) puts the complement of what the image holds there. */
static inline bool is_from_disk(uint64_t page) {
  return page % 256 == 100;
}

/* The guest asks with a write to one of these ports; rdi, rsi and rcx say more. */
enum {
  PORT_GIVE = 0x10, /* block rdi is not needed any more */
  PORT_DISK = 0x11, /* fill page rdi from the disk */
  PORT_DONE = 0x12, /* this processor has looked at rdi pages, has written to rsi, and all were right */
  PORT_WRONG = 0x13 /* word rsi of page rdi is rcx */
};

#endif
