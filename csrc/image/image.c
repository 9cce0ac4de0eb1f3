/*
 * The handle of an image: opening, lifetime, and what it tells of itself.
 */
#include "image/image.h"

#include <inttypes.h>
#include <string.h>

#include "image/ahead.h"
#include "image/remote/remote.h"

void uffd_image_hold(uffd_image *image) {
  atomic_fetch_add_explicit(&image->references, 1, memory_order_relaxed);
}

void uffd_image_close(uffd_image *image) {
  if (image == NULL || atomic_fetch_sub_explicit(&image->references, 1, memory_order_acq_rel) != 1) return;
  uffd_ahead_end(image->ahead);
  for (size_t i = 0; i < image->count; i++) {
    uffd_layer_close(image->layers[i]);
  }
  uffd_release(image->layers, UFFD_IMAGE_DEPTH * sizeof(*image->layers));
  uffd_release(image->pieces, image->pieces_room * sizeof(*image->pieces));
  uffd_reader_free(image->reader);
  pthread_mutex_destroy(&image->lock);
  DELETE(image);
}

static int open_layers(uffd_image *image, const struct uffd_layer_origin *origins, size_t count,
                       const struct uffd_image_opts *opts) {
  for (size_t i = 0; i < count; i++) {
    if (origins[i].path == NULL) return fail(EINVAL, "The path of layer %zu is NULL.", i);
    int result = uffd_layer_open(&origins[i], opts, &image->layers[i]);
    if (result < 0) return result;
    image->count++;
  }
  return uffd_stack_build(image, opts);
}

static int open_image(const struct uffd_layer_origin *origins, size_t count, const struct uffd_image_opts *opts,
                      uffd_image **made) {
  uffd_image *image = NEW(uffd_image);
  if (image == NULL) return fail(ENOMEM, "No memory for an image.");
  atomic_init(&image->references, 1);
  image->process = uffd_process();
  image->decoders = opts->decoders;
  pthread_mutex_init(&image->lock, NULL);
  image->layers = uffd_alloc(UFFD_IMAGE_DEPTH * sizeof(*image->layers));
  int result =
      image->layers == NULL ? fail(ENOMEM, "No memory for an image.") : open_layers(image, origins, count, opts);
  if (result < 0) {
    struct uffd_sentence why = uffd_keep_sentence();
    uffd_image_close(image);
    uffd_restore_sentence(&why);
    return result;
  }
  *made = image;
  return 0;
}

int uffd_image_open_plain(const char *path, const struct uffd_image_opts *opts, uffd_image **made) {
  const struct uffd_layer_origin origin = {.path = path, .plain = true};
  return open_image(&origin, 1, opts, made);
}

static int check_count(size_t count) {
  if (count <= UFFD_IMAGE_DEPTH) return 0;
  return fail(ELOOP, "An image has at most %u layers, not %zu.", UFFD_IMAGE_DEPTH, count);
}

int uffd_image_open_files(const struct uffd_image_file *files, size_t count, uffd_image **made) {
  const struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  struct uffd_layer_origin origins[UFFD_IMAGE_DEPTH];
  *made = NULL;
  int result = check_count(count);
  for (size_t i = 0; result == 0 && i < count; i++) {
    origins[i] = (struct uffd_layer_origin){.path = files[i].path, .file = &files[i]};
  }
  return result < 0 ? result : open_image(origins, count, &opts, made);
}

void uffd_image_file(const uffd_image *image, uint32_t number, struct uffd_image_file *file) {
  const struct uffd_layer_file *layer = image->layers[number];
  *file = (struct uffd_image_file){layer->path, layer->uri, layer->fd, layer->sidecar_fd, layer->stamp};
}

void uffd_image_trust(uffd_image *image, uint32_t number, bool trusted) {
  atomic_store_explicit(&image->layers[number]->trusted, trusted, memory_order_release);
}

int uffd_image_open(const char *const *paths, size_t count, const struct uffd_image_opts *user_opts,
                    uffd_image **made) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  *made = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_image_opts");
  if (result < 0) return result;
  if (paths == NULL || count == 0) return fail(EINVAL, "No layers: give the path of at least one.");
  if (opts.decoders < -1 || opts.decoders > (int32_t)UFFD_IMAGE_DECODERS) {
    return fail(EINVAL, "%" PRId32 " threads that decode ahead: -1 for none, or 1 to %u.", opts.decoders,
                UFFD_IMAGE_DECODERS);
  }
  result = check_count(count);
  struct uffd_layer_origin origins[UFFD_IMAGE_DEPTH];
  for (size_t i = 0; result == 0 && i < count; i++) {
    origins[i] = (struct uffd_layer_origin){.path = paths[i]};
  }
  return result < 0 ? result : open_image(origins, count, &opts, made);
}

