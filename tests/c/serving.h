/*
 * For tests of the loop: a loop with whoever drives it, memories of every kind, contents that can be recognised, and
 * callbacks that are functions of the test.
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
/* Of the loop: as many as its engine says, and inline before them the one that answers where nobody waits. */
uint32_t serving_handlers(const struct serving *serving);
/* The faulting thread answers for itself wherever a test asks for handler threads: UFFD_TEST_ENGINE=inline. */
bool serving_inline(void);
/* Skips there; why: what is promised of handlers only. A sentence. */
void serving_needs_handlers(const char *why);
/* An object of the test's, which a loop whose engine the test asks for handler threads can serve through. */
uffd_object *serving_object(uint64_t features);
/* A pump is stepped by a thread of its own from start to pause; other engines need neither. */
void serving_start(struct serving *serving);
void serving_pause(struct serving *serving);
void serving_close(struct serving *serving);
struct uffd_stats serving_stats(const uffd_loop *loop);
/* faults = missing + wp + minor, and so many pages and bytes were installed. */
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
/* All of them, those last that not everybody can have: a skip there leaves nothing out. */
extern const int memory_kinds[MEMORY_KINDS];
/* A memory of so many pages of its kind; borrows huge pages, or skips. */
uffd_memory *memory_make(int kind, uint64_t pages);
unsigned char *memory_at(uffd_memory *memory, uint64_t offset);
/* smaps: the flag ("um", "uw", "ui") is set at offset. */
bool memory_has(uffd_memory *memory, uint64_t offset, const char *flag);

/* Contents */

/* The byte of the image at offset: never 0, another one in every sector of 512 bytes. */
unsigned image_byte(uint64_t offset);
unsigned char *image_make(uint64_t length);
uffd_resolver *image_resolver(uint64_t length);
/* [at, at+length) holds the image from offset on. Every byte is read. */
bool image_there(const unsigned char *at, uint64_t offset, uint64_t length);

/* Regions */

/* All of the memory, or as opts say, from the resolver, which is closed here: the region holds it. */
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
