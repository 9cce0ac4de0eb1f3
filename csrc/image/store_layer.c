/*
 * The store that writes a layer. Pages may come in any order: a table says for each where its bytes are, and is made
 * into the extents of the index in the end. Digests are made on the way where a chunk comes in one piece, which is how
 * whole images come; the other chunks are read back.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "image/digest.h"
#include "image/pack.h"
#include "store/store.h"

#define FRAME       UINT64_C(65536)
#define FRAME_LIMIT (UINT64_C(1) << 30)
#define LEVEL       3 /* -1 decodes in 0.8 of the time and packs in 0.7; its files are 1.08 times as large */
#define NAME_LIMIT  4096u
#define JSON_LIMIT  65536u

/* What a page of the table is; AT_STREAM + its offset in the stream is data. */
enum { PAGE_NONE = 0, PAGE_ZERO = 1, PAGE_BELOW = 2, AT_STREAM = 3 };

struct layer {
  uffd_store head;
  struct uffd_newfile file;
  struct uffd_packer packer;
  struct uffd_index index; /* digests are filled in on the way */
  uffd_image *below;       /* NULL: none */
  const struct uffd_index *below_index;
  struct uffd_reader *below_reader;
  bool compare, plain;
  uint64_t *pages; /* a mapping: what is not put costs nothing */
  uint64_t pages_bytes;
  unsigned char *known; /* a bit for each chunk whose digest is right */
  uint64_t known_bytes;
  char *scratch; /* a page, or a chunk */
  uint64_t scratch_bytes;
  unsigned char *chunk; /* the chunk that comes in one piece, so far */
  uint64_t chunk_number, chunk_has;
  unsigned char zero_digest[UFFD_DIGEST_BYTES]; /* of a whole chunk */
};

static uint64_t page_count(const struct layer *layer) {
  return round_up(layer->index.length, layer->index.page_size) / layer->index.page_size;
}

/* The bytes of page or chunk number of the image: the last one may be shorter. */
static uint64_t bytes_of(const struct layer *layer, uint64_t number, uint64_t unit) {
  return min_u64(unit, layer->index.length - number * unit);
}

static bool is_zero(const char *at, uint64_t length) {
  return at[0] == 0 && memcmp(at, at + 1, length - 1) == 0;
}

/* ---- digests on the way */

static void set_known(struct layer *layer, uint64_t chunk, bool known) {
  unsigned char bit = (unsigned char)(1u << chunk % 8), *byte = &layer->known[chunk / 8];
  *byte = (unsigned char)(known ? *byte | bit : *byte & ~bit);
}

static bool is_known(const struct layer *layer, uint64_t chunk) {
  return (layer->known[chunk / 8] >> chunk % 8 & 1) != 0;
}

static unsigned char *digest_of(const struct layer *layer, uint64_t chunk) {
  return layer->index.digests + chunk * UFFD_DIGEST_BYTES;
}

/* The chunk is as below, all of it, and there is a digest of it. */
static bool is_digested_below(const struct layer *layer, uint64_t chunk) {
  const struct uffd_index *below = layer->below_index;
  uint64_t start = chunk * UFFD_INDEX_CHUNK, bytes = bytes_of(layer, chunk, UFFD_INDEX_CHUNK);
  return below != NULL && below->digest == layer->index.digest && start < below->length &&
         bytes == min_u64(UFFD_INDEX_CHUNK, below->length - start);
}

static void take_digest(struct layer *layer, uint64_t chunk, const unsigned char *digest) {
  memcpy(digest_of(layer, chunk), digest, UFFD_DIGEST_BYTES);
  set_known(layer, chunk, true);
}

/* A part of one chunk. data is NULL for zeros. */
static void digest_part(struct layer *layer, uint64_t chunk, uint64_t from, const char *data, uint64_t length) {
  uint64_t whole = bytes_of(layer, chunk, UFFD_INDEX_CHUNK);
  set_known(layer, chunk, false);
  if (data == NULL && length == UFFD_INDEX_CHUNK) {
    take_digest(layer, chunk, layer->zero_digest);
    return;
  }
  if (from == 0) {
    layer->chunk_number = chunk;
    layer->chunk_has = 0;
  }
  if (layer->chunk_number != chunk) return;
  if (layer->chunk_has != from) { /* a page once more, or one left out: what is in the buffer is not the chunk */
    layer->chunk_number = UINT64_MAX;
    return;
  }
  if (data != NULL) {
    memcpy(layer->chunk + from, data, length);
  } else {
    memset(layer->chunk + from, 0, length);
  }
  layer->chunk_has += length;
  if (layer->chunk_has != whole) return;
  uffd_digest_chunk(layer->index.digest, layer->chunk, whole, digest_of(layer, chunk));
  set_known(layer, chunk, true);
  layer->chunk_number = UINT64_MAX;
}

