/*
 * The writable layer: a store and the top of an image at once. Data lie in a raw sparse file at their own offsets, the
 * page map beside it says which pages are there. Data are written before the map tells of them; a page that was put
 * is served from here at once.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/image.h"
#include "image/page_map.h"
#include "resolver/resolver.h"
#include "store/store.h"

#define ANSWER UINT64_C(262144) /* bytes of an answer, unless a page is larger */
#define STEP   (UINT64_C(1) << 20)

/* What the store and its resolvers share. */
struct writable {
  _Atomic uint32_t references;
  uint64_t process;
  char *path;
  int fd;
  struct uffd_page_map map;
  uffd_image *below; /* NULL: zeros */
};

struct store {
  uffd_store head;
  struct writable *writable;
};

static uint64_t length_of(const struct writable *writable) {
  return writable->map.head.length;
}

static uint64_t page_of(const struct writable *writable) {
  return writable->map.head.page_size;
}

static void leave(struct writable *writable) {
  if (atomic_fetch_sub_explicit(&writable->references, 1, memory_order_acq_rel) != 1) return;
  if (writable->fd >= 0) close(writable->fd);
  uffd_page_map_close(&writable->map);
  uffd_image_close(writable->below);
  if (writable->path != NULL) uffd_release(writable->path, strlen(writable->path) + 1);
  DELETE(writable);
}

/* ---- the store */

static int check_range(const struct writable *writable, uint64_t offset, uint32_t kind, uint64_t length) {
  uint64_t whole = length_of(writable), page = page_of(writable);
  if (offset > whole || length > whole - offset) {
    return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " end beyond the image, which has %" PRIu64 ".", length,
                offset, whole);
  }
  if (offset % page != 0 || (length % page != 0 && offset + length != whole)) {
    return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " are not whole pages of %" PRIu64 " bytes.", length,
                offset, page);
  }
  if (kind != UFFD_STORE_BELOW || writable->below != NULL) return 0;
  return fail(EINVAL, "The layer %s has nothing below it.", writable->path);
}

/* The data first. A page whose put fails is what it was before, or holds the new data. */
static int put(uffd_store *store, uint64_t offset, uint32_t kind, const void *data, uint64_t length) {
  static const uint32_t kinds[] = {UFFD_PAGE_ZERO, UFFD_PAGE_DATA, UFFD_PAGE_BELOW}; /* by UFFD_STORE_* */
  struct writable *writable = ((const struct store *)store)->writable;
  _Static_assert(UFFD_STORE_ZERO == 0 && UFFD_STORE_DATA == 1 && UFFD_STORE_BELOW == 2, "the table's order");
  int result = check_range(writable, offset, kind, length);
  if (result == 0 && kind == UFFD_STORE_DATA) {
    result = uffd_write_exactly(writable->fd, writable->path, offset, data, length);
  }
  if (result < 0) return result;
  BARRIER("writable-data", store);
  uint64_t page = page_of(writable), first = offset / page, end = round_up(offset + length, page) / page;
  result = uffd_page_map_set(&writable->map, first, end, kinds[kind]);
  BARRIER("writable-map", store);
  return result;
}

static int flush(uffd_store *store) {
  struct writable *writable = ((const struct store *)store)->writable;
  uint64_t low, high;
  uffd_page_map_begin(&writable->map, &low, &high);
  int result = fdatasync(writable->fd) == 0
                   ? 0
                   : fail(errno, "Cannot write %s to its disk: %s.", writable->path, strerror(errno));
  return uffd_page_map_end(&writable->map, low, high, result);
}

static void destroy(uffd_store *store) {
  struct store *own = (struct store *)store;
  leave(own->writable);
  DELETE(own);
}

static const struct uffd_store_class class = {
    .kind = "writable", .lasting = true, .put = put, .flush = flush, .finish = flush, .destroy = destroy};

/* ---- making */

