/*
 * A stack of layers: does each fit on the one below it, and which layer does each page come from? The answer is made
 * once, so that a fault costs the same at any depth.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "image/image.h"
#include "image/remote/uri.h"

/* What no layer from the top down has told yet, sorted. */
struct gap {
  uint64_t start, end;
};
struct gaps {
  struct gap *list;
  size_t count, room;
};

static void *grow(void *list, size_t count, size_t *room, size_t item) {
  size_t more = *room == 0 ? 64 : *room * 2;
  void *larger = uffd_alloc(more * item);
  if (larger == NULL) return NULL;
  if (count > 0) memcpy(larger, list, count * item);
  uffd_release(list, *room * item);
  *room = more;
  return larger;
}

static int add_gap(struct gaps *gaps, uint64_t start, uint64_t end) {
  if (gaps->count > 0 && gaps->list[gaps->count - 1].end == start) {
    gaps->list[gaps->count - 1].end = end;
    return 0;
  }
  if (gaps->count == gaps->room) {
    void *list = grow(gaps->list, gaps->count, &gaps->room, sizeof(*gaps->list));
    if (list == NULL) return fail(ENOMEM, "No memory for the map of an image.");
    gaps->list = list;
  }
  gaps->list[gaps->count++] = (struct gap){start, end};
  return 0;
}

static int add_piece(uffd_image *image, const struct uffd_piece *piece) {
  if (image->pieces_count == image->pieces_room) {
    void *list = grow(image->pieces, image->pieces_count, &image->pieces_room, sizeof(*image->pieces));
    if (list == NULL) return fail(ENOMEM, "No memory for the map of an image.");
    image->pieces = list;
  }
  image->pieces[image->pieces_count++] = *piece;
  return 0;
}

/* What the layer has of one gap: pieces, and smaller gaps for the layers below. */
static int fill_gap(uffd_image *image, size_t number, const struct gap *gap, struct gaps *left) {
  const struct uffd_index *index = &image->layers[number]->index;
  uint64_t at = gap->start, end = min_u64(gap->end, index->length);
  for (size_t i = at < end ? uffd_index_find(index, at) : 0; at < end; i++) {
    const struct uffd_index_extent *extent = &index->extents[i];
    uint64_t stop = min_u64(extent->offset + extent->length, end);
    struct uffd_piece piece = {at, 0, (uint16_t)number, (uint16_t)extent->kind, 0};
    if (extent->kind == UFFD_IMAGE_DATA) piece.stream_offset = extent->stream_offset + (at - extent->offset);
    int result = extent->kind == UFFD_IMAGE_BELOW ? add_gap(left, at, stop) : add_piece(image, &piece);
    if (result < 0) return result;
    at = stop;
  }
  if (at >= gap->end) return 0;
  struct uffd_piece rest = {at, 0, (uint16_t)number, UFFD_IMAGE_ZERO, 0}; /* of the last page, beyond the layer's end */
  return add_piece(image, &rest);
}

static int compare(const void *a, const void *b) {
  const struct uffd_piece *left = a, *right = b;
  return left->offset < right->offset ? -1 : left->offset > right->offset;
}

static void join(uffd_image *image) {
  size_t count = 0;
  for (size_t i = 0; i < image->pieces_count; i++) {
    struct uffd_piece *last = count == 0 ? NULL : &image->pieces[count - 1], *piece = &image->pieces[i];
    bool same = last != NULL && last->kind == piece->kind && last->layer == piece->layer;
    bool follows = same && (piece->kind == UFFD_IMAGE_ZERO ||
                            piece->stream_offset - last->stream_offset == piece->offset - last->offset);
    if (!follows) image->pieces[count++] = *piece;
  }
  image->pieces_count = count;
}

/* From the top down: each layer fills what those above it have left. */
static int resolve(uffd_image *image) {
  struct gaps gaps = {.count = 0}, left = {.count = 0};
  int result = add_gap(&gaps, 0, image->length);
  for (size_t number = image->count; result == 0 && number > 0 && gaps.count > 0; number--) {
    for (size_t i = 0; result == 0 && i < gaps.count; i++) {
      result = fill_gap(image, number - 1, &gaps.list[i], &left);
    }
    struct gaps done = gaps;
    gaps = left;
    left = done;
    left.count = 0;
  }
  uffd_release(gaps.list, gaps.room * sizeof(*gaps.list));
  uffd_release(left.list, left.room * sizeof(*left.list));
  if (result < 0) return result;
  qsort(image->pieces, image->pieces_count, sizeof(*image->pieces), compare);
  join(image);
  struct uffd_piece end = {image->length, 0, 0, UFFD_IMAGE_BELOW, 0};
  result = add_piece(image, &end);
  image->pieces_count -= result == 0;
  return result;
}