/* Gives a user's struct, which may be older and shorter than ours, as much as it has room for. */
static int give(void *theirs, const void *ours, size_t our_size, size_t their_size, const char *what) {
  if (their_size < sizeof(size_t) || their_size > 4096) {
    return fail(EINVAL, "struct %s says that its size is %zu: start from its _INIT macro.", what, their_size);
  }
  memset(theirs, 0, their_size);
  memcpy(theirs, ours, their_size < our_size ? their_size : our_size);
  memcpy(theirs, &their_size, sizeof(their_size));
  return 0;
}

int uffd_image_info(const uffd_image *image, struct uffd_image_info *info) {
  struct uffd_image_info told = UFFD_IMAGE_INFO_INIT;
  told.length = image->length;
  told.page_size = image->page_size;
  told.layers = (uint32_t)image->count;
  told.pieces = image->pieces_count;
  for (size_t i = 0; i < image->pieces_count; i++) {
    told.bytes[image->pieces[i].kind] += image->pieces[i + 1].offset - image->pieces[i].offset;
  }
  return give(info, &told, sizeof(told), info->size, "uffd_image_info");
}

static const struct uffd_layer_file *layer_at(const uffd_image *image, uint64_t index) {
  if (index < image->count) return image->layers[index];
  fail(ERANGE, "There is no layer %llu: the image has %zu.", (unsigned long long)index, image->count);
  return NULL;
}

int uffd_image_layer(const uffd_image *image, uint32_t number, struct uffd_image_layer *told) {
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  const struct uffd_layer_file *file = layer_at(image, number);
  if (file == NULL) return -ERANGE;
  const struct uffd_index *index = &file->index;
  const struct uffd_frames *frames = file->source->frames;
  layer.path = file->path;
  layer.format = file->format;
  layer.digest = index->digest;
  layer.length = index->length;
  layer.page_size = index->page_size;
  for (size_t i = 0; i < index->extents_count; i++) {
    layer.bytes[index->extents[i].kind] += index->extents[i].length;
  }
  layer.file_bytes = file->source->file_bytes;
  layer.stream_bytes = file->source->stream_bytes;
  if (frames != NULL) {
    layer.frames = frames->count;
    layer.frame_bytes = frames->longest;
    layer.checksums = frames->checksums;
  }
  layer.generation = index->generation;
  layer.time_ns = index->time_ns;
  layer.parent = index->parent;
  layer.attributes = index->attributes;
  memcpy(layer.id, index->id, sizeof(layer.id));
  memcpy(layer.parent_id, index->parent_id, sizeof(layer.parent_id));
  memcpy(layer.uuid, index->uuid, sizeof(layer.uuid));
  struct uffd_remote_figures figures;
  if (uffd_remote_figures(file->source, &figures)) {
    layer.version = figures.version;
    layer.units = figures.units;
    layer.units_there = figures.units_there;
    layer.requests = figures.requests;
    layer.retries = figures.retries;
    layer.fetched_bytes = figures.fetched_bytes;
    layer.latency_ns = figures.latency_ns;
  }
  return give(told, &layer, sizeof(layer), told->size, "uffd_image_layer");
}

static int map_layer(const uffd_image *image, int number, uint64_t offset, struct uffd_image_piece *piece) {
  const struct uffd_layer_file *file = layer_at(image, (uint64_t)number);
  if (file == NULL) return -ERANGE;
  if (offset >= file->index.length) return 0;
  const struct uffd_index_extent *extent = &file->index.extents[uffd_index_find(&file->index, offset)];
  *piece = (struct uffd_image_piece){extent->offset, extent->length, 0, extent->kind, (uint32_t)number};
  if (extent->kind == UFFD_IMAGE_DATA) piece->stream_offset = extent->stream_offset;
  return 1;
}

int uffd_image_map(const uffd_image *image, int layer, uint64_t offset, struct uffd_image_piece *piece) {
  if (layer >= 0) return map_layer(image, layer, offset, piece);
  if (offset >= image->length) return 0;
  const struct uffd_piece *found = &image->pieces[uffd_stack_find(image, offset)];
  *piece = (struct uffd_image_piece){found->offset, found[1].offset - found->offset, found->stream_offset, found->kind,
                                     found->layer};
  return 1;
}