static int check_opts(const struct uffd_store_writable_opts *opts) {
  uint64_t page = opts->page_size;
  if (opts->length == 0 && opts->below == NULL) return fail(EINVAL, "The layer's length is 0.");
  if (opts->length > UFFD_IMAGE_LIMIT) return fail(EFBIG, "An image has at most 2^47 bytes.");
  if (page != 0 && (page < BASE_PAGE || page > (UINT64_C(1) << 30) || (page & (page - 1)) != 0)) {
    return fail(EINVAL, "%" PRIu64 " is no page size: a power of two from 4096 to 2^30 is.", page);
  }
  if (opts->below == NULL) return 0;
  const struct uffd_layer_file *top = opts->below->layers[opts->below->count - 1];
  if (opts->below->process != uffd_process()) return fail(EOWNERDEAD, "The image below belongs to the parent process.");
  if (top->index.digest == UFFD_DIGEST_NONE) {
    return fail(EINVAL, "%s has no index, and so no identity: make one with `uffd-lua image index`.", top->path);
  }
  if (page == 0 || page == top->index.page_size) return 0;
  return fail(EINVAL, "A layer on %s has pages of %" PRIu64 " bytes like it, not %" PRIu64 ".", top->path,
              top->index.page_size, page);
}

static struct uffd_page_map_head head_of(const struct uffd_store_writable_opts *opts) {
  struct uffd_page_map_head head = {.length = opts->length, .page_size = opts->page_size};
  if (opts->below != NULL) {
    const struct uffd_index *index = &opts->below->layers[opts->below->count - 1]->index;
    head.has_below = true;
    head.page_size = index->page_size;
    if (head.length == 0) head.length = index->length;
    memcpy(head.below_id, index->id, sizeof(head.below_id));
  }
  if (head.page_size == 0) head.page_size = BASE_PAGE;
  return head;
}

static bool has_data(const struct uffd_page_map *map) {
  for (uint64_t page = 0; page < map->count; page++) {
    if (uffd_page_map_kind(map, page) == UFFD_PAGE_DATA) return true;
  }
  return false;
}

/* The file of the data. It is made where there is none yet, when whoever made the map has died before it. */
static int open_data(struct writable *writable) {
  struct stat status;
  int flags = has_data(&writable->map) ? O_RDWR | O_CLOEXEC : O_RDWR | O_CREAT | O_CLOEXEC;
  writable->fd = open(writable->path, flags, 0666);
  if (writable->fd < 0 && errno == ENOENT) {
    return fail(ENOENT, "%s is gone, and its page map %s says that it has data.", writable->path, writable->map.path);
  }
  if (writable->fd < 0) return fail(errno, "Cannot open %s: %s.", writable->path, strerror(errno));
  if (fstat(writable->fd, &status) != 0) return fail(errno, "Cannot look at %s: %s.", writable->path, strerror(errno));
  if (!S_ISREG(status.st_mode)) return fail(EINVAL, "%s is not a regular file.", writable->path);
  if ((uint64_t)status.st_size == length_of(writable)) return 0;
  if (status.st_size != 0 || has_data(&writable->map)) {
    return fail(EINVAL, "%s has %" PRIu64 " bytes, and its page map %s was made for %" PRIu64 ".", writable->path,
                (uint64_t)status.st_size, writable->map.path, length_of(writable));
  }
  if (ftruncate(writable->fd, (off_t)length_of(writable)) == 0) return 0;
  return fail(errno, "Cannot make %s %" PRIu64 " bytes long: %s.", writable->path, length_of(writable),
              strerror(errno));
}

/* A file that is there without a map is somebody's: it is not written to. */
static int check_free(const char *path, const char *map) {
  struct stat status;
  if (stat(map, &status) == 0 || stat(path, &status) != 0) return 0;
  return fail(EEXIST, "%s is there, and is no writable layer: its page map %s is not.", path, map);
}

