/*
 * Decoding ahead: see ahead.h. A handler alone says what a slot of its queue is for, and empties it; a thread only
 * takes slots that are wanted. So the handler never waits for a thread, nor for a lock.
 */
#include "image/ahead.h"

#include <sched.h>
#include <sys/mman.h>

#define SLOTS      8u
#define SLOT_BYTES (UINT64_C(256) << 10)
#define RANGES     32u /* that are wanted and have no slot yet; more are decoded by the handler */
#define MISSES     8u  /* one after the other: what is in the queue is for somebody who asks no more */

enum { EMPTY, WANTED, TAKEN, READY, FAILED };

struct slot {
  _Atomic uint32_t state;
  _Atomic uint64_t order; /* slots that were wanted first are decoded first */
  uint64_t low, high;     /* of the image. Written while the slot is EMPTY */
};

struct range {
  uint64_t low, high;
};

struct uffd_ahead_queue {
  struct uffd_ahead *ahead;
  const struct uffd_bell *bell; /* the handler's */
  /* under the lock of ahead */
  struct uffd_ahead_queue *next;
  uint32_t decoding; /* threads that decode for this queue now */
  /* the handler's */
  char *buffers; /* one for each slot; NULL: nothing was wanted so far */
  bool touched;  /* the buffers have memory */
  bool used;     /* since the handler last had nothing to do */
  struct range ranges[RANGES];
  uint32_t ranges_count, misses;
  uint64_t orders;
  /* the handler and the threads */
  struct slot slots[SLOTS];
  _Atomic uint32_t awaited; /* a slot's number + 1: the handler waits for it */
};

struct thread {
  struct uffd_ahead *ahead;
  struct uffd_reader *reader;
  pthread_t thread;
};

struct uffd_ahead {
  const uffd_image *image;
  uint64_t process;
  pthread_mutex_t lock;
  pthread_cond_t done; /* a thread has decoded something */
  struct uffd_ahead_queue *queues;
  _Atomic uint32_t work; /* futex: how often slots became wanted */
  _Atomic uint32_t sleepers;
  _Atomic bool stop;
  uint32_t count; /* of threads that run */
  struct thread threads[UFFD_IMAGE_DECODERS];
};

/* What a slot is for */

static bool is_packed(const uffd_image *image, const struct uffd_piece *piece) {
  return piece->kind == UFFD_IMAGE_DATA && image->layers[piece->layer]->source->frames != NULL;
}

/*
 * The end of what is best decoded at once from low on: as much as a slot has room for, or to the end of the frame in
 * which what is wanted ends. piece holds low.
 */
static uint64_t find_end(const uffd_image *image, const struct uffd_piece *piece, uint64_t low, uint64_t wanted) {
  const struct uffd_piece *last = image->pieces + image->pieces_count - 1;
  uint64_t limit = low + SLOT_BYTES, end = piece[1].offset, unit_low, unit_high;
  for (; end < limit && piece < last && is_packed(image, piece + 1); piece++) {
    end = piece[2].offset;
  }
  end = min_u64(min_u64(end, limit), wanted);
  piece = &image->pieces[uffd_stack_find(image, end - 1)];
  struct uffd_source *source = image->layers[piece->layer]->source;
  uint64_t shift = piece->stream_offset - piece->offset; /* modulo 2^64 */
  source->class->unit(source, end - 1 + shift, &unit_low, &unit_high);
  uint64_t frame_low = round_down(max_u64(unit_low, piece->stream_offset) - shift, BASE_PAGE);
  uint64_t frame_high = min_u64(unit_high, piece[1].offset + shift) - shift;
  frame_high = min_u64(round_up(frame_high, BASE_PAGE), image->length);
  if (frame_high <= limit) return frame_high;
  return frame_low > low ? frame_low : end;
}

static void drop_range(struct uffd_ahead_queue *queue) {
  queue->ranges_count--;
  for (uint32_t i = 0; i < queue->ranges_count; i++) {
    queue->ranges[i] = queue->ranges[i + 1];
  }
}

/* The next part of what is wanted that has to be decoded. */
static bool find_next(struct uffd_ahead_queue *queue, struct range *found) {
  const uffd_image *image = queue->ahead->image;
  while (queue->ranges_count > 0) {
    struct range *range = &queue->ranges[0];
    if (range->low >= range->high) {
      drop_range(queue);
      continue;
    }
    const struct uffd_piece *piece = &image->pieces[uffd_stack_find(image, range->low)];
    if (!is_packed(image, piece)) {
      range->low = piece[1].offset;
      continue;
    }
    found->low = range->low;
    found->high = range->low = find_end(image, piece, range->low, range->high);
    return true;
  }
  return false;
}