static void digest_put(struct layer *layer, uint64_t offset, uint32_t kind, const char *data, uint64_t length) {
  while (length > 0) {
    uint64_t chunk = offset / UFFD_INDEX_CHUNK, from = offset % UFFD_INDEX_CHUNK;
    uint64_t part = min_u64(UFFD_INDEX_CHUNK - from, length);
    if (kind != UFFD_STORE_BELOW) {
      digest_part(layer, chunk, from, data, part);
    } else if (part == bytes_of(layer, chunk, UFFD_INDEX_CHUNK) && is_digested_below(layer, chunk)) {
      take_digest(layer, chunk, layer->below_index->digests + chunk * UFFD_DIGEST_BYTES);
    } else {
      set_known(layer, chunk, false);
      if (layer->chunk_number == chunk) layer->chunk_number = UINT64_MAX;
    }
    offset += part;
    length -= part;
    if (data != NULL) data += part;
  }
}

/* ---- putting */

static int check_range(const struct layer *layer, uint64_t offset, uint32_t kind, uint64_t length) {
  const struct uffd_index *index = &layer->index;
  if (offset > index->length || length > index->length - offset) {
    return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " end beyond the image, which has %" PRIu64 ".", length,
                offset, index->length);
  }
  if (offset % index->page_size != 0 || (length % index->page_size != 0 && offset + length != index->length)) {
    return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " are not whole pages of %" PRIu64 " bytes.", length,
                offset, index->page_size);
  }
  if (kind != UFFD_STORE_BELOW) return 0;
  if (layer->below == NULL) return fail(EINVAL, "The layer %s has nothing below it.", layer->file.target);
  if (offset + length <= round_up(layer->below->length, index->page_size)) return 0;
  return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " end beyond the image below, which has %" PRIu64 ".",
              length, offset, layer->below->length);
}

/* 1 when the page is as below, 0 when not. */
static int is_below(const struct layer *layer, uint64_t offset, const char *data, uint64_t length) {
  if (!layer->compare || offset + length > layer->below->length) return 0;
  int result = uffd_image_gather(layer->below, layer->below_reader, offset, layer->scratch, length);
  return result < 0 ? result : memcmp(layer->scratch, data, length) == 0;
}

static int put_page(struct layer *layer, uint64_t page, const char *data) {
  uint64_t length = bytes_of(layer, page, layer->index.page_size), stream_offset;
  int same = is_below(layer, page * layer->index.page_size, data, length);
  if (same != 0) {
    layer->pages[page] = PAGE_BELOW;
    return same < 0 ? same : 0;
  }
  bool zero = is_zero(data, length);
  if (zero && !layer->plain) {
    layer->pages[page] = PAGE_ZERO;
    return 0;
  }
  int result = uffd_packer_add(&layer->packer, data, length, &stream_offset);
  layer->pages[page] = zero ? PAGE_ZERO : AT_STREAM + stream_offset;
  return result;
}

static int put_zero_page(struct layer *layer, uint64_t page) {
  uint64_t length = bytes_of(layer, page, layer->index.page_size), stream_offset;
  layer->pages[page] = PAGE_ZERO;
  if (!layer->plain) return 0;
  memset(layer->scratch, 0, length);
  return uffd_packer_add(&layer->packer, layer->scratch, length, &stream_offset);
}

