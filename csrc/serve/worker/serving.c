/*
 * A client in its worker: its resolver, its loop, its regions; and how it is left for the next worker.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve/supervisor/pager.h"
#include "serve/worker/serving.h"

#define SAME_NS UINT64_C(1000000) /* a fault's age and the clock are not read at once */

/* ---- hooks of the loop */

/* In the handler of the client, the only one: plain stores are enough. */
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
 * In the handler, when a FORK was read. From then on and until the message is under way the child's object is in this
 * process only: if it is killed within these microseconds, what is missing in the child reads as zeros. The kernel
 * hands the descriptor to one process.
 */
static int forked(void *ctx, uffd_object *child, const void *ledger, uint64_t length) {
  struct uffd_serving *serving = ctx;
  struct uffd_book book = UFFD_BOOK_INIT;
  if (child == NULL) {
    uffd_work_say(serving->work, UFFD_SAY_ERROR, serving->client.id, EOWNERDEAD,
                  "A worker died while it took in a forked child of it, whose missing pages may read as zeros.");
    return 0;
  }
  int result = uffd_book_fork(&serving->book, ledger, length, &book);
  int fd = result == 0 ? fcntl(uffd_fd(child), F_DUPFD_CLOEXEC, 0) : -1;
  if (result == 0 && fd < 0) result = -errno;
  if (result == 0) result = uffd_work_forked(serving->work, serving->client.id, fd, book.fd);
  if (result == 0) book.fd = -1;
  uffd_book_close(&book);
  if (result == 0) {
    uffd_close(child);
  } else {
    uffd_close_fds(&fd, 1); /* this loop serves it then */
  }
  return result;
}

/* ---- making */

static void release(struct uffd_serving *serving) {
  for (uint32_t i = 0; serving->places != NULL && i < serving->client.regions_count; i++) {
    uffd_prefetch_close(serving->places[i].prefetch);
    uffd_memory_close(serving->places[i].memory);
  }
  uffd_resolver_close(serving->resolver);
  uffd_close(serving->object); /* nothing was registered by it, so nothing is unregistered */
  uffd_book_close(&serving->book);
  uffd_close_fds(&serving->pidfd, 1);
  uffd_close_fds(serving->fds, serving->client.fds_count);
  free(serving->places);
  free(serving);
}

static void take_parcel(struct uffd_serving *serving, struct uffd_parcel *parcel) {
  serving->book = parcel->book;
  serving->pidfd = parcel->pidfd;
  memcpy(serving->fds, parcel->fds, sizeof(parcel->fds));
  const struct uffd_book_head *head = serving->book.head;
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
  };
}

static int make_resolver(struct uffd_serving *serving) {
  const struct uffd_work *work = serving->work;
  if (work->opts.resolver != NULL) {
    int result = work->opts.resolver(work->opts.resolver_ctx, &serving->client, work->image, &serving->resolver);
    if (result >= 0 && serving->resolver == NULL) return fail(EINVAL, "The resolver of a client was not made.");
    if (result < 0 || serving->resolver != work->image) return result;
  }
  serving->resolver = work->image;
  uffd_resolver_hold(serving->resolver);
  return 0;
}

/* Never zeros: where pages cannot be poisoned (before Linux 6.6) the fault waits until the resolver has an answer. */
static uint32_t choose_on_error(void) {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  bool poisons = uffd_probe(&probe) == 0 && (probe.features & UFFD_FEAT_POISON) != 0;
  return poisons ? UFFD_ON_ERROR_POISON : UFFD_ON_ERROR_RETRY;
}

static int make_loop(struct uffd_serving *serving) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.engine = UFFD_ENGINE_THREADS;
  opts.handlers = 1;
  opts.on_error = choose_on_error();
  opts.flags = UFFD_LOOP_PAUSED;
  opts.ledger = uffd_book_ledger(&serving->book);
  opts.ledger_size = serving->book.head->ledger_length;
  opts.forked = forked;
  opts.forked_ctx = serving;
  int result = uffd_loop_create(&opts, &serving->loop);
  return result < 0 ? result : uffd_loop_trace(serving->loop, trace, serving);
}

/* Touches of what an answer brought along are not seen: while they are recorded, an answer is one page. */
static uint64_t choose_around(const struct uffd_pager_opts *opts) {
  if (opts->record != NULL) return 0;
  return opts->around != 0 ? opts->around : UFFD_AROUND_AUTO;
}

static int add_region(struct uffd_serving *serving, struct uffd_place *place) {
  struct uffd_foreign_opts foreign = UFFD_FOREIGN_OPTS_INIT;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  foreign.page_size = place->is.page_size;
  foreign.pid = serving->client.pid;
  int result = uffd_memory_foreign(place->is.address, place->is.length, &foreign, &place->memory);
  if (result < 0) return result;
  opts.resolver_offset = place->is.offset;
  opts.around = choose_around(&serving->work->opts);
  opts.object = serving->object;
  opts.cookie = place;
  return uffd_loop_add(serving->loop, place->memory, serving->resolver, &opts, &place->region);
}

