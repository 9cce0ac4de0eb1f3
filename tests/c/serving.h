/*
 * For tests of the loop: a loop and its driver, memories of every kind, contents that can be recognised, and callbacks
 * that are functions of the test.
 */
#ifndef UFFD_TESTS_SERVING_H
#define UFFD_TESTS_SERVING_H

#include "check.h"

/* The loop and its driver */

enum { ENGINE_ONE, ENGINE_TWO, ENGINE_FIVE, ENGINE_PUMP, ENGINES };

struct serving {
  uffd_loop *loop;
  int engine;
  struct check_thread driver; /* steps a pump */
  _Atomic bool stop, drives;
  bool driven;
};
/* Makes the loop (opts: NULL, or its engine and handlers are overwritten); skips where the features are not to be had.
 */
void serving_open(struct serving *serving, int engine, const struct uffd_loop_opts *opts);
bool serving_is_inline(const struct serving *serving);
/*
 * How many handlers the loop has: as many as its engine says. Inline there is one more before them, which answers where
 * no thread waits.
 */
uint32_t serving_handlers(const struct serving *serving);
/* True with UFFD_TEST_ENGINE=inline: the inline engine stands in for handler threads in all tests. */
bool serving_inline(void);
/* Skips the test with the inline engine. why: what only handlers promise, a sentence. */
void serving_needs_handlers(const char *why);
/* An object of the test's own for a loop that the test opens with handler threads (or inline, see serving_inline()). */
uffd_object *serving_object(uint64_t features);
/* Between start and pause a thread steps a pump. Other engines do not need it. */
void serving_start(struct serving *serving);
void serving_pause(struct serving *serving);
void serving_close(struct serving *serving);
struct uffd_stats serving_stats(const uffd_loop *loop);
/*
 * When all faults that were read are answered to the end. A page's sleeper goes on as soon as its page is there, and
 * the rest of the cover may still be on its way, or be counted and not go in.
 */
struct uffd_stats serving_settled(const uffd_loop *loop);
/* Checks that faults = missing + wp + minor, and the counts of pages and bytes that were installed. */
void serving_adds_up(const uffd_loop *loop, uint64_t page_size);

/* Memories */

enum {
  MEMORY_ANON,
  MEMORY_THP,
  MEMORY_MEMFD,
  MEMORY_MEMFD_PRIVATE,
  MEMORY_HUGETLB,
  MEMORY_HUGETLB_PRIVATE,
  MEMORY_ADOPTED,
  MEMORY_KINDS
};
/* All kinds. Those that not every user can have come last, so that a skip leaves nothing else out. */
extern const int memory_kinds[MEMORY_KINDS];
/* A memory of so many pages of its kind. Huge pages are lent for it, or the test is skipped. */
uffd_memory *memory_make(int kind, uint64_t pages);
unsigned char *memory_at(uffd_memory *memory, uint64_t offset);
/* True if smaps shows the flag ("um", "uw", "ui") at offset. */
bool memory_has(uffd_memory *memory, uint64_t offset, const char *flag);

/* Contents */

/* The byte of the image at offset: never 0, another one in every sector of 512 bytes. */
unsigned image_byte(uint64_t offset);
unsigned char *image_make(uint64_t length);
uffd_resolver *image_resolver(uint64_t length);
/* True if [at, at+length) holds the image from offset on. Reads every byte. */
bool image_there(const unsigned char *at, uint64_t offset, uint64_t length);

/* Regions */

/* Adds the whole memory, or what opts say, with this resolver. Closes the resolver: the region holds it. */
uffd_region *region_add(uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver,
                        const struct uffd_region_opts *opts);

/* Callbacks: answer is asked for each fault; hits counts the calls */

struct asked {
  int (*answer)(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer);
  void *ctx;
  _Atomic unsigned hits;
};
uffd_resolver *asked_resolver(struct asked *asked);

#endif