size_t uffd_stack_find(const uffd_image *image, uint64_t offset) {
  size_t low = 0, high = image->pieces_count;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (image->pieces[middle].offset <= offset) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

static bool has_parent(const struct uffd_layer_file *layer) {
  return (layer->index.flags & UFFD_INDEX_HAS_PARENT) != 0;
}

/* Must the layer be below the one above it? */
static int check_pair(const struct uffd_layer_file *layer, const struct uffd_layer_file *above) {
  const struct uffd_index *index = &layer->index, *upper = &above->index;
  if (!has_parent(above)) {
    return fail(EINVAL, "%s is a whole image, not an increment: nothing of %s, below it, would be seen.", above->path,
                layer->path);
  }
  if (index->digest == UFFD_DIGEST_NONE) {
    return fail(EINVAL,
                "%s has no index, so that nothing tells whether it is the parent of %s: make one with `uffd-lua image "
                "index`.",
                layer->path, above->path);
  }
  if (memcmp(index->id, upper->parent_id, sizeof(index->id)) != 0) {
    return fail(EINVAL, "%s is not the parent that %s was made on: its contents are others.", layer->path, above->path);
  }
  if (index->page_size != upper->page_size) {
    return fail(EINVAL, "%s has pages of %" PRIu64 " bytes, and %s on it of %" PRIu64 ".", layer->path,
                index->page_size, above->path, upper->page_size);
  }
  for (size_t i = 0; i < upper->extents_count; i++) {
    const struct uffd_index_extent *extent = &upper->extents[i];
    if (extent->kind == UFFD_IMAGE_BELOW &&
        extent->offset + extent->length > round_up(index->length, index->page_size)) {
      return fail(EINVAL, "%s needs %" PRIu64 " bytes of its parent %s, which has %" PRIu64 ".", above->path,
                  extent->offset + extent->length, layer->path, index->length);
    }
  }
  return 0;
}

/* A file that stands in the stack twice would be its own parent. */
static int check_twice(const uffd_image *image) {
  struct stat files[UFFD_IMAGE_DEPTH];
  for (size_t i = 0; i < image->count; i++) {
    const char *uri = image->layers[i]->uri;
    if (uri == NULL && fstat(image->layers[i]->fd, &files[i]) != 0) {
      return fail(errno, "Cannot look at %s: %s.", image->layers[i]->path, strerror(errno));
    }
    for (size_t j = 0; j < i; j++) {
      const char *other = image->layers[j]->uri;
      if ((uri == NULL) != (other == NULL)) continue;
      if (uri != NULL ? strcmp(uri, other) == 0
                      : files[i].st_dev == files[j].st_dev && files[i].st_ino == files[j].st_ino) {
        return fail(EINVAL, "%s stands in the stack twice, as %s too.", image->layers[i]->path, image->layers[j]->path);
      }
    }
  }
  return 0;
}

static int check_depth(const uffd_image *image) {
  if (image->count < UFFD_IMAGE_DEPTH) return 0;
  return fail(ELOOP, "%s is below %u layers: compact some of them.", image->layers[0]->path, UFFD_IMAGE_DEPTH - 1);
}

/* Where the parent of a layer is looked for: beside it. */
static int find_parent(const struct uffd_layer_file *layer, char *path, size_t room) {
  const char *slash = strrchr(layer->path, '/');
  if (layer->uri != NULL) return uffd_uri_beside(layer->uri, layer->index.parent, path, room);
  int length = snprintf(path, room, "%.*s%s", slash == NULL ? 0 : (int)(slash + 1 - layer->path), layer->path,
                        layer->index.parent);
  if (length >= 0 && (size_t)length < room) return 0;
  return fail(ENAMETOOLONG, "The parent's name of %s is too long.", layer->path);
}

/* The parent of the lowest layer, by the name that its index has. */
static int open_parent(uffd_image *image, const struct uffd_image_opts *opts) {
  const struct uffd_layer_file *lowest = image->layers[0];
  char path[8192];
  int result = check_depth(image);
  if (result < 0) return result;
  if (lowest->index.parent[0] == '\0') {
    return fail(EINVAL, "%s is an increment that does not name its parent: give the parent's path before it.",
                lowest->path);
  }
  result = find_parent(lowest, path, sizeof(path));
  if (result < 0) return result;
  struct uffd_layer_file *parent;
  const struct uffd_layer_origin origin = {.path = path};
  result = uffd_layer_open(&origin, opts, &parent);
  if (result < 0) {
    struct uffd_sentence why = uffd_keep_sentence();
    return fail(-result, "The parent of %s: %s", lowest->path, why.text);
  }
  memmove(image->layers + 1, image->layers, image->count * sizeof(*image->layers));
  image->layers[0] = parent;
  image->count++;
  return check_twice(image);
}

int uffd_stack_build(uffd_image *image, const struct uffd_image_opts *opts) {
  int result = check_twice(image);
  while (result == 0 && has_parent(image->layers[0])) {
    result = open_parent(image, opts);
  }
  for (size_t i = 0; result == 0 && i < image->count; i++) {
    const struct uffd_layer_file *layer = image->layers[i];
    const struct uffd_frames *frames = layer->source->frames;
    if (i + 1 < image->count) result = check_pair(layer, image->layers[i + 1]);
    image->page_size = max_u64(image->page_size, layer->index.page_size);
    if (frames != NULL) {
      image->need.frame = max_u64(image->need.frame, frames->longest);
      image->need.packed = max_u64(image->need.packed, frames->longest_packed);
    }
  }
  if (result < 0) return result;
  image->length = image->layers[image->count - 1]->index.length;
  return resolve(image);
}
