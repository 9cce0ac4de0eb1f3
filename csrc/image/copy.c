/*
 * What goes over a whole image: copying it into a store, checking it, making the sidecar of a raw file.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "image/digest.h"
#include "image/pack.h"

#define STEP (UINT64_C(1) << 20) /* bytes read at once: a multiple of every chunk, and of what a page usually is */

/* Reading an image in steps, which somebody may be told of. */
struct reading {
  uffd_image *image;
  struct uffd_reader *reader;
  char *buffer;
  uint64_t buffer_bytes;
  uffd_progress_fn *progress;
  void *progress_ctx;
};

static void close_reading(struct reading *reading) {
  uffd_reader_free(reading->reader);
  uffd_release(reading->buffer, reading->buffer_bytes);
}

static int open_reading(struct reading *reading, uffd_image *image, uffd_progress_fn *progress, void *ctx) {
  *reading = (struct reading){.image = image, .progress = progress, .progress_ctx = ctx};
  if (image->process != uffd_process()) return fail(EOWNERDEAD, "This image belongs to the parent process.");
  int result = uffd_reader_make(&image->need, &reading->reader);
  if (result < 0) return result;
  reading->buffer_bytes = max_u64(STEP, image->page_size);
  reading->buffer = uffd_alloc(reading->buffer_bytes);
  if (reading->buffer != NULL) return 0;
  close_reading(reading);
  return fail(ENOMEM, "No memory to read an image.");
}

static int tell(const struct reading *reading, uint64_t done) {
  if (reading->progress == NULL || reading->progress(reading->progress_ctx, done, reading->image->length) == 0)
    return 0;
  return fail(ECANCELED, "Given up at offset %" PRIu64 " of %" PRIu64 ".", done, reading->image->length);
}

/* ---- copying */

static uint32_t kind_of(const struct uffd_piece *piece, uint32_t from_layer) {
  if (piece->layer < from_layer) return UFFD_STORE_BELOW;
  return piece->kind == UFFD_IMAGE_ZERO ? UFFD_STORE_ZERO : UFFD_STORE_DATA;
}

/*
 * [at, end) is of one kind as far as whole pages go. A page that several pieces meet in is data, so that a layer's end
 * within a page does no harm; so it is where the lower part of such a page would be the layer's below.
 */
static uint64_t run_of(const uffd_image *image, uint64_t at, uint32_t from_layer, uint32_t *kind) {
  size_t i = uffd_stack_find(image, at);
  uint64_t page = image->page_size, end = image->pieces[i + 1].offset;
  *kind = kind_of(&image->pieces[i], from_layer);
  for (i++; i < image->pieces_count && kind_of(&image->pieces[i], from_layer) == *kind; i++) {
    end = image->pieces[i + 1].offset;
  }
  if (end == image->length) return end;
  if (round_down(end, page) > at) return round_down(end, page);
  *kind = UFFD_STORE_DATA;
  return min_u64(at + page, image->length);
}

static int copy_run(const struct reading *reading, uffd_store *store, uint64_t at, uint64_t end, uint32_t kind) {
  if (kind != UFFD_STORE_DATA) return uffd_store_put(store, at, kind, NULL, end - at);
  while (at < end) {
    uint64_t part = min_u64(reading->buffer_bytes - at % reading->buffer_bytes, end - at);
    int result = uffd_image_gather(reading->image, reading->reader, at, reading->buffer, part);
    if (result == 0) result = uffd_store_put(store, at, UFFD_STORE_DATA, reading->buffer, part);
    if (result == 0) result = tell(reading, at);
    if (result < 0) return result;
    at += part;
  }
  return 0;
}

int uffd_image_copy(uffd_image *image, uffd_store *store, const struct uffd_image_copy_opts *user_opts) {
  struct uffd_image_copy_opts opts = UFFD_IMAGE_COPY_OPTS_INIT;
  struct reading reading;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_image_copy_opts");
  if (result == 0) result = open_reading(&reading, image, opts.progress, opts.progress_ctx);
  if (result != 0) return result;
  for (uint64_t at = 0; result == 0 && at < image->length;) {
    uint32_t kind;
    uint64_t end = run_of(image, at, opts.from_layer, &kind);
    result = copy_run(&reading, store, at, end, kind);
    at = end;
  }
  if (result == 0) result = tell(&reading, image->length);
  close_reading(&reading);
  return result;
}

/* ---- checking */

static bool is_zero(const char *at, uint64_t length) {
  return at[0] == 0 && memcmp(at, at + 1, length - 1) == 0;
}

