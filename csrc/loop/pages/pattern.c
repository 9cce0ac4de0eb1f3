/*
 * Following sequential accesses, forwards, backwards and with small strides.
 */
#include "loop/pages/pattern.h"

#include <stdbool.h>

#include "memory/memory.h"

#define GROWN_BYTES HUGE_PAGE
#define STRIDE      8u /* pages: the next fault may leave out so many; more is not worth covering */

static uint64_t get(const _Atomic uint64_t *field) {
  return atomic_load_explicit(field, memory_order_relaxed);
}
static void set(_Atomic uint64_t *field, uint64_t value) {
  atomic_store_explicit(field, value, memory_order_relaxed);
}

static void keep(struct uffd_stream *stream, uint64_t bytes, uint64_t low, uint64_t high) {
  set(&stream->bytes, bytes);
  set(&stream->low, low);
  set(&stream->high, high);
}

/*
 * Twice as much as last time, ending at a multiple of itself: whole blocks then lie where huge pages do. The
 * subtraction wraps to a huge distance when the fault is not beyond what was covered.
 */
static bool goes_forward(struct uffd_stream *stream, uint64_t offset, uint64_t page_size, uint64_t *low,
                         uint64_t *high) {
  uint64_t bytes = get(&stream->bytes);
  if (bytes == 0 || offset - get(&stream->high) >= STRIDE * page_size) return false;
  bytes = min_u64(bytes * 2, max_u64(GROWN_BYTES, page_size));
  *low = offset;
  *high = max_u64(round_down(offset + bytes, bytes), offset + page_size);
  keep(stream, bytes, *low, *high);
  return true;
}

static bool goes_backward(struct uffd_stream *stream, uint64_t offset, uint64_t page_size, uint64_t *low,
                          uint64_t *high) {
  uint64_t bytes = get(&stream->bytes);
  if (bytes == 0 || get(&stream->low) - (offset + page_size) >= STRIDE * page_size) return false;
  bytes = min_u64(bytes * 2, max_u64(GROWN_BYTES, page_size));
  *high = offset + page_size;
  *low = *high > bytes ? min_u64(round_up(*high - bytes, bytes), offset) : 0;
  keep(stream, bytes, *low, *high);
  return true;
}

/* A new one takes the place of one that has not grown, so that random faults between do not end a sequence. */
static struct uffd_stream *replace(struct uffd_pattern *pattern, uint64_t page_size) {
  uint32_t hand = atomic_fetch_add_explicit(&pattern->hand, 1, memory_order_relaxed);
  for (uint32_t i = 0; i < UFFD_STREAMS; i++) {
    struct uffd_stream *stream = &pattern->streams[(hand + i) % UFFD_STREAMS];
    if (get(&stream->bytes) <= page_size) return stream;
  }
  struct uffd_stream *stream = &pattern->streams[hand % UFFD_STREAMS];
  set(&stream->bytes, get(&stream->bytes) / 2); /* all have grown: the oldest must prove itself again */
  return get(&stream->bytes) <= page_size ? stream : NULL;
}

struct uffd_stream *uffd_pattern_follow(struct uffd_pattern *pattern, uint64_t offset, uint64_t page_size,
                                        uint64_t limit, uint64_t *low, uint64_t *high) {
  for (uint32_t i = 0; i < UFFD_STREAMS; i++) {
    struct uffd_stream *stream = &pattern->streams[i];
    if (goes_forward(stream, offset, page_size, low, high) || goes_backward(stream, offset, page_size, low, high)) {
      *high = min_u64(*high, limit);
      return stream;
    }
  }
  *low = offset;
  *high = offset + page_size;
  struct uffd_stream *stream = replace(pattern, page_size);
  if (stream != NULL) keep(stream, page_size, *low, *high);
  return stream;
}

void uffd_pattern_correct(struct uffd_stream *stream, uint64_t bytes, uint64_t low, uint64_t high) {
  if (bytes != 0) bytes = min_u64(UINT64_C(1) << (63 - __builtin_clzll(bytes)), GROWN_BYTES);
  keep(stream, bytes != 0 ? bytes : get(&stream->bytes), low, high);
}