static int add_regions(struct uffd_serving *serving) {
  uint64_t page = 0;
  for (uint32_t i = 0; i < serving->client.regions_count; i++) {
    struct uffd_place *place = &serving->places[i];
    place->is = serving->client.regions[i];
    place->serving = serving;
    place->first_page = page;
    page += place->is.length / place->is.page_size;
    int result = add_region(serving, place);
    if (result < 0) return result;
  }
  return 0;
}

static int make_all(struct uffd_serving *serving, struct uffd_parcel *parcel) {
  serving->places = calloc(serving->client.regions_count, sizeof(*serving->places));
  if (serving->places == NULL) return fail(ENOMEM, "No memory for a client.");
  int result = make_resolver(serving);
  if (result < 0) return result;
  result = uffd_adopt(parcel->object_fd, &serving->object);
  if (result < 0) return result;
  parcel->object_fd = -1;
  result = make_loop(serving);
  return result < 0 ? result : add_regions(serving);
}

int uffd_serving_make(struct uffd_work *work, struct uffd_parcel *parcel, struct uffd_serving **made) {
  struct uffd_serving *serving = calloc(1, sizeof(*serving));
  if (serving == NULL) {
    uffd_book_close(&parcel->book);
    uffd_close_fds(&parcel->object_fd, 1);
    uffd_close_fds(&parcel->pidfd, 1);
    uffd_close_fds(parcel->fds, UFFD_HANDSHAKE_FDS);
    return fail(ENOMEM, "No memory for a client.");
  }
  serving->work = work;
  serving->held = true;
  take_parcel(serving, parcel);
  int result = make_all(serving, parcel);
  if (result == 0) {
    *made = serving;
    return 0;
  }
  char why[512];
  snprintf(why, sizeof(why), "%s", uffd_errmsg());
  uffd_loop_close(serving->loop);
  uffd_close_fds(&parcel->object_fd, 1);
  release(serving);
  return fail(-result, "%s", why);
}

/* ---- prefetching */

static uint64_t add_range(const struct uffd_place *place, const struct uffd_range *range, struct uffd_range *clipped) {
  uint64_t start = max_u64(range->offset, place->is.offset);
  uint64_t end = min_u64(range->offset + range->length, place->is.offset + place->is.length);
  if (start >= end) return 0;
  start = round_down(start - place->is.offset, place->is.page_size);
  end = round_up(end - place->is.offset, place->is.page_size);
  *clipped = (struct uffd_range){.offset = start, .length = end - start};
  return end - start;
}

/* The client's rate is shared out by what its regions want. */
static uint64_t share_rate(uint64_t rate, uint64_t part, uint64_t whole) {
  if (rate == 0 || whole == 0) return rate;
  return max_u64((uint64_t)((double)rate * (double)part / (double)whole), 1);
}

static uint64_t wanted(const struct uffd_work *work, const struct uffd_client *client) {
  uint64_t bytes = 0;
  struct uffd_range clipped;
  for (uint32_t i = 0; i < client->regions_count; i++) {
    struct uffd_place place = {.is = client->regions[i]};
    for (size_t j = 0; j < work->replay_count; j++) {
      bytes += add_range(&place, &work->replay[j], &clipped);
    }
  }
  return bytes;
}

static int replay(struct uffd_place *place, uint64_t all) {
  const struct uffd_work *work = place->serving->work;
  struct uffd_range *ranges = calloc(work->replay_count, sizeof(*ranges));
  if (ranges == NULL) return fail(ENOMEM, "No memory for a working set.");
  size_t count = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < work->replay_count; i++) {
    uint64_t more = add_range(place, &work->replay[i], &ranges[count]);
    bytes += more;
    if (more != 0) count++;
  }
  int result = 0;
  if (count != 0) {
    struct uffd_prefetch_opts opts = UFFD_PREFETCH_OPTS_INIT;
    opts.rate = share_rate(work->opts.rate, bytes, all);
    result = uffd_region_prefetch_start(place->region, ranges, count, &opts, &place->prefetch);
  }
  free(ranges);
  return result;
}

static int fill(struct uffd_place *place) {
  const struct uffd_serving *serving = place->serving;
  uint64_t all = 0;
  for (uint32_t i = 0; i < serving->client.regions_count; i++) {
    all += serving->client.regions[i].length;
  }
  struct uffd_prefetch_opts opts = UFFD_PREFETCH_OPTS_INIT;
  opts.rate = share_rate(serving->work->opts.rate, place->is.length, all);
  return uffd_region_prefetch_start(place->region, NULL, 0, &opts, &place->prefetch);
}