/* Where a file has no data, there is nothing to read. */
static bool is_hole(const struct uffd_layer_file *layer, uint64_t at, uint64_t length) {
  off_t data = layer->fd < 0 ? 0 : lseek(layer->fd, (off_t)at, SEEK_DATA);
  return data < 0 ? errno == ENXIO : (uint64_t)data >= at + length;
}

/*
 * What a sidecar calls zero is not read for an image: here its file is. The place of a zero piece is its place in that
 * file. 0; -EIO, and a sentence.
 */
static int check_zeros(const struct reading *reading, uint64_t start, uint64_t bytes) {
  const uffd_image *image = reading->image;
  const struct uffd_piece *piece = &image->pieces[uffd_stack_find(image, start)];
  for (uint64_t at = start; at < start + bytes; piece++) {
    const struct uffd_layer_file *layer = image->layers[piece->layer];
    uint64_t part = min_u64(piece[1].offset, start + bytes) - at, length = layer->index.length;
    if (piece->kind == UFFD_IMAGE_ZERO && layer->in_place && at < length && !is_hole(layer, at, part)) {
      uint64_t has = min_u64(part, length - at);
      int result = layer->source->class->read(layer->source, reading->reader, at, reading->buffer, has);
      if (result < 0) return result;
      if (!is_zero(reading->buffer, has)) {
        return fail(EIO, "%s has data at offset %" PRIu64 ", where its index %s says zeros.", layer->path, at,
                    layer->sidecar);
      }
    }
    at += part;
  }
  return 0;
}

/* 0 or 1 bad chunk, told. */
static int check_chunk(const struct reading *reading, uint64_t chunk, const struct uffd_image_verify_opts *opts) {
  const struct uffd_index *index = &reading->image->layers[reading->image->count - 1]->index;
  uint64_t start = chunk * UFFD_INDEX_CHUNK, bytes = min_u64(UFFD_INDEX_CHUNK, reading->image->length - start);
  unsigned char digest[UFFD_DIGEST_BYTES];
  int result = uffd_image_gather(reading->image, reading->reader, start, reading->buffer, bytes);
  if (result == 0 && index->digest != UFFD_DIGEST_NONE) {
    uffd_digest_chunk(index->digest, reading->buffer, bytes, digest);
    if (memcmp(digest, index->digests + chunk * UFFD_DIGEST_BYTES, sizeof(digest)) != 0) {
      result = fail(EIO, "The contents at offset %" PRIu64 " are not those that %s was made with.", start,
                    reading->image->layers[reading->image->count - 1]->path);
    }
  }
  if (result == 0) result = check_zeros(reading, start, bytes);
  if (result == 0) return 0;
  if (opts->problem != NULL) opts->problem(opts->problem_ctx, start, bytes, uffd_errmsg());
  return 1;
}

int uffd_image_verify(uffd_image *image, const struct uffd_image_verify_opts *user_opts) {
  struct uffd_image_verify_opts opts = UFFD_IMAGE_VERIFY_OPTS_INIT;
  struct reading reading;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_image_verify_opts");
  if (result == 0) result = open_reading(&reading, image, opts.progress, opts.progress_ctx);
  if (result != 0) return result;
  uint64_t chunks = round_up(image->length, UFFD_INDEX_CHUNK) / UFFD_INDEX_CHUNK, bad = 0;
  uint64_t count = opts.sample == 0 ? chunks : min_u64(opts.sample, chunks);
  for (uint64_t i = 0; result == 0 && i < count; i++) {
    uint64_t chunk = (uint64_t)((unsigned __int128)i * chunks / count);
    bad += (uint64_t)check_chunk(&reading, chunk, &opts);
    if (i % 16 == 0) result = tell(&reading, chunk * UFFD_INDEX_CHUNK);
  }
  if (result == 0) result = tell(&reading, image->length);
  close_reading(&reading);
  return result < 0 ? result : (int)min_u64(bad, INT_MAX);
}

/* ---- sidecars */

/* The extents of what was read, page by page, and its digests. */
static int index_step(struct uffd_index *index, uint64_t at, const char *bytes, uint64_t length) {
  for (uint64_t done = 0; done < length; done += UFFD_INDEX_CHUNK) {
    uint64_t chunk = (at + done) / UFFD_INDEX_CHUNK, part = min_u64(UFFD_INDEX_CHUNK, length - done);
    uffd_digest_chunk(index->digest, bytes + done, part, index->digests + chunk * UFFD_DIGEST_BYTES);
  }
  for (uint64_t done = 0; done < length; done += BASE_PAGE) {
    uint64_t part = min_u64(BASE_PAGE, length - done);
    struct uffd_index_extent extent = {at + done, part, at + done, UFFD_IMAGE_DATA};
    if (is_zero(bytes + done, part)) extent.kind = UFFD_IMAGE_ZERO;
    int result = uffd_index_add(index, &extent);
    if (result < 0) return result;
  }
  return 0;
}