static void wake_threads(struct uffd_ahead *ahead, int count) {
  atomic_fetch_add(&ahead->work, 1);
  if (atomic_load(&ahead->sleepers) != 0) uffd_futex_wake(&ahead->work, count);
}

static void fill_slots(struct uffd_ahead_queue *queue) {
  struct range next;
  int count = 0;
  for (uint32_t i = 0; i < SLOTS; i++) {
    struct slot *slot = &queue->slots[i];
    if (atomic_load_explicit(&slot->state, memory_order_relaxed) != EMPTY) continue;
    if (!find_next(queue, &next)) break;
    slot->low = next.low;
    slot->high = next.high;
    atomic_store_explicit(&slot->order, queue->orders++, memory_order_relaxed);
    atomic_store_explicit(&slot->state, WANTED, memory_order_release);
    count++;
  }
  if (count != 0) wake_threads(queue->ahead, count);
}

/* One that a thread is decoding stays as it is. */
static void empty_slot(struct slot *slot) {
  uint32_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
  if (state == WANTED) atomic_compare_exchange_strong(&slot->state, &state, EMPTY);
  if (state == READY || state == FAILED) atomic_store_explicit(&slot->state, EMPTY, memory_order_relaxed);
}

static void forget_all(struct uffd_ahead_queue *queue) {
  queue->ranges_count = 0;
  queue->misses = 0;
  for (uint32_t i = 0; i < SLOTS; i++) {
    empty_slot(&queue->slots[i]);
  }
}

/* The handler reads by itself from offset on. */
static void miss(struct uffd_ahead_queue *queue, uint64_t offset) {
  if (++queue->misses > MISSES) {
    forget_all(queue);
    return;
  }
  while (queue->ranges_count > 0 && queue->ranges[0].high <= offset) {
    drop_range(queue);
  }
  struct range *range = &queue->ranges[0];
  if (queue->ranges_count > 0 && range->low <= offset) range->low = min_u64(range->high, offset + SLOT_BYTES);
}

/* The slot that holds the page at offset; those that lie before are done with. */
static struct slot *find_slot(struct uffd_ahead_queue *queue, uint64_t offset) {
  struct slot *found = NULL;
  for (uint32_t i = 0; i < SLOTS; i++) {
    struct slot *slot = &queue->slots[i];
    if (atomic_load_explicit(&slot->state, memory_order_relaxed) == EMPTY) continue;
    if (slot->high <= offset) {
      empty_slot(slot);
    } else if (slot->low <= offset && (offset - slot->low) % BASE_PAGE == 0) {
      found = slot;
    }
  }
  return found;
}

static struct slot *find_wanted(struct uffd_ahead_queue *queue) {
  struct slot *first = NULL;
  uint64_t order = UINT64_MAX;
  for (uint32_t i = 0; i < SLOTS; i++) {
    struct slot *slot = &queue->slots[i];
    if (atomic_load_explicit(&slot->state, memory_order_relaxed) != WANTED) continue;
    uint64_t own = atomic_load_explicit(&slot->order, memory_order_relaxed);
    if (own > order) continue;
    order = own;
    first = slot;
  }
  return first;
}

/* Decodes what a slot that the caller has taken is for. */
static void fill_slot(struct uffd_ahead_queue *queue, struct slot *slot, struct uffd_reader *reader) {
  char *buffer = queue->buffers + (uint64_t)(slot - queue->slots) * SLOT_BYTES;
  int result = uffd_image_gather(queue->ahead->image, reader, slot->low, buffer, slot->high - slot->low);
  atomic_store(&slot->state, result < 0 ? FAILED : READY);
}

/* While a thread decodes what the handler needs now, the handler decodes what comes later. */
static void help(struct uffd_ahead_queue *queue, const struct slot *needed, struct uffd_reader *reader) {
  uint32_t wanted = WANTED;
  struct slot *slot = find_wanted(queue);
  if (atomic_load_explicit(&needed->state, memory_order_relaxed) != TAKEN || slot == NULL) return;
  if (atomic_compare_exchange_strong(&slot->state, &wanted, TAKEN)) fill_slot(queue, slot, reader);
}

/* The state of a slot that the handler needs now: TAKEN, and then it will be told. */
static uint32_t await(struct uffd_ahead_queue *queue, struct slot *slot) {
  uint32_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
  if (state == WANTED && atomic_compare_exchange_strong(&slot->state, &state, EMPTY)) return EMPTY;
  if (state != TAKEN) return state;
  atomic_store(&queue->awaited, (uint32_t)(slot - queue->slots) + 1);
  state = atomic_load(&slot->state);
  if (state != TAKEN) atomic_store(&queue->awaited, 0);
  return state;
}