static int open_writable(struct writable *writable, const char *path, const struct uffd_store_writable_opts *opts) {
  const struct uffd_page_map_head head = head_of(opts);
  char name[4096];
  bool made;
  writable->fd = writable->map.fd = -1;
  writable->path = uffd_alloc(strlen(path) + 1);
  if (writable->path == NULL) return fail(ENOMEM, "No memory for a store.");
  memcpy(writable->path, path, strlen(path) + 1);
  if (snprintf(name, sizeof(name), "%s.umap", path) >= (int)sizeof(name)) {
    return fail(ENAMETOOLONG, "%s.umap is too long a name.", path);
  }
  int result = check_free(path, name);
  if (result == 0) result = uffd_page_map_open(&writable->map, name, &head, &made);
  BARRIER("writable-made", writable);
  return result < 0 ? result : open_data(writable);
}

int uffd_store_writable(const char *path, const struct uffd_store_writable_opts *user_opts, uffd_store **store) {
  struct uffd_store_writable_opts opts = UFFD_STORE_WRITABLE_OPTS_INIT;
  *store = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_store_writable_opts");
  if (result == 0 && path == NULL) result = fail(EINVAL, "No path: name a file.");
  if (result == 0) result = check_opts(&opts);
  if (result != 0) return result;
  struct store *own = NEW(struct store);
  struct writable *writable = NEW(struct writable);
  if (own == NULL || writable == NULL) {
    DELETE(own);
    DELETE(writable);
    return fail(ENOMEM, "No memory for a store.");
  }
  uffd_store_init(&own->head, &class);
  own->writable = writable;
  atomic_init(&writable->references, 1);
  writable->process = uffd_process();
  writable->below = opts.below;
  if (opts.below != NULL) uffd_image_hold(opts.below);
  result = open_writable(writable, path, &opts);
  if (result < 0) {
    struct uffd_sentence why = uffd_keep_sentence();
    destroy(&own->head);
    uffd_restore_sentence(&why);
    return result;
  }
  *store = &own->head;
  return 0;
}

/* ---- the resolver */

struct asker {
  struct uffd_image_asker *below; /* NULL: nothing is below */
  char *buffer;                   /* HUGE_PAGE bytes; those that are not touched cost nothing */
};

static void teardown(void *ctx, void *argument) {
  struct asker *asker = argument;
  (void)ctx;
  if (asker == NULL) return;
  uffd_image_asker_free(asker->below);
  if (asker->buffer != NULL) munmap(asker->buffer, HUGE_PAGE);
  DELETE(asker);
}

static int setup(void *ctx, const struct uffd_handler *handler, void **made) {
  const struct writable *writable = ctx;
  struct asker *asker = NEW(struct asker);
  if (asker == NULL) return fail(ENOMEM, "No memory for a handler's reader.");
  void *buffer = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  asker->buffer = buffer == MAP_FAILED ? NULL : buffer;
  int result = asker->buffer == NULL ? fail(ENOMEM, "No memory for a handler's buffer.") : 0;
  if (result == 0 && writable->below != NULL) result = uffd_image_asker_make(writable->below, handler, &asker->below);
  if (result < 0) {
    teardown(ctx, asker);
    return result;
  }
  *made = asker;
  return 0;
}

/* The kind of all pages of [from, to), which are whole or reach beyond the end; false: they differ. */
static bool same_kind(const struct writable *writable, uint64_t from, uint64_t to, uint32_t kind) {
  uint64_t page = page_of(writable), end = min_u64(round_up(to, page) / page, writable->map.count);
  for (uint64_t i = from / page; i < end; i++) {
    if (uffd_page_map_kind(&writable->map, i) != kind) return false;
  }
  return true;
}

