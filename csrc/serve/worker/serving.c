/*
 * A client in its worker: its resolver, its loop, its regions, and how it is left for the next worker.
 */
#include "serve/worker/serving.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "loop/addition.h"
#include "memory/lending.h"
#include "serve/paper/channel.h"
#include "serve/paper/closer.h"
#include "serve/worker/prefetch.h"

#define SAME_NS  UINT64_C(1000000) /* the age of a fault and the clock are not read at the same moment */
#define FORK_NS  UINT64_C(5000000) /* a fork costs a client so much time when it has forked often, */
#define FORK_MAX 64u               /* so many times at once */

/* In the client's only handler: plain stores are enough. */
static void trace(void *ctx, const struct uffd_trace *record) {
  const struct uffd_serving *serving = ctx;
  const struct uffd_place *place = record->cookie;
  if (record->outcome == UFFD_OUTCOME_DEFERRED) return;
  _Atomic uint64_t *answered = &serving->book.head->answered;
  atomic_store_explicit(answered, atomic_load_explicit(answered, memory_order_relaxed) + 1, memory_order_relaxed);
  if (record->outcome == UFFD_OUTCOME_GONE) return;
  uffd_book_touch(&serving->book, place->first_page + record->offset / place->is.page_size,
                  place->is.offset + record->offset, record->flags);
}

/*
 * In the handler, when a FORK was read. The kernel gives the child's userfaultfd to this process alone. If this process
 * is killed before the message is sent, the child's missing pages read as zeros: this one system call comes first.
 */
static void forking(void *ctx, int fd, uint32_t index) {
  struct uffd_serving *serving = ctx;
  struct uffd_shop *shop = serving->shop;
  uint64_t number = uffd_orphan_announce(&shop->orphans, &shop->mouth, serving->client.id, fd, index);
  if (serving->announced_count < UFFD_CHILDREN) serving->announced[serving->announced_count++] = number;
}

static uint64_t take_announced(struct uffd_serving *serving) {
  if (serving->announced_count == 0) return 0;
  uint64_t first = serving->announced[0];
  serving->announced_count--;
  memmove(serving->announced, serving->announced + 1, serving->announced_count * sizeof(first));
  return first;
}

/* Into new memory, whole pages: what is zero stays unwritten, and takes no memory. */
static void copy_sparse(char *to, const char *from, uint64_t length) {
  static const char zeros[BASE_PAGE];
  for (uint64_t at = 0; at < length; at += BASE_PAGE) {
    if (memcmp(from + at, zeros, BASE_PAGE) != 0) memcpy(to + at, from + at, BASE_PAGE);
  }
}

/* 0: the supervisor has its descriptors, or will have them. */
static int send_book(struct uffd_serving *serving, uint64_t number, const uffd_object *child, const void *ledger,
                     uint64_t length) {
  struct uffd_shop *shop = serving->shop;
  struct uffd_book book = UFFD_BOOK_INIT;
  uint64_t image = serving->stock != NULL ? serving->stock->backing.number : 0;
  int result = uffd_book_fork(&serving->book, &book);
  if (result < 0) return result;
  copy_sparse(uffd_book_ledger(&book), ledger, min_u64(length, book.head->ledger_length));
  int fd = fcntl(uffd_fd(child), F_DUPFD_CLOEXEC, 0);
  result = fd < 0 ? -errno : 0;
  if (result == 0)
    result = uffd_orphan_tell(&shop->orphans, &shop->mouth, serving->client.id, number, image, fd, book.fd);
  if (result == 0) book.fd = -1; /* only unmapped below */
  if (result < 0) uffd_close_fds(&fd, 1);
  uffd_book_close(&book);
  return result;
}

/*
 * A storm of forks makes worker and supervisor work for each child. It is slowed down where it costs nobody but the
 * client: its handler waits, and a fork returns only when the one before was read.
 */
static void slow_down(struct uffd_serving *serving) {
  uint64_t now = uffd_now(), ahead = FORK_MAX * FORK_NS;
  serving->forks_ns = max_u64(serving->forks_ns, now) + FORK_NS;
  if (serving->forks_ns <= now + ahead) return;
  uint64_t pause = serving->forks_ns - now - ahead;
  (void)nanosleep(&(struct timespec){.tv_nsec = (long)pause}, NULL);
}

