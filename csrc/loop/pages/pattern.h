/*
 * Which faults follow each other: how far an answer should reach. A few streams, so that several threads can go through
 * one region; each grows while its accesses go on in one direction, and starts again at one page when they do not.
 */
#ifndef UFFD_LOOP_PATTERN_H
#define UFFD_LOOP_PATTERN_H

#include <stdatomic.h>
#include <stdint.h>

#define UFFD_STREAMS 4u

/* Offsets in the region. Written by whoever has a fault, without order: a lost update costs one smaller answer. */
struct uffd_stream {
  _Atomic uint64_t low, high; /* what was covered last */
  _Atomic uint64_t bytes;     /* how much that was meant to be; 0: unused */
};

struct uffd_pattern {
  struct uffd_stream streams[UFFD_STREAMS];
  _Atomic uint32_t hand; /* the stream that is replaced next */
};

/*
 * The range that the fault at offset should bring in: [*low, *high) holds the page, and lies within [0, limit). Returns
 * the stream that it belongs to; NULL: to none.
 */
struct uffd_stream *uffd_pattern_follow(struct uffd_pattern *pattern, uint64_t offset, uint64_t page_size,
                                        uint64_t limit, uint64_t *low, uint64_t *high);
/*
 * The stream goes on from another range, which was brought in or is there. bytes: what it grows from, at least a page;
 * 0: as before.
 */
void uffd_pattern_correct(struct uffd_stream *stream, uint64_t bytes, uint64_t low, uint64_t high);

#endif