void uffd_ahead_want(struct uffd_ahead_queue *queue, uint64_t offset, uint64_t length) {
  uint64_t high = min_u64(offset + length, queue->ahead->image->length);
  if (offset >= high) return;
  if (queue->buffers == NULL) queue->buffers = uffd_pages_map(SLOTS * SLOT_BYTES);
  if (queue->buffers == NULL) return; /* the handler has its own buffer */
  struct range *last = queue->ranges_count == 0 ? NULL : &queue->ranges[queue->ranges_count - 1];
  if (last != NULL && last->high >= offset && last->low <= offset) {
    last->high = max_u64(last->high, high);
  } else if (queue->ranges_count < RANGES) {
    queue->ranges[queue->ranges_count++] = (struct range){offset, high};
  }
  queue->touched = queue->used = true;
  fill_slots(queue);
}

int uffd_ahead_take(struct uffd_ahead_queue *queue, struct uffd_reader *reader, const struct uffd_fault *fault,
                    struct uffd_answer *answer) {
  if (!queue->touched || fault->page_size != BASE_PAGE) return 0;
  queue->used = true;
  struct slot *slot = find_slot(queue, fault->offset);
  uint32_t state = EMPTY;
  if (slot == NULL) {
    miss(queue, fault->offset);
  } else {
    queue->misses = 0;
    if (fault->cover_length >= SLOT_BYTES) help(queue, slot, reader); /* less is wanted at once while faults come */
    state = await(queue, slot);
    if (state == FAILED) empty_slot(slot); /* the handler finds out of which page, and why */
  }
  fill_slots(queue);
  if (state == TAKEN) return -EAGAIN;
  if (state != READY) return 0;
  uint64_t low = max_u64(slot->low, fault->cover_offset);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->offset = low;
  answer->length = min_u64(slot->high, fault->cover_offset + fault->cover_length) - low;
  answer->data = queue->buffers + (uint64_t)(slot - queue->slots) * SLOT_BYTES + (low - slot->low);
  return 1;
}

/* A handler has nothing to do between two steps of a prefetch, too: a queue that was used meanwhile stays. */
int uffd_ahead_tidy(struct uffd_ahead_queue *queue) {
  bool used = queue->used;
  queue->used = false;
  if (!queue->touched) return 0;
  if (used) return 1;
  for (uint32_t i = 0; i < SLOTS; i++) {
    uint32_t state = atomic_load_explicit(&queue->slots[i].state, memory_order_relaxed);
    if (state == WANTED || state == TAKEN) return 1;
  }
  forget_all(queue);
  madvise(queue->buffers, SLOTS * SLOT_BYTES, MADV_DONTNEED);
  queue->touched = false;
  BARRIER("ahead tidied", queue);
  return 0;
}

/* The threads */

/* Queues take turns: the one that got a thread goes behind the others. */
static void put_last(struct uffd_ahead *ahead, struct uffd_ahead_queue **link) {
  struct uffd_ahead_queue *queue = *link;
  *link = queue->next;
  queue->next = NULL;
  for (link = &ahead->queues; *link != NULL;) {
    link = &(*link)->next;
  }
  *link = queue;
}

/* Under the lock. */
static struct slot *take_wanted(struct uffd_ahead *ahead, struct uffd_ahead_queue **of) {
  for (struct uffd_ahead_queue **link = &ahead->queues; *link != NULL; link = &(*link)->next) {
    struct uffd_ahead_queue *queue = *link;
    uint32_t wanted = WANTED;
    struct slot *slot = find_wanted(queue);
    if (slot == NULL || !atomic_compare_exchange_strong(&slot->state, &wanted, TAKEN)) continue;
    queue->decoding++;
    put_last(ahead, link);
    *of = queue;
    return slot;
  }
  return NULL;
}

static void decode(const struct thread *thread, struct uffd_ahead_queue *queue, struct slot *slot) {
  uint32_t number = (uint32_t)(slot - queue->slots), awaited = number + 1;
  BARRIER("decoding ahead", slot);
  int result = uffd_image_gather(thread->ahead->image, thread->reader, slot->low, queue->buffers + number * SLOT_BYTES,
                                 slot->high - slot->low);
  atomic_store(&slot->state, result < 0 ? FAILED : READY);
  if (atomic_compare_exchange_strong(&queue->awaited, &awaited, 0)) queue->bell->ring(queue->bell->ctx);
}

