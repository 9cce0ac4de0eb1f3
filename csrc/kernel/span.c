/*
 * The ranges registered through an object: a sorted array. Closing unregisters them explicitly, because closing the
 * descriptor does not while somebody else (a forked child) holds a copy of it.
 */
#include <string.h>

#include "kernel/create.h"
#include "kernel/object.h"

/* A change adds one span at most: a new one, or the second half of one that is cut in two. No sentence. */
int uffd_reserve_span(struct uffd_object *object) {
  if (object->span_count < object->span_capacity) return 0;
  size_t capacity = object->span_capacity > 0 ? 2 * object->span_capacity : BASE_PAGE / sizeof(struct uffd_span);
  /*
   * Not from malloc: whoever reads events may register as well, while a fork() that waits for him holds its locks. And
   * touched all over: the kernel may map it into a hole of the very range that is about to be registered.
   */
  size_t length = capacity * sizeof(struct uffd_span);
  struct uffd_span *spans = uffd_pages_map(length);
  if (spans == NULL) return -ENOMEM;
  memset(spans, 0, length);
  if (object->span_count > 0) memcpy(spans, object->spans, object->span_count * sizeof(*spans));
  uffd_pages_unmap(object->spans, object->span_capacity * sizeof(*spans));
  object->spans = spans;
  object->span_capacity = capacity;
  return 0;
}

/* The index of the first span that ends after address. Searched from the end, where programs mostly add. */
static size_t find_span(const struct uffd_object *object, uint64_t address) {
  size_t i = object->span_count;
  while (i > 0 && object->spans[i - 1].end > address)
    i--;
  return i;
}

/* Puts count spans in the place of those from first up to last. */
static void replace_spans(struct uffd_object *object, size_t first, size_t last, const struct uffd_span *by,
                          size_t count) {
  struct uffd_span *at = object->spans + first;
  memmove(at + count, object->spans + last, (object->span_count - last) * sizeof(*at));
  if (count > 0) memcpy(at, by, count * sizeof(*at));
  object->span_count = object->span_count - (last - first) + count;
}

void uffd_add_span(struct uffd_object *object, uint64_t start, uint64_t end) {
  size_t first = find_span(object, start), last = first;
  struct uffd_span merged = {start, end};
  for (; last < object->span_count && object->spans[last].start < end; last++) {
    merged.start = min_u64(merged.start, object->spans[last].start);
    merged.end = max_u64(merged.end, object->spans[last].end);
  }
  replace_spans(object, first, last, &merged, 1);
}

void uffd_remove_span(struct uffd_object *object, uint64_t start, uint64_t end) {
  size_t first = find_span(object, start), last = first, count = 0;
  struct uffd_span rest[2];
  for (; last < object->span_count && object->spans[last].start < end; last++) {
    const struct uffd_span *span = &object->spans[last];
    if (span->start < start) rest[count++] = (struct uffd_span){span->start, start};
    if (span->end > end) rest[count++] = (struct uffd_span){end, span->end};
  }
  if (last > first) replace_spans(object, first, last, rest, count);
}

/*
 * Unmapped, mapped anew and registered by another userfaultfd: since 6.17 the kernel keeps us from unregistering it,
 * before that only registering shows whose it is.
 */
static bool is_another_s(const struct uffd_object *object, uint64_t start, uint64_t length) {
  return !uffd_kernel_at_least(6, 17) &&
         uffd_raw_register(object->fd, start, length, UFFD_MODE_MISSING, NULL) == -EBUSY;
}

void uffd_drop_spans(struct uffd_object *object) {
  pthread_mutex_lock(&object->registering);
  /* What was adopted is its maker's affair: a duplicate kept elsewhere may go on serving it. */
  bool ours = object->route != UFFD_ROUTE_ADOPTED || object->home != NULL;
  for (size_t i = 0; i < object->span_count && ours; i++) {
    uint64_t start = object->spans[i].start, length = object->spans[i].end - start;
    if (is_another_s(object, start, length)) continue;
    uffd_raw_unregister(object->fd, start, length);
    uffd_raw_wake(object->fd, start, length);
  }
  object->span_count = 0;
  pthread_mutex_unlock(&object->registering);
}

void uffd_inherit_spans(struct uffd_object *child, struct uffd_object *parent) {
  pthread_mutex_lock(&parent->registering);
  size_t length = parent->span_capacity * sizeof(struct uffd_span);
  child->spans = length > 0 ? uffd_pages_map(length) : NULL;
  if (child->spans != NULL) {
    memcpy(child->spans, parent->spans, length);
    child->span_count = parent->span_count;
    child->span_capacity = parent->span_capacity;
  }
  pthread_mutex_unlock(&parent->registering);
}

void uffd_follow_spans(struct uffd_object *object, const struct uffd_event *event) {
  if (event->type != UFFD_REMAP && event->type != UFFD_UNMAP) return;
  pthread_mutex_lock(&object->registering);
  if (object->span_count > 0 && uffd_reserve_span(object) == 0) {
    if (event->type == UFFD_REMAP) uffd_add_span(object, event->to, event->to + event->length);
    if (event->type == UFFD_UNMAP) uffd_remove_span(object, event->address, event->address + event->length);
  }
  pthread_mutex_unlock(&object->registering);
}