static int put(uffd_store *store, uint64_t offset, uint32_t kind, const void *data, uint64_t length) {
  struct layer *layer = (struct layer *)store;
  int result = check_range(layer, offset, kind, length);
  if (result < 0) return result;
  uint64_t page_size = layer->index.page_size, first = offset / page_size;
  uint64_t end = round_up(offset + length, page_size) / page_size;
  for (uint64_t page = first; result == 0 && page < end; page++) {
    if (kind == UFFD_STORE_DATA) {
      result = put_page(layer, page, (const char *)data + (page - first) * page_size);
    } else if (kind == UFFD_STORE_ZERO) {
      result = put_zero_page(layer, page);
    } else {
      layer->pages[page] = PAGE_BELOW;
    }
  }
  if (result == 0) digest_put(layer, offset, kind, kind == UFFD_STORE_DATA ? data : NULL, length);
  return result;
}

static int flush(uffd_store *store) {
  struct layer *layer = (struct layer *)store;
  int result = uffd_packer_flush(&layer->packer);
  if (result < 0 || fdatasync(layer->file.fd) == 0) return result;
  return fail(errno, "Cannot write %s to its disk: %s.", layer->file.path, strerror(errno));
}

/* ---- finishing */

/* What a page is that was never put: the same as below as far as there is something, and zero. */
static uint64_t state_of(const struct layer *layer, uint64_t page) {
  uint64_t state = layer->pages[page], page_size = layer->index.page_size;
  if (state != PAGE_NONE) return state;
  return layer->below != NULL &&
                 page * page_size + bytes_of(layer, page, page_size) <= round_up(layer->below->length, page_size)
             ? PAGE_BELOW
             : PAGE_ZERO;
}

static int make_extents(struct layer *layer) {
  uint64_t page_size = layer->index.page_size, count = page_count(layer);
  for (uint64_t page = 0; page < count; page++) {
    uint64_t state = state_of(layer, page);
    struct uffd_index_extent extent = {page * page_size, bytes_of(layer, page, page_size), 0, UFFD_IMAGE_DATA};
    if (state >= AT_STREAM) {
      extent.stream_offset = state - AT_STREAM;
    } else {
      extent.kind = state == PAGE_ZERO ? UFFD_IMAGE_ZERO : UFFD_IMAGE_BELOW;
    }
    int result = uffd_index_add(&layer->index, &extent);
    if (result < 0) return result;
  }
  return 0;
}

/* Reads of below what it has; beyond its end are zeros, of its last page. */
static int read_below(const struct layer *layer, uint64_t offset, char *buffer, uint64_t length) {
  uint64_t has = offset >= layer->below->length ? 0 : min_u64(length, layer->below->length - offset);
  memset(buffer + has, 0, length - has);
  return has == 0 ? 0 : uffd_image_gather(layer->below, layer->below_reader, offset, buffer, has);
}

/* Reads a part of the image that is being written, from where its extents say. source: NULL if no frame was written. */
static int read_back(const struct layer *layer, struct uffd_source *source, struct uffd_reader *reader, uint64_t offset,
                     char *buffer, uint64_t length) {
  for (size_t i = uffd_index_find(&layer->index, offset); length > 0; i++) {
    const struct uffd_index_extent *extent = &layer->index.extents[i];
    uint64_t from = offset - extent->offset, part = min_u64(extent->length - from, length);
    int result = 0;
    if (extent->kind == UFFD_IMAGE_DATA && source == NULL) {
      result = fail(EIO, "The data of %s were never written.", layer->file.path);
    } else if (extent->kind == UFFD_IMAGE_DATA) {
      result = source->class->read(source, reader, extent->stream_offset + from, buffer, part);
    } else if (extent->kind == UFFD_IMAGE_BELOW) {
      result = read_below(layer, offset, buffer, part);
    } else {
      memset(buffer, 0, part);
    }
    if (result < 0) return result;
    offset += part;
    buffer += part;
    length -= part;
  }
  return 0;
}

static int digest_chunk(struct layer *layer, struct uffd_source *source, struct uffd_reader *reader, uint64_t chunk) {
  uint64_t start = chunk * UFFD_INDEX_CHUNK, bytes = bytes_of(layer, chunk, UFFD_INDEX_CHUNK);
  const struct uffd_index_extent *extent = &layer->index.extents[uffd_index_find(&layer->index, start)];
  bool alone = extent->offset + extent->length >= start + bytes; /* all of the chunk is of one kind */
  if (alone && extent->kind == UFFD_IMAGE_BELOW && is_digested_below(layer, chunk)) {
    take_digest(layer, chunk, layer->below_index->digests + chunk * UFFD_DIGEST_BYTES);
    return 0;
  }
  if (alone && extent->kind == UFFD_IMAGE_ZERO && bytes == UFFD_INDEX_CHUNK) {
    take_digest(layer, chunk, layer->zero_digest);
    return 0;
  }
  int result = read_back(layer, source, reader, start, layer->scratch, bytes);
  if (result == 0) uffd_digest_chunk(layer->index.digest, layer->scratch, bytes, digest_of(layer, chunk));
  return result;
}