/* In the handler, when all before the FORK was applied: the book follows the descriptor. */
static int forked(void *ctx, uffd_object *child, const void *ledger, uint64_t length) {
  struct uffd_serving *serving = ctx;
  const struct uffd_mouth *mouth = &serving->shop->mouth;
  if (child == NULL) {
    uffd_say(mouth, UFFD_SAY_ERROR, serving->client.id, EOWNERDEAD,
             "A worker died in the moment in which it read of a forked child of it, whose missing pages may read as "
             "zeros.");
    return 0;
  }
  uint64_t number = take_announced(serving);
  BARRIER("booking", serving);
  int result = send_book(serving, number, child, ledger, length);
  slow_down(serving);
  if (result == 0) {
    uffd_close(child);
    return 0;
  }
  struct uffd_message none = {.kind = UFFD_SAY_BOOK, .client = serving->client.id, .number = number, .error = -result};
  (void)uffd_say_message(mouth, &none, NULL, 0);
  return result; /* this loop serves the child */
}

static void release(struct uffd_serving *serving) {
  for (uint32_t i = 0; serving->places != NULL && i < serving->client.regions_count; i++) {
    uffd_prefetch_close(serving->places[i].prefetch);
    uffd_memory_close(serving->places[i].memory);
  }
  uffd_resolver_close(serving->resolver);
  uffd_close(serving->object); /* it unregisters what it has registered itself, which is nothing */
  uffd_book_close(&serving->book);
  uffd_close_fds(&serving->pidfd, 1);
  uffd_close_foreign(serving->fds, serving->client.fds_count);
  uffd_release(serving->places, serving->client.regions_count * sizeof(*serving->places));
  pthread_mutex_destroy(&serving->filling_lock);
  DELETE(serving);
}

static void take_parcel(struct uffd_serving *serving, struct uffd_parcel *parcel) {
  serving->stock = parcel->stock;
  serving->book = parcel->book;
  serving->pidfd = parcel->pidfd;
  memcpy(serving->fds, parcel->fds, sizeof(parcel->fds));
  const struct uffd_book_head *head = serving->book.head;
  serving->epoch = atomic_load_explicit(&head->epoch, memory_order_acquire);
  serving->client = (struct uffd_client){
      .id = head->id,
      .of = head->of,
      .pid = head->pid,
      .uid = head->uid,
      .gid = head->gid,
      .regions_count = head->regions_count,
      .regions = uffd_book_regions(&serving->book),
      .fds = serving->fds,
      .fds_count = parcel->fds_count,
      .label = head->label,
      .socket = head->socket,
  };
}

static bool is_shared(const struct uffd_serving *serving) {
  return serving->book.head->shared != 0;
}

/* Its memory is a mapping of what the image shares: its pages are filled there, and mapped from there. */
static int share_resolver(struct uffd_serving *serving) {
  const struct uffd_stock *stock = serving->stock;
  if (stock == NULL || serving->shop->supply.opts.resolver != NULL) {
    return fail(EINVAL, "A client that shares the pages of the image has its contents, and no resolver of its own.");
  }
  if (stock->shared == NULL) return fail(ENOMEM, "The image's pages cannot be shared: %s", stock->common_why.text);
  serving->resolver = stock->shared;
  uffd_resolver_hold(serving->resolver);
  return 0;
}

static int make_resolver(struct uffd_serving *serving) {
  if (is_shared(serving)) return share_resolver(serving);
  const struct uffd_pager_opts *opts = &serving->shop->supply.opts;
  uffd_resolver *image = serving->stock != NULL ? serving->stock->resolver : NULL;
  if (opts->resolver != NULL) {
    int result = opts->resolver(opts->resolver_ctx, &serving->client, image, &serving->resolver);
    if (result >= 0 && serving->resolver == NULL) return fail(EINVAL, "The resolver of a client was not made.");
    if (result < 0 && serving->resolver == image) serving->resolver = NULL; /* it was named, and is not held */
    if (result < 0 || serving->resolver != image) return result;
  }
  if (image == NULL) return fail(EINVAL, "The client has no image.");
  serving->resolver = image;
  uffd_resolver_hold(serving->resolver);
  return 0;
}

