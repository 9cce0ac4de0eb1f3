/*
 * Sorted arrays of ranges, and the ranges that are registered through an object. Closing unregisters these ranges
 * explicitly, because closing the descriptor does not while a forked child holds a copy of it.
 */
#include <string.h>

#include "kernel/create.h"
#include "kernel/object.h"

struct uffd_span *uffd_spans_first(struct uffd_spans *spans) {
  return spans->capacity > 1 ? spans->many : &spans->one;
}

int uffd_spans_reserve(struct uffd_spans *spans) {
  if (spans->capacity == 0) spans->capacity = 1;
  if (spans->count < spans->capacity) return 0;
  size_t capacity = spans->capacity > 1 ? 2 * spans->capacity : BASE_PAGE / sizeof(struct uffd_span);
  /*
   * Not from malloc: a thread that reads events may register as well, while a fork() that waits for it holds malloc's
   * locks. The pages are touched at once: the kernel may have put them into a hole of the range that is registered
   * next.
   */
  size_t length = capacity * sizeof(struct uffd_span);
  struct uffd_span *many = uffd_pages_map(length);
  if (many == NULL) return -ENOMEM;
  memset(many, 0, length);
  memcpy(many, uffd_spans_first(spans), spans->count * sizeof(*many));
  uffd_spans_unmap(spans);
  spans->many = many;
  spans->capacity = capacity;
  return 0;
}

void uffd_spans_unmap(struct uffd_spans *spans) {
  if (spans->capacity > 1) uffd_pages_unmap(spans->many, spans->capacity * sizeof(*spans->many));
}

/* The index of the first span that ends after address. The search begins at the end, where programs mostly add. */
static size_t find_span(struct uffd_spans *spans, uint64_t address) {
  const struct uffd_span *all = uffd_spans_first(spans);
  size_t i = spans->count;
  while (i > 0 && all[i - 1].end > address)
    i--;
  return i;
}

/* Replaces the spans from first up to last by count others. */
static void replace_spans(struct uffd_spans *spans, size_t first, size_t last, const struct uffd_span *by,
                          size_t count) {
  struct uffd_span *at = uffd_spans_first(spans) + first;
  memmove(at + count, at + (last - first), (spans->count - last) * sizeof(*at));
  if (count > 0) memcpy(at, by, count * sizeof(*at));
  spans->count = spans->count - (last - first) + count;
}

void uffd_spans_add(struct uffd_spans *spans, uint64_t start, uint64_t end) {
  const struct uffd_span *all = uffd_spans_first(spans);
  size_t first = find_span(spans, start), last = first;
  struct uffd_span merged = {start, end};
  for (; last < spans->count && all[last].start < end; last++) {
    merged.start = min_u64(merged.start, all[last].start);
    merged.end = max_u64(merged.end, all[last].end);
  }
  replace_spans(spans, first, last, &merged, 1);
}

void uffd_spans_remove(struct uffd_spans *spans, uint64_t start, uint64_t end) {
  const struct uffd_span *all = uffd_spans_first(spans);
  size_t first = find_span(spans, start), last = first, count = 0;
  struct uffd_span rest[2];
  for (; last < spans->count && all[last].start < end; last++) {
    const struct uffd_span *span = &all[last];
    if (span->start < start) rest[count++] = (struct uffd_span){span->start, start};
    if (span->end > end) rest[count++] = (struct uffd_span){end, span->end};
  }
  if (last > first) replace_spans(spans, first, last, rest, count);
}

/*
 * The range may have been unmapped, mapped again, and registered with another userfaultfd. Since 6.17 the kernel
 * refuses to unregister it through this object; before, only an attempt to register tells whose it is.
 */
static bool is_another_s(const struct uffd_object *object, uint64_t start, uint64_t length) {
  return !uffd_kernel_at_least(6, 17) &&
         uffd_raw_register(object->fd, start, length, UFFD_MODE_MISSING, NULL) == -EBUSY;
}

void uffd_drop_spans(struct uffd_object *object) {
  pthread_mutex_lock(&object->registering);
  /* An adopted object is not unregistered: its maker may serve through a duplicate. */
  bool ours = object->route != UFFD_ROUTE_ADOPTED || object->home != NULL;
  const struct uffd_span *all = uffd_spans_first(&object->spans);
  for (size_t i = 0; i < object->spans.count && ours; i++) {
    uint64_t start = all[i].start, length = all[i].end - start;
    if (is_another_s(object, start, length)) continue;
    uffd_raw_unregister(object->fd, start, length);
    uffd_raw_wake(object->fd, start, length);
  }
  object->spans.count = 0;
  pthread_mutex_unlock(&object->registering);
}

void uffd_inherit_spans(struct uffd_object *child, struct uffd_object *parent) {
  pthread_mutex_lock(&parent->registering);
  struct uffd_spans copy = parent->spans;
  if (copy.capacity > 1) {
    size_t length = copy.capacity * sizeof(struct uffd_span);
    copy.many = uffd_pages_map(length);
    if (copy.many != NULL) memcpy(copy.many, parent->spans.many, length);
  }
  if (copy.capacity <= 1 || copy.many != NULL) child->spans = copy;
  pthread_mutex_unlock(&parent->registering);
}

void uffd_follow_spans(struct uffd_object *object, const struct uffd_event *event) {
  if (event->type != UFFD_REMAP && event->type != UFFD_UNMAP) return;
  pthread_mutex_lock(&object->registering);
  if (object->spans.count > 0 && uffd_spans_reserve(&object->spans) == 0) {
    if (event->type == UFFD_REMAP) uffd_spans_add(&object->spans, event->to, event->to + event->length);
    if (event->type == UFFD_UNMAP) uffd_spans_remove(&object->spans, event->address, event->address + event->length);
  }
  pthread_mutex_unlock(&object->registering);
}