/* The frames that were written, as a source of their own. */
static int open_written(const struct layer *layer, struct uffd_source **source, struct uffd_reader **reader) {
  const struct uffd_frames *written = &layer->packer.frames;
  struct uffd_frames frames = {.checksums = true};
  struct uffd_reader_need need = {written->longest_packed, written->longest};
  int result = 0;
  for (size_t i = 0; result == 0 && i < written->count; i++) {
    const struct uffd_frame *frame = &written->list[i];
    result = uffd_frames_add(&frames, frame, frame[1].offset - frame->offset);
  }
  int fd = result < 0 ? -1 : fcntl(layer->file.fd, F_DUPFD_CLOEXEC, 0);
  if (result == 0 && fd < 0) result = fail(errno, "Cannot read %s: %s.", layer->file.path, strerror(errno));
  if (result < 0) {
    uffd_frames_free(&frames);
    return result;
  }
  result = uffd_source_zstd(fd, layer->file.path, layer->packer.at, &frames, source);
  if (result < 0) {
    close(fd);
    return result;
  }
  result = uffd_reader_make(&need, reader);
  if (result < 0) (*source)->class->destroy(*source);
  return result;
}

static int make_digests(struct layer *layer) {
  struct uffd_source *source = NULL;
  struct uffd_reader *reader = NULL;
  int result = layer->packer.frames.count > 0 ? open_written(layer, &source, &reader) : 0;
  for (uint64_t chunk = 0; result == 0 && chunk < uffd_index_chunks(&layer->index); chunk++) {
    if (!is_known(layer, chunk)) result = digest_chunk(layer, source, reader, chunk);
  }
  uffd_reader_free(reader);
  if (source != NULL && reader != NULL) source->class->destroy(source);
  return result;
}