static int fill_index(const struct reading *reading, struct uffd_index *index) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  index->time_ns = (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
  index->flags = UFFD_INDEX_EXTERNAL;
  index->length = index->stream_bytes = reading->image->length;
  index->page_size = BASE_PAGE;
  index->parent = uffd_alloc(1);
  index->attributes = uffd_alloc(1);
  index->digests = uffd_alloc(uffd_index_chunks(index) * UFFD_DIGEST_BYTES);
  if (index->parent == NULL || index->attributes == NULL || index->digests == NULL) {
    return fail(ENOMEM, "No memory for an index.");
  }
  for (uint64_t at = 0; at < index->length; at += reading->buffer_bytes) {
    uint64_t part = min_u64(reading->buffer_bytes, index->length - at);
    int result = uffd_image_gather(reading->image, reading->reader, at, reading->buffer, part);
    if (result == 0) result = index_step(index, at, reading->buffer, part);
    if (result == 0) result = tell(reading, at);
    if (result < 0) return result;
  }
  uffd_index_identify(index);
  return tell(reading, index->length);
}

/* An index is as new as its file, also where the file's time is ahead of the clock. */
static int set_age(const struct uffd_newfile *file, const struct uffd_stamp *of) {
  struct stat own;
  if (fstat(file->fd, &own) != 0) return fail(errno, "Cannot look at %s: %s.", file->path, strerror(errno));
  if (own.st_mtim.tv_sec > of->mtime_s) return 0;
  const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = of->mtime_s, .tv_nsec = of->mtime_ns}};
  if (own.st_mtim.tv_sec == of->mtime_s && own.st_mtim.tv_nsec >= of->mtime_ns) return 0;
  return futimens(file->fd, times) == 0 ? 0 : fail(errno, "Cannot date %s: %s.", file->path, strerror(errno));
}

static int write_sidecar(const char *path, const struct uffd_stamp *of, const struct uffd_index *index) {
  struct uffd_newfile file;
  char name[sizeof(file.target)];
  uint64_t bytes;
  if (snprintf(name, sizeof(name), "%s.uidx", path) >= (int)sizeof(name)) {
    return fail(ENAMETOOLONG, "%s.uidx is too long a name.", path);
  }
  int result = uffd_newfile_open(&file, name);
  if (result < 0) return result;
  result = uffd_index_write(file.fd, file.path, 0, index, &bytes);
  if (result == 0) result = set_age(&file, of);
  if (result == 0) return uffd_newfile_keep(&file);
  uffd_newfile_discard(&file);
  return result;
}

/* A sidecar that is there is not looked at: it may be what is to be replaced. */
static int open_raw(const char *path, uffd_image **image) {
  const struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  int result = uffd_image_open_plain(path, &opts, image);
  if (result < 0 || (*image)->layers[0]->format == UFFD_IMAGE_RAW) return result;
  uffd_image_close(*image);
  *image = NULL;
  return fail(EINVAL, "%s is a zstd file, not a raw one: convert it, and it gets an index.", path);
}

int uffd_image_index(const char *path, const struct uffd_image_index_opts *user_opts) {
  struct uffd_image_index_opts opts = UFFD_IMAGE_INDEX_OPTS_INIT;
  struct uffd_index index = {.length = 0};
  struct reading reading;
  uffd_image *image;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_image_index_opts");
  if (result == 0 && path == NULL) result = fail(EINVAL, "No path: name a file.");
  if (result == 0 && opts.digest > UFFD_DIGEST_SHA256) result = fail(EINVAL, "%" PRIu32 " is no digest.", opts.digest);
  if (result == 0) result = open_raw(path, &image);
  if (result != 0) return result;
  index.digest = opts.digest == UFFD_DIGEST_NONE ? UFFD_DIGEST_XXH3 : opts.digest;
  result = open_reading(&reading, image, opts.progress, opts.progress_ctx);
  if (result == 0) {
    result = fill_index(&reading, &index);
    if (result == 0) result = write_sidecar(path, &image->layers[0]->stamp, &index);
    close_reading(&reading);
  }
  uffd_index_free(&index);
  uffd_image_close(image);
  return result;
}