static bool work(const struct thread *thread) {
  struct uffd_ahead *ahead = thread->ahead;
  struct uffd_ahead_queue *queue;
  pthread_mutex_lock(&ahead->lock);
  struct slot *slot = take_wanted(ahead, &queue);
  pthread_mutex_unlock(&ahead->lock);
  if (slot == NULL) return false;
  decode(thread, queue, slot);
  pthread_mutex_lock(&ahead->lock);
  queue->decoding--;
  pthread_cond_broadcast(&ahead->done);
  pthread_mutex_unlock(&ahead->lock);
  return true;
}

static void *run(void *argument) {
  const struct thread *thread = argument;
  struct uffd_ahead *ahead = thread->ahead;
  while (!atomic_load(&ahead->stop)) {
    uint32_t seen = atomic_load(&ahead->work);
    if (work(thread)) continue;
    atomic_fetch_add(&ahead->sleepers, 1);
    uffd_futex_wait(&ahead->work, seen);
    atomic_fetch_sub(&ahead->sleepers, 1);
  }
  return NULL;
}

/* Joining, starting */

struct uffd_ahead_queue *uffd_ahead_join(struct uffd_ahead *ahead, const struct uffd_bell *bell) {
  struct uffd_ahead_queue *queue = NEW(struct uffd_ahead_queue);
  if (queue == NULL) return NULL;
  queue->ahead = ahead;
  queue->bell = bell;
  pthread_mutex_lock(&ahead->lock);
  queue->next = ahead->queues;
  ahead->queues = queue;
  pthread_mutex_unlock(&ahead->lock);
  return queue;
}

static void take_out(struct uffd_ahead_queue *queue) {
  struct uffd_ahead *ahead = queue->ahead;
  if (ahead->process != uffd_process()) return;
  pthread_mutex_lock(&ahead->lock);
  struct uffd_ahead_queue **link = &ahead->queues;
  while (*link != queue) {
    link = &(*link)->next;
  }
  *link = queue->next;
  pthread_mutex_unlock(&ahead->lock);
  BARRIER("leaving ahead", queue);
  pthread_mutex_lock(&ahead->lock);
  while (queue->decoding != 0) {
    pthread_cond_wait(&ahead->done, &ahead->lock);
  }
  pthread_mutex_unlock(&ahead->lock);
}

void uffd_ahead_leave(struct uffd_ahead_queue *queue) {
  if (queue == NULL) return;
  take_out(queue);
  if (queue->buffers != NULL) uffd_pages_unmap(queue->buffers, SLOTS * SLOT_BYTES);
  DELETE(queue);
}

/* One processor is left to whoever installs: a thread that decodes in its stead would gain nothing. */
static uint32_t choose_count(const uffd_image *image) {
  cpu_set_t set;
  if (image->decoders != 0) return image->decoders < 0 ? 0 : (uint32_t)image->decoders;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1; /* more processors than a set has room for */
  return (uint32_t)min_u64((uint64_t)CPU_COUNT(&set) - 1, UFFD_IMAGE_DECODERS);
}

static bool is_of_use(const uffd_image *image) {
  for (size_t i = 0; i < image->count; i++) {
    if (image->layers[i]->source->class->join != NULL) return false;
  }
  return image->need.frame != 0 && image->need.frame <= SLOT_BYTES;
}

void uffd_ahead_end(struct uffd_ahead *ahead) {
  if (ahead == NULL) return;
  atomic_store(&ahead->stop, true);
  atomic_fetch_add(&ahead->work, 1);
  uffd_futex_wake(&ahead->work, (int)UFFD_IMAGE_DECODERS);
  for (uint32_t i = 0; i < ahead->count; i++) {
    if (ahead->process == uffd_process()) pthread_join(ahead->threads[i].thread, NULL);
    uffd_reader_free(ahead->threads[i].reader);
  }
  pthread_cond_destroy(&ahead->done);
  pthread_mutex_destroy(&ahead->lock);
  DELETE(ahead);
}

struct uffd_ahead *uffd_ahead_start(const uffd_image *image) {
  uint32_t count = choose_count(image);
  struct uffd_ahead *ahead = count == 0 || !is_of_use(image) ? NULL : NEW(struct uffd_ahead);
  if (ahead == NULL) return NULL;
  ahead->image = image;
  ahead->process = uffd_process();
  pthread_mutex_init(&ahead->lock, NULL);
  pthread_cond_init(&ahead->done, NULL);
  for (; ahead->count < count; ahead->count++) {
    struct thread *thread = &ahead->threads[ahead->count];
    thread->ahead = ahead;
    if (uffd_reader_make(&image->need, &thread->reader) < 0) break;
    if (uffd_thread_start(&thread->thread, run, thread, "uffd-decode") < 0) {
      uffd_reader_free(thread->reader);
      break;
    }
  }
  if (ahead->count > 0) return ahead;
  uffd_ahead_end(ahead);
  return NULL;
}
