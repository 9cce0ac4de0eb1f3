/*
 * Several resolvers side by side: a sorted list of extents without overlaps, made once from the layers. What lies
 * between them is zero.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "resolver/resolver.h"

struct extent {
  uint64_t start, end; /* where it lies */
  uffd_resolver *resolver;
  uint64_t origin; /* what its resolver is asked for start */
};

struct layers {
  uffd_resolver head;
  size_t count, capacity;
  struct extent extents[];
};

/* The last extent that begins at offset or before; count if there is none. */
static size_t find_extent(const struct layers *layers, uint64_t offset) {
  size_t low = 0, high = layers->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (layers->extents[middle].start <= offset) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low == 0 ? layers->count : low - 1;
}

/* An extent may end within a page where its resolver does: the rest of that page is its own zeros. */
static uint64_t whole_end(const struct extent *extent, uint64_t page_size) {
  return extent->end > UINT64_MAX - page_size ? extent->end : round_up(extent->end, page_size);
}

static int ask_extent(const struct extent *extent, uint64_t end, struct uffd_asker *asker,
                      const struct uffd_fault *fault, struct uffd_answer *answer) {
  struct uffd_fault inner = *fault;
  uint64_t shift = extent->origin - extent->start; /* modulo 2^64: added here, taken off below */
  uint64_t low = max_u64(fault->cover_offset, extent->start);
  inner.offset += shift;
  inner.cover_offset = low + shift;
  inner.cover_length = min_u64(fault->cover_offset + fault->cover_length, end) - low;
  int result = uffd_resolver_ask(extent->resolver, asker, &inner, answer);
  if (result < 0) return result;
  uffd_clip(answer, extent->origin, end + shift);
  answer->offset -= shift;
  return 0;
}

static int ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  const struct layers *layers = (const struct layers *)resolver;
  size_t i = find_extent(layers, fault->offset);
  uint64_t gap = 0;
  if (i < layers->count) {
    gap = whole_end(&layers->extents[i], fault->page_size);
    if (fault->offset < gap) return ask_extent(&layers->extents[i], gap, asker, fault, answer);
  }
  size_t next = i < layers->count ? i + 1 : 0;
  uffd_cover(fault, gap, next < layers->count ? layers->extents[next].start : UINT64_MAX, answer);
  return 0;
}

static int check_extent(const struct extent *extent, const struct uffd_target *target, uint64_t low, uint64_t high) {
  bool ends_with_resolver = extent->origin + (extent->end - extent->start) >= extent->resolver->size;
  bool aligned = extent->start % target->page_size == 0 &&
                 (extent->end % target->page_size == 0 || extent->end == UINT64_MAX || ends_with_resolver);
  if (!aligned) {
    return fail(EINVAL, "Layer %" PRIu64 "-%" PRIu64 " is not whole pages of %" PRIu64 " bytes.", extent->start,
                extent->end, target->page_size);
  }
  low = max_u64(low, extent->start);
  high = min_u64(high, extent->end);
  if (low >= high) return 0;
  return uffd_resolver_check(extent->resolver, target, low - extent->start + extent->origin, high - low);
}

static int check(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset, uint64_t length) {
  const struct layers *layers = (const struct layers *)resolver;
  for (size_t i = 0; i < layers->count; i++) {
    const struct extent *extent = &layers->extents[i], *next = extent + 1;
    int result = check_extent(extent, target, offset, offset + length);
    if (result < 0) return result;
    if (i + 1 < layers->count && next->start < whole_end(extent, target->page_size)) {
      return fail(EINVAL,
                  "Layers %" PRIu64 "-%" PRIu64 " and %" PRIu64 "-%" PRIu64 " meet within a page of %" PRIu64 " bytes.",
                  extent->start, extent->end, next->start, next->end, target->page_size);
    }
  }
  return 0;
}

static uffd_resolver *child(const uffd_resolver *resolver, size_t index) {
  const struct layers *layers = (const struct layers *)resolver;
  return index < layers->count ? layers->extents[index].resolver : NULL;
}

static size_t layers_size(size_t capacity) {
  return sizeof(struct layers) + capacity * sizeof(struct extent);
}

static void destroy(uffd_resolver *resolver) {
  struct layers *layers = (struct layers *)resolver;
  uffd_release(layers, layers_size(layers->capacity));
}

/* The bytes that a layer's resolver has from the layer's first byte on. */
static uint64_t reach(const struct uffd_layer *layer) {
  uint64_t size = layer->resolver->size;
  if (size == UINT64_MAX) return UINT64_MAX - max_u64(layer->offset, layer->resolver_offset);
  return size - layer->resolver_offset;
}

