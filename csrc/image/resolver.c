/*
 * The resolver of an image. Each handler has a reader, and a buffer in which it gathers its answer: bytes that were
 * just read or decoded are warm, and are copied from there into the page.
 */
#include <inttypes.h>
#include <sys/mman.h>

#include "image/ahead.h"
#include "resolver/resolver.h"

/* Bytes gathered at once, unless a page is larger: more do not stay in the processor's cache, or take too long to
 * decode */
#define ANSWER_READ    UINT64_C(524288)
#define ANSWER_DECODED UINT64_C(262144)

/* What a handler has. */
struct uffd_image_asker {
  const uffd_image *image;
  size_t joined; /* layers, the lowest first, whose sources know the bell */
  struct uffd_bell bell;
  struct uffd_reader *reader;
  char *buffer;                   /* HUGE_PAGE bytes; those that are not touched cost nothing */
  struct uffd_ahead_queue *queue; /* NULL: nothing is decoded ahead */
};

static void ring(void *key) {
  uffd_handler_ready(key);
}

/* Sources that fetch ring the handler, which says LATER meanwhile. */
static int join_sources(struct uffd_image_asker *state, const struct uffd_handler *handler) {
  state->bell.ring = ring;
  state->bell.ctx = (void *)(uintptr_t)handler->key;
  int result = 0;
  while (result == 0 && state->joined < state->image->count) {
    struct uffd_source *source = state->image->layers[state->joined]->source;
    if (source->class->join != NULL) result = source->class->join(source, &state->bell);
    state->joined += result == 0;
  }
  if (result == 0) uffd_reader_set_bell(state->reader, &state->bell);
  return result;
}

void uffd_image_asker_free(struct uffd_image_asker *state) {
  if (state == NULL) return;
  uffd_ahead_leave(state->queue);
  for (size_t i = 0; i < state->joined; i++) {
    struct uffd_source *source = state->image->layers[i]->source;
    if (source->class->leave != NULL) source->class->leave(source, &state->bell);
  }
  uffd_reader_free(state->reader);
  if (state->buffer != NULL) munmap(state->buffer, HUGE_PAGE);
  DELETE(state);
}

/* What cannot be decoded ahead is decoded by the handler: that is no failure. */
static struct uffd_ahead_queue *join_ahead(uffd_image *image, const struct uffd_bell *bell) {
  pthread_mutex_lock(&image->lock);
  if (!image->ahead_started) image->ahead = uffd_ahead_start(image);
  image->ahead_started = true;
  pthread_mutex_unlock(&image->lock);
  return image->ahead == NULL ? NULL : uffd_ahead_join(image->ahead, bell);
}

int uffd_image_asker_make(uffd_image *image, const struct uffd_handler *handler, struct uffd_image_asker **made) {
  struct uffd_image_asker *state = NEW(struct uffd_image_asker);
  if (state == NULL) return fail(ENOMEM, "No memory for a handler's reader.");
  state->image = image;
  int result = uffd_reader_make(&image->need, &state->reader);
  if (result == 0) {
    void *buffer = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    state->buffer = buffer == MAP_FAILED ? NULL : buffer;
    if (state->buffer == NULL) result = fail(ENOMEM, "No memory for a handler's buffer.");
  }
  if (result == 0) result = join_sources(state, handler);
  if (result < 0) {
    uffd_image_asker_free(state);
    return result;
  }
  state->queue = join_ahead(image, &state->bell);
  *made = state;
  return 0;
}

/* Bytes of [low, high), which holds the fault's page and is at most HUGE_PAGE, are the answer. */
static int answer_bytes(const uffd_image *image, const struct uffd_image_asker *state, uint64_t low, uint64_t high,
                        struct uffd_answer *answer) {
  high = min_u64(high, image->length); /* zeros follow in the last page */
  int result = uffd_image_gather(image, state->reader, low, state->buffer, high - low);
  if (result < 0) return result;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->offset = low;
  answer->length = high - low;
  answer->data = state->buffer;
  return 0;
}

/*
 * How much data to gather, if more than the page is wanted. The cover; but when it is no longer than the frame that the
 * page is in: all of the frame that is of this piece, since it is decoded anyway, and nothing of other frames, since
 * each would have to be decoded for a few pages of it.
 */
static void choose_range(const uffd_image *image, const struct uffd_fault *fault, size_t first, uint64_t *low,
                         uint64_t *high) {
  const struct uffd_piece *piece = &image->pieces[first];
  const struct uffd_source *source = image->layers[piece->layer]->source;
  uint64_t page = fault->page_size, start = piece->offset, end = piece[1].offset;
  uint64_t limit = max_u64(source->frames == NULL ? ANSWER_READ : ANSWER_DECODED, page);
  bool by_frame = false;
  *low = fault->offset;
  *high = fault->offset + page;
  if (fault->cover_length == page) return;
  if (source->class->unit != NULL) {
    uint64_t unit_low, unit_high, shift = piece->stream_offset - piece->offset; /* modulo 2^64 */
    source->class->unit(source, fault->offset + shift, &unit_low, &unit_high);
    by_frame = fault->cover_length <= unit_high - unit_low;
    if (by_frame) start = max_u64(unit_low, piece->stream_offset) - shift;
    if (by_frame) end = min_u64(unit_high, end + shift) - shift;
  }
  if (!by_frame) {
    start = max_u64(start, fault->cover_offset);
    end = fault->cover_offset + fault->cover_length;
  }
  uint64_t stop = piece[1].offset;
  for (; stop < end && piece + 1 < image->pieces + image->pieces_count && piece[1].kind == UFFD_IMAGE_DATA; piece++) {
    stop = piece[2].offset;
  }
  end = min_u64(end, stop);
  if (start < *low) *low -= round_down(min_u64(*low - start, limit - page), page);
  if (end > *high) *high += round_down(end - *high, page);
  *high = min_u64(*high, *low + limit);
}