/* A client that is not prefetched is served all the same. */
static void prefetch(struct uffd_serving *serving) {
  const struct uffd_work *work = serving->work;
  uint64_t all = work->replay_count != 0 ? wanted(work, &serving->client) : 0;
  for (uint32_t i = 0; i < serving->client.regions_count; i++) {
    struct uffd_place *place = &serving->places[i];
    int result = 0;
    if (work->replay_count != 0) result = replay(place, all);
    place->replaying = place->prefetch != NULL;
    if (result == 0 && place->prefetch == NULL && (work->opts.flags & UFFD_PAGER_PREFETCH) != 0) result = fill(place);
    if (result < 0) uffd_work_say(serving->work, UFFD_SAY_ERROR, serving->client.id, -result, uffd_errmsg());
  }
}

static void watch_prefetch(struct uffd_place *place) {
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  if (place->prefetch == NULL || uffd_prefetch_status(place->prefetch, &status) < 0 || status.done == 0) return;
  uffd_prefetch_close(place->prefetch);
  place->prefetch = NULL;
  if (place->replaying && (place->serving->work->opts.flags & UFFD_PAGER_PREFETCH) != 0) (void)fill(place);
  place->replaying = false;
}

/* ---- serving */

int uffd_serving_start(struct uffd_serving *serving) {
  struct uffd_book_head *head = serving->book.head;
  atomic_store_explicit(&head->phase, UFFD_BOOK_SERVING, memory_order_release);
  int result = uffd_loop_start(serving->loop);
  if (result < 0) return result;
  prefetch(serving);
  serving->held = false;
  return 0;
}

static void publish(const struct uffd_serving *serving, uint64_t oldest_ns) {
  struct uffd_figures figures = {.oldest_ns = oldest_ns, .stats = UFFD_STATS_INIT};
  if (uffd_loop_stats(serving->loop, &figures.stats) == 0) uffd_book_publish(&serving->book, &figures);
}

static void tell_late(struct uffd_serving *serving, const struct uffd_waiting *waiting) {
  const struct uffd_place *place = waiting->cookie;
  char text[sizeof(((struct uffd_message *)NULL)->text)], where[64] = "in none of its regions";
  if (place != NULL) snprintf(where, sizeof(where), "0x%" PRIx64 " in the image", place->is.offset + waiting->offset);
  snprintf(text, sizeof(text),
           "A fault waits for %" PRIu64 " ms: page 0x%" PRIx64 " of the client, %s, asked of the resolver \"%s\".",
           waiting->age_ns / 1000000, waiting->address, where, waiting->resolver);
  uffd_work_say(serving->work, UFFD_SAY_LATE, serving->client.id, 0, text);
}

/* The age of the oldest fault; one that is late is told of once: younger ones were read later. */
static uint64_t watch_faults(struct uffd_serving *serving) {
  struct uffd_waiting waiting = UFFD_WAITING_INIT;
  if (uffd_loop_oldest(serving->loop, &waiting) <= 0) return 0;
  uint64_t read_ns = uffd_now() - waiting.age_ns;
  if (waiting.age_ns > UINT64_C(1000000) * serving->work->opts.watchdog_ms && read_ns > serving->late_ns + SAME_NS) {
    serving->late_ns = read_ns;
    tell_late(serving, &waiting);
  }
  return waiting.age_ns;
}

void uffd_serving_watch(struct uffd_serving *serving) {
  publish(serving, watch_faults(serving));
  char text[sizeof(((struct uffd_message *)NULL)->text)];
  int error = serving->failed ? 0 : uffd_loop_error(serving->loop, text, sizeof(text));
  if (error != 0) {
    serving->failed = true;
    uffd_work_say(serving->work, UFFD_SAY_ERROR, serving->client.id, error, text);
  }
  for (uint32_t i = 0; i < serving->client.regions_count; i++) {
    watch_prefetch(&serving->places[i]);
  }
}

static void *complete(void *argument) {
  struct uffd_serving *serving = argument;
  int result = uffd_loop_complete(serving->loop);
  uffd_work_say(serving->work, UFFD_SAY_COMPLETED, serving->client.id, -result, result < 0 ? uffd_errmsg() : "");
  return NULL;
}

/* It takes as long as filling the memory takes, and others are served meanwhile. */
void uffd_serving_complete(struct uffd_serving *serving) {
  if (serving->completing) return;
  int error = pthread_create(&serving->completer, NULL, complete, serving);
  serving->completing = error == 0;
  if (error == 0) return;
  uffd_work_say(serving->work, UFFD_SAY_COMPLETED, serving->client.id, error, "There is no thread to complete it in.");
}

void uffd_serving_end(struct uffd_serving *serving, uint32_t phase) {
  struct uffd_book_head *head = serving->book.head;
  if (!serving->held) publish(serving, 0);
  uffd_loop_close(serving->loop); /* who completes comes out of it */
  if (serving->completing) pthread_join(serving->completer, NULL);
  if (!serving->held) atomic_store_explicit(&head->phase, phase, memory_order_release);
  release(serving);
}