static int make_loop(struct uffd_serving *serving) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.engine = UFFD_ENGINE_THREADS;
  opts.handlers = 1;
  opts.flags = UFFD_LOOP_PAUSED;
  opts.ledger = uffd_book_ledger(&serving->book);
  opts.ledger_size = serving->book.head->ledger_length;
  opts.failed = uffd_flaws_note;
  opts.failed_ctx = &serving->flaws;
  opts.forked = forked;
  opts.forking = forking;
  opts.forked_ctx = serving;
  int result = uffd_loop_create(&opts, &serving->loop);
  return result < 0 ? result : uffd_loop_trace(serving->loop, trace, serving);
}

/* A page that came with a neighbour causes no fault, so its touch is not seen: a record needs answers of one page. */
static uint64_t choose_around(const struct uffd_pager_opts *opts) {
  return opts->record != NULL ? UFFD_AROUND_PAGE : opts->around;
}

static int describe_region(struct uffd_serving *serving, struct uffd_place *place, struct uffd_addition *addition) {
  struct uffd_foreign_opts foreign = UFFD_FOREIGN_OPTS_INIT;
  *addition = (struct uffd_addition){.resolver = serving->resolver, .opts = UFFD_REGION_OPTS_INIT};
  foreign.page_size = place->is.page_size;
  foreign.pid = serving->client.pid;
  int result = uffd_memory_foreign(place->is.address, place->is.length, &foreign, &place->memory);
  if (result < 0) return result;
  if (is_shared(serving)) {
    uffd_memory_share(place->memory, serving->stock->common, place->is.offset);
    addition->opts.modes = UFFD_MODE_MISSING | UFFD_MODE_MINOR;
  }
  addition->memory = place->memory;
  addition->opts.resolver_offset = place->is.offset;
  addition->opts.around = choose_around(&serving->shop->supply.opts);
  addition->opts.object = serving->object;
  addition->opts.cookie = place;
  return 0;
}

static int describe_regions(struct uffd_serving *serving, struct uffd_addition *additions) {
  uint64_t page = 0;
  int result = 0;
  for (uint32_t i = 0; i < serving->client.regions_count && result == 0; i++) {
    struct uffd_place *place = &serving->places[i];
    place->is = serving->client.regions[i];
    place->serving = serving;
    place->first_page = page;
    page += place->is.length / place->is.page_size;
    result = describe_region(serving, place, &additions[i]);
  }
  return result;
}

static int add_regions(struct uffd_serving *serving) {
  uint32_t count = serving->client.regions_count;
  struct uffd_addition *additions = uffd_alloc(count * sizeof(*additions));
  if (additions == NULL) return fail(ENOMEM, "No memory for a client.");
  int result = describe_regions(serving, additions);
  if (result == 0) result = uffd_loop_add_all(serving->loop, additions, count);
  for (uint32_t i = 0; i < count && result == 0; i++) {
    serving->places[i].region = additions[i].region;
  }
  uffd_release(additions, count * sizeof(*additions));
  return result;
}

static int make_all(struct uffd_serving *serving, struct uffd_parcel *parcel) {
  serving->places = uffd_alloc(serving->client.regions_count * sizeof(*serving->places));
  if (serving->places == NULL) return fail(ENOMEM, "No memory for a client.");
  int result = make_resolver(serving);
  if (result < 0) return result;
  result = uffd_adopt(parcel->object_fd, &serving->object);
  if (result < 0) return result;
  parcel->object_fd = -1;
  result = make_loop(serving);
  return result < 0 ? result : add_regions(serving);
}

void uffd_parcel_close(struct uffd_parcel *parcel) {
  uffd_book_close(&parcel->book);
  uffd_close_fds(&parcel->object_fd, 1);
  uffd_close_fds(&parcel->pidfd, 1);
  uffd_close_foreign(parcel->fds, UFFD_HANDSHAKE_FDS);
}

int uffd_serving_make(struct uffd_shop *shop, struct uffd_parcel *parcel, struct uffd_serving **made) {
  struct uffd_serving *serving = NEW(struct uffd_serving);
  if (serving == NULL) {
    uffd_parcel_close(parcel);
    return fail(ENOMEM, "No memory for a client.");
  }
  serving->shop = shop;
  serving->held = true;
  pthread_mutex_init(&serving->filling_lock, NULL);
  take_parcel(serving, parcel);
  int result = make_all(serving, parcel);
  if (result == 0) {
    *made = serving;
    return 0;
  }
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_loop_close(serving->loop);
  uffd_close_fds(&parcel->object_fd, 1);
  release(serving);
  uffd_restore_sentence(&why);
  return result;
}