/* The pages around the fault's that are of its kind, within its cover, as far as an answer goes. */
static void find_run(const struct writable *writable, const struct uffd_fault *fault, uint32_t kind, uint64_t *low,
                     uint64_t *high) {
  uint64_t page = fault->page_size, end = min_u64(fault->cover_offset + fault->cover_length, length_of(writable));
  uint64_t limit = max_u64(ANSWER, page);
  *low = fault->offset;
  *high = fault->offset + page;
  while (*high < end && *high - *low + page <= limit && same_kind(writable, *high, *high + page, kind)) {
    *high += page;
  }
  while (*low >= fault->cover_offset + page && *high - *low + page <= limit &&
         same_kind(writable, *low - page, *low, kind)) {
    *low -= page;
  }
}

/* What is below, of [from, to): beyond its end are zeros. */
static int ask_below(const struct writable *writable, const struct asker *asker, const struct uffd_fault *fault,
                     uint64_t low, uint64_t high, struct uffd_answer *answer) {
  struct uffd_fault asked = *fault;
  uint64_t page = fault->page_size, whole = writable->below == NULL ? 0 : round_up(writable->below->length, page);
  if (fault->offset >= whole) {
    uffd_cover(fault, max_u64(low, whole), high, answer);
    return 0;
  }
  asked.cover_offset = low;
  asked.cover_length = min_u64(high, whole) - low;
  int result = uffd_image_ask(writable->below, asker->below, &asked, answer);
  if (result < 0) return result;
  uint64_t start = max_u64(answer->offset, low); /* it may be a frame, parts of which were put here */
  uint64_t end = min_u64(answer->offset + answer->length, high);
  if (answer->kind == UFFD_ANSWER_BYTES) answer->data = (const char *)answer->data + (start - answer->offset);
  answer->offset = start;
  answer->length = end - start;
  return 0;
}

static int read_data(const struct writable *writable, char *buffer, uint64_t low, uint64_t high) {
  return uffd_read_exactly(writable->fd, writable->path, low, buffer, high - low);
}

/* Pages of several kinds, which are smaller than the fault's. */
static int gather(const struct writable *writable, const struct asker *asker, const struct uffd_fault *fault,
                  uint64_t end) {
  uint64_t page = page_of(writable);
  for (uint64_t at = fault->offset; at < end; at += page) {
    char *to = asker->buffer + (at - fault->offset);
    uint64_t part = min_u64(page, end - at);
    uint32_t kind = uffd_page_map_kind(&writable->map, at / page);
    uint64_t has =
        writable->below == NULL || at >= writable->below->length ? 0 : min_u64(part, writable->below->length - at);
    int result = 0;
    if (kind == UFFD_PAGE_DATA) {
      result = read_data(writable, to, at, at + part);
    } else {
      if (kind == UFFD_PAGE_ZERO) has = 0;
      memset(to + has, 0, part - has);
      if (has > 0) result = uffd_image_asker_read(writable->below, asker->below, at, to, has);
    }
    if (result < 0) return result;
  }
  return 0;
}

static int answer_bytes(const struct asker *asker, uint64_t low, uint64_t high, struct uffd_answer *answer) {
  answer->kind = UFFD_ANSWER_BYTES;
  answer->offset = low;
  answer->length = high - low;
  answer->data = asker->buffer;
  return 0;
}

static int resolve(void *ctx, void *argument, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct writable *writable = ctx;
  const struct asker *asker = argument;
  uint64_t low, high, whole = length_of(writable), page_end = min_u64(fault->offset + fault->page_size, whole);
  if (fault->offset >= whole) {
    return fail(EIO, "Offset %" PRIu64 " is beyond the image, which has %" PRIu64 " bytes.", fault->offset, whole);
  }
  uint32_t kind = uffd_page_map_kind(&writable->map, fault->offset / page_of(writable));
  if (!same_kind(writable, fault->offset, page_end, kind)) {
    int result = gather(writable, asker, fault, page_end);
    if (result == -EAGAIN) { /* what is below is not there yet */
      answer->kind = UFFD_ANSWER_LATER;
      return 0;
    }
    return result < 0 ? result : answer_bytes(asker, fault->offset, page_end, answer);
  }
  find_run(writable, fault, kind, &low, &high);
  if (kind == UFFD_PAGE_BELOW) return ask_below(writable, asker, fault, low, high, answer);
  if (kind == UFFD_PAGE_ZERO) {
    uffd_cover(fault, low, high, answer);
    return 0;
  }
  int result = read_data(writable, asker->buffer, low, min_u64(high, whole));
  return result < 0 ? result : answer_bytes(asker, low, min_u64(high, whole), answer);
}