int uffd_image_asker_read(const uffd_image *image, const struct uffd_image_asker *state, uint64_t offset, char *buffer,
                          uint64_t length) {
  return uffd_image_gather(image, state->reader, offset, buffer, length);
}

/* -EAGAIN, without a sentence: what is needed is not there yet. */
static int ask(const uffd_image *image, const struct uffd_image_asker *state, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  uint64_t offset = fault->offset, page = fault->page_size, low, high;
  if (offset >= image->length) {
    return fail(EIO, "Offset %" PRIu64 " is beyond the image, which has %" PRIu64 " bytes.", offset, image->length);
  }
  size_t i = uffd_stack_find(image, offset);
  const struct uffd_piece *piece = &image->pieces[i];
  bool last = i + 1 == image->pieces_count;
  if (piece->kind == UFFD_IMAGE_ZERO && (last || piece[1].offset >= offset + page)) {
    low = offset - round_down(offset - piece->offset, page);
    high = last ? UINT64_MAX : piece[1].offset - (piece[1].offset - offset) % page;
    uffd_cover(fault, low, high, answer);
    return 0;
  }
  if (piece->kind == UFFD_IMAGE_ZERO) return answer_bytes(image, state, offset, offset + page, answer);
  if (state->queue != NULL && (fault->flags & UFFD_FAULT_PREFETCH) != 0) {
    int taken = uffd_ahead_take(state->queue, state->reader, fault, answer);
    if (taken != 0) return taken < 0 ? taken : 0;
  }
  choose_range(image, fault, i, &low, &high);
  uffd_reader_bell(state->reader)->hints = high - low > page; /* the page itself is what somebody waits for */
  int result = answer_bytes(image, state, low, high, answer);
  uffd_reader_bell(state->reader)->hints = false;
  if (result < 0 && high - low > page) result = answer_bytes(image, state, offset, offset + page, answer);
  return result; /* damage elsewhere in the range is an error of those who ask for that page */
}

int uffd_image_ask(const uffd_image *image, const struct uffd_image_asker *state, const struct uffd_fault *fault,
                   struct uffd_answer *answer) {
  int result = ask(image, state, fault, answer);
  if (result != -EAGAIN) return result;
  answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

void uffd_image_want(const uffd_image *image, const struct uffd_image_asker *state, uint64_t offset, uint64_t length) {
  if (offset >= image->length) return;
  if (state->queue != NULL) {
    uffd_ahead_want(state->queue, offset, length);
    return;
  }
  uint64_t end = min_u64(image->length, offset + min_u64(length, image->length - offset));
  for (const struct uffd_piece *piece = &image->pieces[uffd_stack_find(image, offset)]; offset < end; piece++) {
    uint64_t part = min_u64(piece[1].offset, end) - offset;
    struct uffd_source *source = image->layers[piece->layer]->source;
    if (piece->kind == UFFD_IMAGE_DATA && source->class->want != NULL) {
      source->class->want(source, piece->stream_offset + (offset - piece->offset), part);
    }
    offset += part;
  }
}

static int setup(void *ctx, const struct uffd_handler *handler, void **made) {
  struct uffd_image_asker *state = NULL;
  int result = uffd_image_asker_make(ctx, handler, &state);
  *made = state;
  return result;
}

static int resolve(void *ctx, void *argument, const struct uffd_fault *fault, struct uffd_answer *answer) {
  return uffd_image_ask(ctx, argument, fault, answer);
}

static void teardown(void *ctx, void *argument) {
  (void)ctx;
  uffd_image_asker_free(argument);
}

static void want(void *ctx, void *state, uint64_t offset, uint64_t length) {
  uffd_image_want(ctx, state, offset, length);
}

int uffd_image_asker_tidy(const struct uffd_image_asker *state) {
  return state->queue == NULL ? 0 : uffd_ahead_tidy(state->queue);
}

static int idle(void *ctx, void *state) {
  (void)ctx;
  return uffd_image_asker_tidy(state);
}

static void destroy(void *ctx) {
  uffd_image_close(ctx);
}

int uffd_image_resolver(uffd_image *image, uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  ops.setup = setup;
  ops.resolve = resolve;
  ops.teardown = teardown;
  ops.destroy = destroy;
  ops.want = want;
  ops.idle = idle;
  *resolver = NULL;
  if (image->process != uffd_process()) return fail(EOWNERDEAD, "This image belongs to the parent process.");
  int result = uffd_resolver_callback(&ops, image, "image", NULL, 0, resolver);
  if (result < 0) return result;
  uffd_image_hold(image);
  (*resolver)->size = image->length;
  (*resolver)->built_in = true;
  return 0;
}