int uffd_serving_start(struct uffd_serving *serving) {
  struct uffd_book_head *head = serving->book.head;
  int result = uffd_book_claim(&serving->book, serving->epoch);
  if (result < 0) return result;
  atomic_store_explicit(&head->phase, UFFD_BOOK_SERVING, memory_order_release);
  result = uffd_loop_start(serving->loop);
  if (result < 0) return result;
  if (atomic_load_explicit(&head->later, memory_order_acquire) == 0) uffd_serving_prefetch(serving);
  serving->held = false;
  return 0;
}

static void publish(const struct uffd_serving *serving, uint64_t oldest_ns) {
  struct uffd_figures figures = {.oldest_ns = oldest_ns, .stats = UFFD_STATS_INIT};
  uffd_latencies_take(serving->loop, &figures.latencies);
  if (uffd_loop_stats(serving->loop, &figures.stats) == 0) uffd_book_publish(&serving->book, &figures);
}

static void tell_late(struct uffd_serving *serving, const struct uffd_waiting *waiting) {
  const struct uffd_place *place = waiting->cookie;
  char text[UFFD_MESSAGE_TEXT], where[64] = "in none of its regions";
  if (place != NULL) snprintf(where, sizeof(where), "0x%" PRIx64 " in the image", place->is.offset + waiting->offset);
  snprintf(text, sizeof(text),
           "A fault waits for %" PRIu64 " ms: page 0x%" PRIx64 " of the client, %s, asked of the resolver \"%s\".",
           waiting->age_ns / 1000000, waiting->address, where, waiting->resolver);
  uffd_say(&serving->shop->mouth, UFFD_SAY_LATE, serving->client.id, 0, text);
}

/* The age of the oldest fault. A late one is told once; a fault that was read later is another one. */
static uint64_t inspect_faults(struct uffd_serving *serving) {
  struct uffd_waiting waiting = UFFD_WAITING_INIT;
  if (uffd_loop_oldest(serving->loop, &waiting) <= 0) return 0;
  uint64_t read_ns = uffd_now() - waiting.age_ns;
  if (waiting.age_ns > UINT64_C(1000000) * serving->shop->supply.opts.watchdog_ms &&
      read_ns > serving->late_ns + SAME_NS) {
    serving->late_ns = read_ns;
    tell_late(serving, &waiting);
  }
  return waiting.age_ns;
}

static void tell_flaws(struct uffd_serving *serving) {
  int error = uffd_loop_error(serving->loop, NULL, 0);
  if (error != 0) uffd_flaws_tell(&serving->flaws, &serving->shop->mouth, serving->client.id, error);
}

void uffd_serving_inspect(struct uffd_serving *serving) {
  publish(serving, inspect_faults(serving));
  tell_flaws(serving);
  uffd_serving_go_on(serving);
}

static void *complete(void *argument) {
  struct uffd_serving *serving = argument;
  int result = uffd_loop_complete(serving->loop);
  uffd_say(&serving->shop->mouth, UFFD_SAY_COMPLETED, serving->client.id, -result, result < 0 ? uffd_errmsg() : "");
  return NULL;
}

/* In a thread of its own: it takes as long as filling the memory takes, and others are served meanwhile. */
void uffd_serving_complete(struct uffd_serving *serving) {
  if (serving->completing) return;
  int result = uffd_thread_start(&serving->completer, complete, serving, "uffd-complete");
  serving->completing = result == 0;
  if (result < 0) uffd_say(&serving->shop->mouth, UFFD_SAY_COMPLETED, serving->client.id, -result, uffd_errmsg());
}

void uffd_serving_end(struct uffd_serving *serving, uint32_t phase) {
  struct uffd_book_head *head = serving->book.head;
  if (!serving->held) publish(serving, 0);
  if (!serving->held) tell_flaws(serving); /* before it is said that the client is released */
  uffd_loop_close(serving->loop);          /* the completing thread returns when it is closed */
  if (serving->completing) pthread_join(serving->completer, NULL);
  if (!serving->held) atomic_store_explicit(&head->phase, phase, memory_order_release);
  release(serving);
}