static void want(void *ctx, void *state, uint64_t offset, uint64_t length) {
  const struct writable *writable = ctx;
  const struct asker *asker = state;
  if (writable->below != NULL) uffd_image_want(writable->below, asker->below, offset, length);
}

static int idle(void *ctx, void *state) {
  const struct asker *asker = state;
  (void)ctx;
  return asker->below == NULL ? 0 : uffd_image_asker_tidy(asker->below);
}

static void destroy_resolver(void *ctx) {
  leave(ctx);
}

static struct writable *writable_of(uffd_store *store) {
  if (store->class == &class) return ((struct store *)store)->writable;
  fail(EINVAL, "A %s store is not read from: a writable one is.", store->kind);
  return NULL;
}

int uffd_store_resolver(uffd_store *store, uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  *resolver = NULL;
  struct writable *writable = writable_of(store);
  if (writable == NULL) return -EINVAL;
  if (writable->process != uffd_process()) return fail(EOWNERDEAD, "This store belongs to the parent process.");
  ops.setup = setup;
  ops.resolve = resolve;
  ops.teardown = teardown;
  ops.destroy = destroy_resolver;
  ops.want = want;
  ops.idle = idle;
  int result = uffd_resolver_callback(&ops, writable, "writable", NULL, 0, resolver);
  if (result < 0) return result;
  atomic_fetch_add_explicit(&writable->references, 1, memory_order_relaxed);
  (*resolver)->size = length_of(writable);
  (*resolver)->built_in = true;
  return 0;
}

/* ---- sealing */

static int seal_data(const struct writable *writable, uffd_store *to, char *buffer, uint64_t from, uint64_t end) {
  for (uint64_t at = from; at < end;) {
    uint64_t part = min_u64(max_u64(STEP, page_of(writable)), end - at);
    int result = read_data(writable, buffer, at, at + part);
    if (result == 0) result = uffd_store_put(to, at, UFFD_STORE_DATA, buffer, part);
    if (result < 0) return result;
    at += part;
  }
  return 0;
}

static int seal_all(const struct writable *writable, uffd_store *to, char *buffer) {
  uint64_t page = page_of(writable), whole = length_of(writable);
  for (uint64_t first = 0, end; first < writable->map.count; first = end) {
    uint32_t kind = uffd_page_map_kind(&writable->map, first);
    for (end = first + 1; end < writable->map.count && uffd_page_map_kind(&writable->map, end) == kind; end++) {
    }
    uint64_t from = first * page, stop = min_u64(end * page, whole);
    int result = 0;
    if (kind == UFFD_PAGE_DATA) result = seal_data(writable, to, buffer, from, stop);
    if (kind == UFFD_PAGE_ZERO) result = uffd_store_put(to, from, UFFD_STORE_ZERO, NULL, stop - from);
    if (result < 0) return result;
  }
  return 0;
}

int uffd_store_seal(uffd_store *store, uffd_store *to) {
  const struct writable *writable = writable_of(store);
  if (writable == NULL) return -EINVAL;
  if (writable->process != uffd_process()) return fail(EOWNERDEAD, "This store belongs to the parent process.");
  uint64_t room = max_u64(STEP, page_of(writable));
  char *buffer = uffd_alloc(room);
  if (buffer == NULL) return fail(ENOMEM, "No memory to read a layer.");
  int result = seal_all(writable, to, buffer);
  uffd_release(buffer, room);
  return result;
}
