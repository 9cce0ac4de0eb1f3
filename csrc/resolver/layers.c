/*
 * Several resolvers side by side: a sorted list of extents without overlaps, made once from the layers. The gaps
 * between extents are zero.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "resolver/resolver.h"

struct extent {
  uint64_t start, end; /* where it lies */
  uffd_resolver *resolver;
  uint64_t origin; /* the resolver's offset for start */
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

/*
 * How far the extent answers in whole pages, counted from offset, where a page begins. It may end within a page if its
 * resolver ends there and no other extent begins there: the rest of that page is zeros. next: NULL after the last
 * extent.
 */
static uint64_t whole_end(const struct extent *extent, const struct extent *next, uint64_t offset, uint64_t page_size) {
  uint64_t length = extent->end - offset, rest = length % page_size;
  if (rest == 0) return extent->end;
  bool ends_with_resolver = extent->resolver->size - extent->origin <= extent->end - extent->start;
  bool room = next == NULL || next->start - extent->end >= page_size - rest;
  if (extent->end > UINT64_MAX - page_size || !ends_with_resolver || !room) return extent->end - rest;
  return extent->end - rest + page_size;
}

static int fail_unaligned(const struct extent *extent, uint64_t page_size) {
  return fail(EINVAL, "Layer %" PRIu64 "-%" PRIu64 " is not whole pages of %" PRIu64 " bytes.", extent->start,
              extent->end, page_size);
}

/* [low, high): the part of the wanted cover that is in the extent. */
static int ask_extent(const struct extent *extent, uint64_t low, uint64_t high, struct uffd_asker *asker,
                      const struct uffd_fault *fault, struct uffd_answer *answer) {
  struct uffd_fault inner = *fault;
  uint64_t shift = extent->origin - extent->start; /* modulo 2^64: added here, taken off below */
  inner.offset += shift;
  inner.cover_offset = low + shift;
  inner.cover_length = high - low;
  int result = uffd_resolver_ask(extent->resolver, asker, &inner, answer);
  if (result < 0) return result;
  uffd_clip(answer, low + shift, high + shift);
  answer->offset -= shift;
  return 0;
}

/*
 * check() has made sure that no border lies within a page. But a callback may hand over at an offset of its own, so it
 * is checked here too.
 */
static int ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  const struct layers *layers = (const struct layers *)resolver;
  uint64_t offset = fault->offset, page_size = fault->page_size, end = offset + page_size;
  uint64_t low = fault->cover_offset, high = fault->cover_offset + fault->cover_length;
  size_t i = find_extent(layers, offset);
  const struct extent *extent = i < layers->count ? &layers->extents[i] : NULL;
  const struct extent *next = extent == NULL ? layers->extents : i + 1 < layers->count ? extent + 1 : NULL;
  if (extent != NULL && offset < extent->end) {
    uint64_t limit = whole_end(extent, next, offset, page_size);
    if (limit < end) return fail_unaligned(extent, page_size);
    low = max_u64(low, offset - round_down(offset - extent->start, page_size));
    return ask_extent(extent, low, min_u64(high, limit), asker, fault, answer);
  }
  if (next != NULL && next->start < end) return fail_unaligned(next, page_size);
  low = extent == NULL ? 0 : extent->end;
  high = next == NULL ? UINT64_MAX : next->start - (next->start - offset) % page_size;
  uffd_cover(fault, low, high, answer);
  return 0;
}

static void want(const uffd_resolver *resolver, struct uffd_asker *asker, uint64_t offset, uint64_t length) {
  const struct layers *layers = (const struct layers *)resolver;
  uint64_t end = offset > UINT64_MAX - length ? UINT64_MAX : offset + length;
  size_t i = find_extent(layers, offset);
  for (i = i == layers->count ? 0 : i; i < layers->count && layers->extents[i].start < end; i++) {
    const struct extent *extent = &layers->extents[i];
    uint64_t low = max_u64(offset, extent->start), high = min_u64(end, extent->end);
    if (low < high) uffd_resolver_want(extent->resolver, asker, low - extent->start + extent->origin, high - low);
  }
}

/* The part of the extent in a range, from low on, must end at a page's end or at the end of the range. */
static int check_end(const struct extent *extent, const struct extent *next, uint64_t low, uint64_t end,
                     uint64_t page_size) {
  if (extent->end >= end || whole_end(extent, next, low, page_size) >= extent->end) return 0;
  uint64_t room = page_size - (extent->end - low) % page_size;
  if (next == NULL || next->start - extent->end >= room) return fail_unaligned(extent, page_size);
  return fail(EINVAL,
              "Layers %" PRIu64 "-%" PRIu64 " and %" PRIu64 "-%" PRIu64 " meet within a page of %" PRIu64 " bytes.",
              extent->start, extent->end, next->start, next->end, page_size);
}

/* Pages are counted from offset. What lies outside [offset, offset+length) does not matter. */
static int check(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset, uint64_t length) {
  const struct layers *layers = (const struct layers *)resolver;
  uint64_t end = offset + length, page_size = target->page_size;
  for (size_t i = 0; i < layers->count; i++) {
    const struct extent *extent = &layers->extents[i], *next = i + 1 < layers->count ? extent + 1 : NULL;
    uint64_t low = max_u64(offset, extent->start), high = min_u64(end, extent->end);
    if (low >= high) continue;
    if ((low - offset) % page_size != 0) return fail_unaligned(extent, page_size);
    int result = check_end(extent, next, low, end, page_size);
    if (result < 0) return result;
    result = uffd_resolver_check(extent->resolver, target, low - extent->start + extent->origin, high - low);
    if (result < 0) return result;
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

/* How many bytes the layer's resolver has, from the layer's first byte to the end of all offsets. */
static uint64_t reach(const struct uffd_layer *layer) {
  uint64_t size = layer->resolver->size, room = UINT64_MAX - layer->offset;
  return min_u64(size - layer->resolver_offset, room);
}

static int check_layer(const struct uffd_layer *layer) {
  if (layer->resolver == NULL) return fail(EINVAL, "The layer at offset %" PRIu64 " has no resolver.", layer->offset);
  int result = uffd_resolver_enter(layer->resolver);
  if (result < 0) return result;
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
  size_t first = 0; /* the first top that ends after the ground begins */
  for (size_t g = tops; g < count; g++) {
    const struct uffd_layer *ground = &sorted[g];
    uint64_t at = ground->offset, end = ground->offset + reach(ground);
    if (g + 1 < count) end = min_u64(end, sorted[g + 1].offset);
    while (first < tops && sorted[first].offset + sorted[first].length <= at) {
      first++;
    }
    for (size_t i = first; i < tops && sorted[i].offset < end; i++) {
      put(made, ground, at, sorted[i].offset);
      at = sorted[i].offset + sorted[i].length;
    }
    put(made, ground, at, end);
  }
  qsort(made->extents, made->count, sizeof(struct extent), compare_extents);
}

static int make(struct uffd_layer *sorted, size_t count, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {
      .kind = "layers", .ask = ask, .check = check, .want = want, .child = child, .destroy = destroy};
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
  for (size_t i = 0; i < count; i++) {
    int result = uffd_resolver_nest(&made->head, sorted[i].resolver);
    if (result == 0) continue;
    uffd_release(made, layers_size(capacity));
    return result;
  }
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