static int check_layer(const struct uffd_layer *layer) {
  if (layer->resolver == NULL) return fail(EINVAL, "The layer at offset %" PRIu64 " has no resolver.", layer->offset);
  if (layer->resolver_offset >= layer->resolver->size) {
    return fail(EINVAL, "The layer at offset %" PRIu64 " begins %" PRIu64 " bytes into a %s resolver of %" PRIu64 ".",
                layer->offset, layer->resolver_offset, layer->resolver->kind, layer->resolver->size);
  }
  if (layer->length > UINT64_MAX - layer->offset || layer->offset == UINT64_MAX) {
    return fail(EINVAL, "The layer at offset %" PRIu64 " overflows.", layer->offset);
  }
  uint64_t has = reach(layer); /* rounded up below: the last page's rest is zeros */
  if (layer->length > has && layer->length - has >= BASE_PAGE) {
    return fail(EINVAL,
                "Layer %" PRIu64 "-%" PRIu64 " is longer than its %s resolver, which has %" PRIu64 " bytes there.",
                layer->offset, layer->offset + layer->length, layer->resolver->kind, has);
  }
  return 0;
}

static int compare_layers(const void *a, const void *b) {
  const struct uffd_layer *left = a, *right = b;
  bool left_ground = left->length == 0, right_ground = right->length == 0;
  if (left_ground != right_ground) return left_ground ? 1 : -1; /* the tops first */
  return left->offset < right->offset ? -1 : left->offset > right->offset;
}

static int compare_extents(const void *a, const void *b) {
  const struct extent *left = a, *right = b;
  return left->start < right->start ? -1 : left->start > right->start;
}

static int check_overlap(const struct uffd_layer *layer, const struct uffd_layer *next) {
  bool same_kind = (layer->length == 0) == (next->length == 0);
  bool overlap = layer->length == 0 ? layer->offset == next->offset : layer->offset + layer->length > next->offset;
  if (!same_kind || !overlap) return 0;
  if (layer->length == 0)
    return fail(EINVAL, "Two layers without a length begin at offset %" PRIu64 ".", layer->offset);
  return fail(EINVAL, "Layers %" PRIu64 "-%" PRIu64 " and %" PRIu64 "-%" PRIu64 " overlap.", layer->offset,
              layer->offset + layer->length, next->offset, next->offset + next->length);
}

static void put(struct layers *made, const struct uffd_layer *layer, uint64_t start, uint64_t end) {
  if (start >= end) return;
  made->extents[made->count++] = (struct extent){
      .start = start,
      .end = end,
      .resolver = layer->resolver,
      .origin = layer->resolver_offset + (start - layer->offset),
  };
  uffd_resolver_hold(layer->resolver);
}

/* sorted: tops by offset, then grounds by offset. A ground goes between the tops, up to the next ground. */
static void flatten(struct layers *made, const struct uffd_layer *sorted, size_t tops, size_t count) {
  for (size_t i = 0; i < tops; i++) {
    put(made, &sorted[i], sorted[i].offset, sorted[i].offset + sorted[i].length);
  }
  for (size_t g = tops; g < count; g++) {
    const struct uffd_layer *ground = &sorted[g];
    uint64_t at = ground->offset, end = ground->offset + reach(ground);
    if (g + 1 < count) end = min_u64(end, sorted[g + 1].offset);
    for (size_t i = 0; i < tops; i++) {
      put(made, ground, at, min_u64(end, sorted[i].offset));
      at = max_u64(at, sorted[i].offset + sorted[i].length);
    }
    put(made, ground, at, end);
  }
  qsort(made->extents, made->count, sizeof(struct extent), compare_extents);
}

static int make(struct uffd_layer *sorted, size_t count, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {
      .kind = "layers", .ask = ask, .check = check, .child = child, .destroy = destroy};
  size_t tops = 0;
  qsort(sorted, count, sizeof(*sorted), compare_layers);
  for (size_t i = 0; i < count; i++) {
    int result = i + 1 < count ? check_overlap(&sorted[i], &sorted[i + 1]) : 0;
    if (result < 0) return result;
    if (sorted[i].length != 0) tops++;
  }
  size_t capacity = count + tops; /* each top cuts at most one ground in two */
  struct layers *made = uffd_alloc(layers_size(capacity));
  if (made == NULL) return fail(ENOMEM, "No memory for %zu layers.", count);
  uffd_resolver_init(&made->head, &class, UINT64_MAX);
  made->capacity = capacity;
  flatten(made, sorted, tops, count);
  *resolver = &made->head;
  return 0;
}

int uffd_resolver_layers(const struct uffd_layer *layers, size_t count, uffd_resolver **resolver) {
  *resolver = NULL;
  if (layers == NULL || count == 0) return fail(EINVAL, "No layers: give at least one.");
  for (size_t i = 0; i < count; i++) {
    int result = check_layer(&layers[i]);
    if (result < 0) return result;
  }
  if (count > SIZE_MAX / 4 / sizeof(struct extent)) return fail(ENOMEM, "%zu layers are too many.", count);
  struct uffd_layer *sorted = uffd_alloc(count * sizeof(*sorted));
  if (sorted == NULL) return fail(ENOMEM, "No memory for %zu layers.", count);
  memcpy(sorted, layers, count * sizeof(*sorted));
  int result = make(sorted, count, resolver);
  uffd_release(sorted, count * sizeof(*sorted));
  return result;
}