static int finish(uffd_store *store) {
  struct layer *layer = (struct layer *)store;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  layer->index.time_ns = (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
  int result = uffd_packer_flush(&layer->packer);
  if (result == 0) result = make_extents(layer);
  if (result == 0) result = make_digests(layer);
  if (result < 0) return result;
  layer->index.stream_bytes = uffd_packer_stream(&layer->packer);
  uffd_index_identify(&layer->index);
  result = uffd_packer_finish(&layer->packer, &layer->index);
  return result < 0 ? result : uffd_newfile_keep(&layer->file);
}

static void give_up(uffd_store *store) {
  uffd_newfile_discard(&((struct layer *)store)->file);
}

static void destroy(uffd_store *store) {
  struct layer *layer = (struct layer *)store;
  if (layer->file.fd >= 0) close(layer->file.fd); /* in a forked child: the parent's file stays */
  uffd_packer_close(&layer->packer);
  uffd_index_free(&layer->index);
  uffd_reader_free(layer->below_reader);
  uffd_image_close(layer->below);
  if (layer->pages != NULL) munmap(layer->pages, layer->pages_bytes);
  uffd_release(layer->known, layer->known_bytes);
  uffd_release(layer->scratch, layer->scratch_bytes);
  uffd_release(layer->chunk, UFFD_INDEX_CHUNK);
  DELETE(layer);
}

/* ---- making */

static int check_opts(const struct uffd_store_layer_opts *opts) {
  const uffd_image *below = opts->below;
  uint64_t page = opts->page_size;
  if (opts->length == 0 && below == NULL) return fail(EINVAL, "The layer's length is 0.");
  if (opts->length > UFFD_IMAGE_LIMIT) return fail(EFBIG, "An image has at most 2^47 bytes.");
  if (page != 0 && (page < BASE_PAGE || page > FRAME_LIMIT || (page & (page - 1)) != 0)) {
    return fail(EINVAL, "%" PRIu64 " is no page size: a power of two from 4096 to 2^30 is.", page);
  }
  if (opts->frame_bytes > FRAME_LIMIT) return fail(EINVAL, "A frame has at most 1 GiB.");
  if (opts->level < -100 || opts->level > 22) return fail(EINVAL, "zstd has no level %" PRId32 ".", opts->level);
  if (opts->digest > UFFD_DIGEST_SHA256) return fail(EINVAL, "%" PRIu32 " is no digest.", opts->digest);
  if ((opts->flags & ~(uint32_t)(UFFD_STORE_COMPARE | UFFD_STORE_PLAIN)) != 0) {
    return fail(EINVAL, "A flag of a layer's store that is not known: %#" PRIx32 ".", opts->flags);
  }
  if ((opts->flags & UFFD_STORE_PLAIN) != 0 && below != NULL) {
    return fail(EINVAL, "An increment's frames do not make an image: it cannot be plain.");
  }
  if ((opts->flags & UFFD_STORE_COMPARE) != 0 && below == NULL) return fail(EINVAL, "Nothing below to compare with.");
  if (opts->attributes != NULL && strlen(opts->attributes) > JSON_LIMIT) {
    return fail(EINVAL, "The attributes have more than 64 KiB.");
  }
  if (opts->parent == NULL) return 0;
  if (strlen(opts->parent) > NAME_LIMIT) return fail(EINVAL, "The parent's name is too long.");
  if (uffd_index_is_name(opts->parent)) return 0;
  return fail(EINVAL, "The parent's name %s leads out of the layer's directory: leave it away.", opts->parent);
}

static int check_below(const struct uffd_store_layer_opts *opts) {
  const uffd_image *below = opts->below;
  if (below == NULL) return 0;
  const struct uffd_layer_file *top = below->layers[below->count - 1];
  if (below->process != uffd_process()) return fail(EOWNERDEAD, "The image below belongs to the parent process.");
  if (top->index.digest == UFFD_DIGEST_NONE) {
    return fail(EINVAL, "%s has no index, and so no identity: make one with `uffd-lua image index`.", top->path);
  }
  if (below->count >= UFFD_IMAGE_DEPTH) {
    return fail(ELOOP, "%s is %u layers deep: compact some of them.", top->path, UFFD_IMAGE_DEPTH);
  }
  if (opts->page_size == 0 || opts->page_size == top->index.page_size) return 0;
  return fail(EINVAL, "A layer on %s has pages of %" PRIu64 " bytes like it, not %" PRIu64 ".", top->path,
              top->index.page_size, opts->page_size);
}

static char *copy_text(const char *text) {
  char *copy = uffd_alloc(strlen(text) + 1);
  if (copy != NULL) memcpy(copy, text, strlen(text) + 1);
  return copy;
}

/* The parent's path as seen from the layer's directory: a name is for files that are moved together. "": none. */
static char *parent_name(const struct layer *layer, const struct uffd_store_layer_opts *opts) {
  if (opts->parent != NULL) return copy_text(opts->parent);
  if (opts->below == NULL) return copy_text("");
  const char *slash = strrchr(layer->file.target, '/');
  char directory[sizeof(layer->file.target)];
  snprintf(directory, sizeof(directory), "%.*s", slash == NULL ? 1 : (int)(slash - layer->file.target) + 1,
           slash == NULL ? "." : layer->file.target);
  char *here = realpath(directory, NULL), *parent = realpath(opts->below->layers[opts->below->count - 1]->path, NULL);
  size_t length = here == NULL ? 0 : strlen(here);
  if (length > 0 && here[length - 1] == '/') length--; /* of the root */
  bool inside = here != NULL && parent != NULL && strncmp(here, parent, length) == 0 && parent[length] == '/';
  char *name = copy_text(inside && strlen(parent + length + 1) <= NAME_LIMIT ? parent + length + 1 : "");
  free(here);
  free(parent);
  return name;
}

static int fill_index(struct layer *layer, const struct uffd_store_layer_opts *opts) {
  struct uffd_index *index = &layer->index;
  const uffd_image *below = opts->below;
  index->length = opts->length != 0 ? opts->length : below->length;
  index->page_size = opts->page_size != 0 ? opts->page_size : BASE_PAGE;
  index->digest = opts->digest != UFFD_DIGEST_NONE ? opts->digest : UFFD_DIGEST_XXH3;
  if (below != NULL) {
    layer->below_index = &below->layers[below->count - 1]->index;
    index->flags = UFFD_INDEX_HAS_PARENT;
    index->generation = (uint32_t)below->count;
    index->page_size = layer->below_index->page_size;
    if (opts->digest == UFFD_DIGEST_NONE) index->digest = layer->below_index->digest;
    memcpy(index->parent_id, layer->below_index->id, sizeof(index->parent_id));
  }
  if (getrandom(index->uuid, sizeof(index->uuid), 0) != (ssize_t)sizeof(index->uuid)) return -errno;
  index->uuid[6] = (index->uuid[6] & 0x0F) | 0x40; /* RFC 9562, version 4: random */
  index->uuid[8] = (index->uuid[8] & 0x3F) | 0x80;
  index->parent = parent_name(layer, opts);
  index->attributes = copy_text(opts->attributes != NULL ? opts->attributes : "");
  index->digests = uffd_alloc(uffd_index_chunks(index) * UFFD_DIGEST_BYTES);
  return index->parent == NULL || index->attributes == NULL || index->digests == NULL ? -ENOMEM : 0;
}

static int allocate(struct layer *layer) {
  layer->pages_bytes = round_up(page_count(layer) * sizeof(*layer->pages), BASE_PAGE);
  void *pages =
      mmap(NULL, layer->pages_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  layer->pages = pages == MAP_FAILED ? NULL : pages;
  layer->known_bytes = uffd_index_chunks(&layer->index) / 8 + 1;
  layer->known = uffd_alloc(layer->known_bytes);
  layer->scratch_bytes = max_u64(layer->index.page_size, UFFD_INDEX_CHUNK);
  layer->scratch = uffd_alloc(layer->scratch_bytes);
  layer->chunk = uffd_alloc(UFFD_INDEX_CHUNK);
  layer->chunk_number = UINT64_MAX;
  if (layer->pages == NULL || layer->known == NULL || layer->scratch == NULL || layer->chunk == NULL) {
    return fail(ENOMEM, "No memory for a layer of %" PRIu64 " bytes.", layer->index.length);
  }
  uffd_digest_chunk(layer->index.digest, layer->chunk, UFFD_INDEX_CHUNK, layer->zero_digest);
  return 0;
}

static int open_layer(struct layer *layer, const char *path, const struct uffd_store_layer_opts *opts) {
  int result = uffd_newfile_open(&layer->file, path);
  if (result < 0) return result;
  result = fill_index(layer, opts);
  if (result < 0) return fail(-result, "No memory for the index of %s.", path);
  result = allocate(layer);
  if (result == 0 && layer->below != NULL) result = uffd_reader_make(&layer->below->need, &layer->below_reader);
  if (result < 0) return result;
  uint64_t frame = opts->frame_bytes != 0 ? opts->frame_bytes : FRAME;
  frame = max_u64(round_down(frame, layer->index.page_size), layer->index.page_size);
  return uffd_packer_open(&layer->packer, layer->file.fd, layer->file.path, frame,
                          opts->level != 0 ? opts->level : LEVEL);
}

int uffd_store_layer(const char *path, const struct uffd_store_layer_opts *user_opts, uffd_store **store) {
  static const struct uffd_store_class class = {
      .kind = "layer", .put = put, .flush = flush, .finish = finish, .abort = give_up, .destroy = destroy};
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  *store = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_store_layer_opts");
  if (result == 0 && path == NULL) result = fail(EINVAL, "No path: name a file.");
  if (result == 0) result = check_opts(&opts);
  if (result == 0) result = check_below(&opts);
  if (result != 0) return result;
  struct layer *layer = NEW(struct layer);
  if (layer == NULL) return fail(ENOMEM, "No memory for a store.");
  uffd_store_init(&layer->head, &class);
  layer->file.fd = -1;
  layer->compare = (opts.flags & UFFD_STORE_COMPARE) != 0;
  layer->plain = (opts.flags & UFFD_STORE_PLAIN) != 0;
  layer->below = opts.below;
  if (layer->below != NULL) uffd_image_hold(layer->below);
  result = open_layer(layer, path, &opts);
  if (result < 0) {
    uffd_store_close(&layer->head);
    return result;
  }
  *store = &layer->head;
  return 0;
}
