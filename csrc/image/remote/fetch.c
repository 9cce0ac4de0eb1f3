/*
 * The fetch thread of a remote source: what is demanded comes before what may be wanted soon, at most UFFD_FLIGHTS
 * requests are under way, and of all processes one fetches a unit. What has arrived is checked and decoded here,
 * written to the cache, and only then is it known. Nothing that was begun is cancelled, but when the source ends.
 */
#include "image/remote/fetch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "image/digest.h"

#define GROUP        (UINT64_C(256) << 10) /* bytes that a demand brings: the units around it */
#define JOB_BYTES    (UINT64_C(1) << 20)   /* of one request, when it is not demanded */
#define AHEAD_FIRST  (UINT64_C(1) << 20)   /* bytes that are fetched ahead of a reader in order, at first, */
#define AHEAD_MOST   (UINT64_C(16) << 20)  /* and at most */
#define FLIGHTS_KEPT 4u                    /* for demands */
#define SOON_TRIES   3u                    /* of what nobody waits for */
#define READERS      8u                    /* in order, that are told apart */
#define FOREIGN_MS   1                     /* between two looks at what another process fetches, */
#define FOREIGN_MOST 20000u                /* and how long a demand waits for it, or a third of the patience */
#define IDLE_MS      60000
#define NONE         UINT32_MAX

enum phase { IDLE, DEMANDED, FLYING, FOREIGN };

struct job {
  enum { FREE, AWAY, PAUSED } state;
  bool demand;
  uint64_t first, count; /* units */
  uint32_t attempts;
  uint64_t end_ns; /* when a demand's patience is over */
  uint64_t due_ns; /* PAUSED: when it is tried again */
  struct uffd_request request;
  uint64_t room; /* bytes of its buffer */
};

/* A reader that goes through the stream in order. */
struct reader {
  uint64_t at;      /* the unit that it asked for last */
  uint64_t ahead;   /* units before this one were asked for on its behalf */
  uint64_t planned; /* up to here they are to be: [ahead, planned) waits for a flight */
  uint64_t window;  /* bytes */
  uint64_t used;
};

struct list {
  uint32_t head, tail; /* unit + 1; 0: empty */
};

struct fetch {
  struct uffd_fetching *of;
  struct job jobs[UFFD_FLIGHTS];
  struct list demands, foreign;
  struct reader readers[READERS];
  uint64_t turns;
  ZSTD_DCtx *decoder;
  char *decoded;
  uint64_t longest;
  bool news;
  bool told_full;
};

static struct uffd_unit *unit_of(const struct fetch *fetch, uint64_t number) {
  return &fetch->of->units[number];
}

static bool is_there(const struct fetch *fetch, uint64_t number) {
  return uffd_cache_has(fetch->of->cache, number) || uffd_spill_has(&fetch->of->spill, number);
}

/* Lists of units; a unit is in one at most */

static void append(struct fetch *fetch, struct list *list, uint64_t number) {
  if (unit_of(fetch, number)->listed) return;
  unit_of(fetch, number)->listed = 1;
  unit_of(fetch, number)->follow = 0;
  if (list->tail != 0) unit_of(fetch, list->tail - 1)->follow = (uint32_t)number + 1;
  if (list->head == 0) list->head = (uint32_t)number + 1;
  list->tail = (uint32_t)number + 1;
}

static uint32_t take_first(struct fetch *fetch, struct list *list) {
  if (list->head == 0) return NONE;
  uint32_t number = list->head - 1;
  list->head = unit_of(fetch, number)->follow;
  if (list->head == 0) list->tail = 0;
  unit_of(fetch, number)->listed = 0;
  return number;
}

/* What was asked for */

static uint64_t later_unit(const struct fetch *fetch, uint64_t unit, uint64_t bytes) {
  struct uffd_extent extent = uffd_unit_stream(fetch->of, unit);
  uint64_t end = extent.offset + bytes;
  return end >= fetch->of->head.stream_bytes ? fetch->of->count : uffd_unit_at(fetch->of, end);
}

/* Goes on ahead of the reader that has come to this unit, if there is one. */
static void follow_reader(struct fetch *fetch, uint64_t unit) {
  struct reader *oldest = &fetch->readers[0];
  for (unsigned i = 0; i < READERS; i++) {
    struct reader *reader = &fetch->readers[i];
    if (reader->used < oldest->used) oldest = reader;
    if (reader->used == 0 || unit < reader->at ||
        unit > later_unit(fetch, max_u64(reader->planned, reader->at + 1) - 1, GROUP))
      continue;
    if (unit == reader->at) return;
    reader->used = ++fetch->turns;
    reader->at = unit;
    reader->window = reader->window == 0 ? AHEAD_FIRST : min_u64(reader->window * 2, AHEAD_MOST);
    uint64_t planned = later_unit(fetch, unit, reader->window);
    if (planned <= reader->planned) return;
    uint64_t from = max_u64(reader->planned, unit + 1);
    reader->ahead = max_u64(reader->ahead, unit + 1);
    reader->planned = planned;
    if (planned > from) atomic_store(&unit_of(fetch, from + (planned - from) / 2)->mark, 1);
    return;
  }
  *oldest = (struct reader){.at = unit, .ahead = unit + 1, .planned = unit + 1, .used = ++fetch->turns};
}

static void hear(struct fetch *fetch, uint64_t number) {
  struct uffd_unit *unit = unit_of(fetch, number);
  atomic_store(&unit->queued, 0);
  uint8_t want = atomic_exchange(&unit->want, UFFD_WANT_NOT);
  if (atomic_load(&unit->failed) != 0) { /* asked for before it failed: who asks anew clears that first */
    fetch->news = true;
    return;
  }
  if (want == UFFD_WANT_AGAIN && unit->phase == IDLE && uffd_cache_has(fetch->of->cache, number)) {
    uffd_cache_drop(fetch->of->cache, number);
    unit->level = UFFD_WANT_AGAIN; /* then it is kept elsewhere */
  }
  follow_reader(fetch, number);
  if (is_there(fetch, number)) {
    fetch->news = true; /* it came meanwhile, from another process perhaps */
    return;
  }
  if (want < UFFD_WANT_NOW) {
    if (want == UFFD_WANT_SOON && unit->phase == IDLE) {
      unit->phase = DEMANDED;
      if (unit->level < UFFD_WANT_SOON) unit->level = UFFD_WANT_SOON;
      append(fetch, &fetch->demands, number);
    }
    return;
  }
  if (unit->since == 0) unit->since = uffd_now();
  if (unit->level < UFFD_WANT_NOW) unit->level = UFFD_WANT_NOW;
  if (unit->phase != IDLE) return; /* it joins what is under way */
  unit->phase = DEMANDED;
  append(fetch, &fetch->demands, number);
}

static void hear_all(struct fetch *fetch) {
  uint32_t top = atomic_exchange(&fetch->of->asked, 0), turned = 0;
  while (top != 0) { /* the stack has the last one first */
    struct uffd_unit *unit = unit_of(fetch, top - 1);
    uint32_t next = atomic_load(&unit->next);
    atomic_store(&unit->next, turned);
    turned = top;
    top = next;
  }
  while (turned != 0) {
    uint32_t next = atomic_load(&unit_of(fetch, turned - 1)->next);
    hear(fetch, turned - 1);
    turned = next;
  }
}

/* Telling */

static void tell(struct fetch *fetch) {
  struct uffd_fetching *of = fetch->of;
  if (!fetch->news) return;
  fetch->news = false;
  atomic_fetch_add(&of->news, 1);
  uffd_futex_wake(&of->news, INT32_MAX);
  pthread_mutex_lock(&of->lock);
  for (size_t i = 0; i < of->bells_count; i++) {
    if (atomic_exchange(&of->bells[i]->waits, false)) of->bells[i]->ring(of->bells[i]->ctx);
  }
  pthread_mutex_unlock(&of->lock);
}

static void keep_failure(struct fetch *fetch, uint64_t number, int error, const char *sentence) {
  struct uffd_fetching *of = fetch->of;
  pthread_mutex_lock(&of->lock);
  struct uffd_unit_failure *failure = &of->failures[number % UFFD_FAILURES];
  failure->unit = number + 1;
  failure->error = error;
  failure->at_ns = uffd_now();
  snprintf(failure->words, sizeof(failure->words), "%s", sentence);
  pthread_mutex_unlock(&of->lock);
  atomic_store(&unit_of(fetch, number)->failed, 1);
}

static void settle(struct fetch *fetch, uint64_t number) {
  struct uffd_unit *unit = unit_of(fetch, number);
  unit->phase = IDLE;
  unit->level = UFFD_WANT_NOT;
  unit->alone = 0;
  unit->since = 0;
  fetch->news = true;
}

/* A unit that did not come is an error for who waits for it, and nothing for others. */
static void lose(struct fetch *fetch, uint64_t number, int error, const char *sentence) {
  const struct uffd_unit *unit = unit_of(fetch, number);
  if (unit->level >= UFFD_WANT_NOW || atomic_load(&unit->want) >= UFFD_WANT_NOW) {
    keep_failure(fetch, number, error, sentence);
  }
  settle(fetch, number);
}

/* What has arrived */

static int check_chunk(const struct fetch *fetch, uint64_t number, const char *bytes, uint64_t length) {
  const struct uffd_chunk_digests *digests = &fetch->of->digests;
  unsigned char digest[UFFD_DIGEST_BYTES];
  if (number >= digests->count) return 0;
  uffd_digest_chunk(digests->digest, bytes, length, digest);
  if (memcmp(digest, digests->list + number * UFFD_DIGEST_BYTES, UFFD_DIGEST_BYTES) == 0) return 0;
  return fail(EIO, "%s: %" PRIu64 " bytes from %" PRIu64 " are not what its index says of them.", fetch->of->head.path,
              length, number * UFFD_INDEX_CHUNK);
}

/* The bytes of a unit that has arrived: *bytes, of which packed is made. */
static int unpack(struct fetch *fetch, uint64_t number, const char *packed, const char **bytes) {
  struct uffd_extent stream = uffd_unit_stream(fetch->of, number);
  *bytes = packed;
  if (fetch->of->frames.count == 0) return check_chunk(fetch, number, packed, stream.length);
  *bytes = fetch->decoded;
  return uffd_frame_decode(fetch->of->head.path, &fetch->of->frames, number, fetch->decoder, packed, fetch->decoded);
}

/* To the cache, or where that has no room, to memory. */
static int keep(struct fetch *fetch, uint64_t number, const char *bytes) {
  struct uffd_fetching *of = fetch->of;
  struct uffd_extent stream = uffd_unit_stream(of, number);
  if (unit_of(fetch, number)->level != UFFD_WANT_AGAIN &&
      uffd_cache_put(of->cache, number, stream.offset, bytes, stream.length) == 0) {
    return 0;
  }
  if (!fetch->told_full && unit_of(fetch, number)->level != UFFD_WANT_AGAIN) {
    uffd_log(UFFD_LOG_WARNING, "%s What is fetched of %s is not kept from now on.", uffd_errmsg(), of->head.path);
    fetch->told_full = true;
  }
  return uffd_spill_put(&of->spill, number, bytes, stream.length);
}

static void land(struct fetch *fetch, struct job *job) {
  struct uffd_fetching *of = fetch->of;
  uint64_t start = uffd_unit_file(of, job->first).offset;
  atomic_fetch_add(&of->fetched_bytes, job->request.length);
  for (uint64_t i = 0; i < job->count; i++) {
    uint64_t number = job->first + i;
    const char *bytes;
    int result = unpack(fetch, number, job->request.buffer + (uffd_unit_file(of, number).offset - start), &bytes);
    if (result == 0) result = keep(fetch, number, bytes);
    if (result < 0) {
      struct uffd_sentence why = uffd_keep_sentence();
      lose(fetch, number, -result, why.text);
    } else {
      settle(fetch, number);
    }
    if (job->demand) tell(fetch);
  }
  uffd_cache_unlock(of->cache, job->first, job->count);
  job->state = FREE;
}

static bool is_demanded(const struct fetch *fetch, const struct job *job) {
  for (uint64_t i = 0; i < job->count; i++) {
    const struct uffd_unit *unit = unit_of(fetch, job->first + i);
    if (unit->level >= UFFD_WANT_NOW) return true;
  }
  return false;
}

/* Begins, or begins again. */
static void send(struct fetch *fetch, struct job *job) {
  job->state = AWAY;
  atomic_fetch_add(&fetch->of->requests, 1);
  fetch->of->remote->transport->class->start(fetch->of->remote->transport, &job->request);
}

static void give_up(struct fetch *fetch, struct job *job) {
  struct uffd_fetching *of = fetch->of;
  char sentence[512];
  for (uint64_t i = 0; i < job->count; i++) {
    struct uffd_extent stream = uffd_unit_stream(of, job->first + i);
    snprintf(sentence, sizeof(sentence), "%s: %" PRIu64 " bytes from %" PRIu64 " cannot be had: %s.", of->head.path,
             stream.length, stream.offset, job->request.words);
    lose(fetch, job->first + i, job->request.error == ENOENT ? EIO : job->request.error, sentence);
  }
  uffd_cache_unlock(of->cache, job->first, job->count);
  job->state = FREE;
}

/* Those who wait have patience; what nobody waits for is tried a few times. */
static void miss(struct fetch *fetch, struct job *job) {
  uint64_t now = uffd_now();
  if (!job->demand && is_demanded(fetch, job)) {
    job->demand = true;
    job->end_ns = now + (uint64_t)fetch->of->remote->patience_ms * 1000000;
  }
  uint64_t due = now + (uint64_t)uffd_remote_pause(job->attempts, job->request.wait_ms) * 1000000;
  bool again = job->demand ? due < job->end_ns : job->attempts + 1 < SOON_TRIES;
  if (!job->request.heals || !again) {
    give_up(fetch, job);
    return;
  }
  atomic_fetch_add(&fetch->of->retries, 1);
  job->attempts++;
  job->state = PAUSED;
  job->due_ns = due;
}

/* Jobs */

static struct job *free_job(struct fetch *fetch, bool demand) {
  struct job *found = NULL;
  unsigned left = 0;
  for (unsigned i = 0; i < UFFD_FLIGHTS; i++) {
    if (fetch->jobs[i].state != FREE) continue;
    found = &fetch->jobs[i];
    left++;
  }
  return demand || left > FLIGHTS_KEPT ? found : NULL;
}

static bool make_buffer(struct job *job, uint64_t length) {
  if (job->room >= length) return true;
  if (job->request.buffer != NULL) uffd_pages_unmap(job->request.buffer, job->room);
  job->room = round_up(max_u64(length, JOB_BYTES), BASE_PAGE);
  job->request.buffer = uffd_pages_map(job->room);
  if (job->request.buffer == NULL) job->room = 0;
  return job->request.buffer != NULL;
}

/* May this unit be fetched together with others? */
static bool is_open(const struct fetch *fetch, uint64_t number) {
  uint8_t phase = unit_of(fetch, number)->phase;
  return (phase == IDLE || phase == DEMANDED) && !is_there(fetch, number);
}

/*
 * Locks units [first, first+count), 1; 0: another process has one of them, or has fetched one meanwhile. What is in
 * doubt, and right, is there then.
 */
static int lock_units(struct fetch *fetch, uint64_t first, uint64_t count) {
  struct uffd_cache *cache = fetch->of->cache;
  if (uffd_cache_lock(cache, first, count) == 0) return 0;
  for (uint64_t i = first; i < first + count; i++) {
    struct uffd_extent stream = uffd_unit_stream(fetch->of, i);
    if (!uffd_cache_recall(cache, i, stream.offset, fetch->decoded, stream.length)) continue;
    uffd_cache_unlock(cache, first, count);
    fetch->news = true;
    return 0;
  }
  return 1;
}

static bool begin(struct fetch *fetch, struct job *job, uint64_t first, uint64_t count, bool demand) {
  struct uffd_fetching *of = fetch->of;
  struct uffd_extent from = uffd_unit_file(of, first), to = uffd_unit_file(of, first + count - 1);
  uint64_t length = to.offset + to.length - from.offset;
  if (!make_buffer(job, length)) return false;
  job->first = first;
  job->count = count;
  job->demand = demand;
  job->attempts = 0;
  job->end_ns = uffd_now() + (uint64_t)of->remote->patience_ms * 1000000;
  job->request.offset = from.offset;
  job->request.length = length;
  job->request.slot = (uint32_t)(job - fetch->jobs);
  for (uint64_t i = first; i < first + count; i++) {
    unit_of(fetch, i)->phase = FLYING;
  }
  send(fetch, job);
  return true;
}

/* The units around a demanded one, in the same group of so many bytes, that come along. */
static void choose_group(const struct fetch *fetch, uint64_t number, uint64_t bytes, uint64_t *first, uint64_t *count) {
  const struct uffd_fetching *of = fetch->of;
  struct uffd_extent own = uffd_unit_stream(of, number);
  uint64_t low = round_down(own.offset, bytes), high = low + bytes, end = number + 1;
  *first = number;
  while (*first > 0 && uffd_unit_stream(of, *first - 1).offset >= low && is_open(fetch, *first - 1)) {
    (*first)--;
  }
  while (end < of->count && uffd_unit_stream(of, end).offset + uffd_unit_stream(of, end).length <= high &&
         is_open(fetch, end)) {
    end++;
  }
  *count = end - *first;
}

/* true: a flight was taken, or none is needed; false: no flight is free. */
static bool launch_demand(struct fetch *fetch, uint64_t number) {
  struct uffd_unit *unit = unit_of(fetch, number);
  uint64_t first, count;
  if (is_there(fetch, number)) {
    settle(fetch, number);
    return true;
  }
  bool demand = unit->level >= UFFD_WANT_NOW;
  struct job *job = free_job(fetch, demand);
  if (job == NULL) return false;
  first = number;
  count = 1;
  if (unit->alone == 0) choose_group(fetch, number, demand ? GROUP : JOB_BYTES, &first, &count);
  int locked = unit->alone != 0 ? 1 : lock_units(fetch, first, count);
  if (locked == 0 && count > 1 && !is_there(fetch, number)) {
    first = number;
    count = 1;
    locked = lock_units(fetch, first, count);
  }
  if (is_there(fetch, number)) {
    if (locked == 1) uffd_cache_unlock(fetch->of->cache, first, count);
    settle(fetch, number);
  } else if (locked == 0) {
    unit->phase = FOREIGN;
    append(fetch, &fetch->foreign, number);
  } else if (!begin(fetch, job, first, count, demand)) {
    uffd_cache_unlock(fetch->of->cache, first, count);
    lose(fetch, number, ENOMEM, "There is no memory to fetch a part of an image.");
  }
  return true;
}

/* Those of the list that are wanted so much; the others stay. */
static void launch_level(struct fetch *fetch, bool now) {
  struct list left = {0, 0};
  for (uint32_t number; (number = take_first(fetch, &fetch->demands)) != NONE;) {
    const struct uffd_unit *unit = unit_of(fetch, number);
    if (unit->phase != DEMANDED) continue; /* it came along with another one */
    if ((unit->level >= UFFD_WANT_NOW) != now || !launch_demand(fetch, number)) append(fetch, &left, number);
  }
  fetch->demands = left;
}

static void launch_demands(struct fetch *fetch) {
  launch_level(fetch, true);
  if (free_job(fetch, false) != NULL) launch_level(fetch, false);
}

/*
 * What another process fetches: it is there, or that process has given up. A process that was stopped, or frozen, does
 * neither: what is demanded is fetched here too then. Two may write a unit, since both write the same bytes.
 */
static void look_at_foreign(struct fetch *fetch) {
  struct list left = {0, 0};
  uint64_t now = uffd_now(), most = min_u64(FOREIGN_MOST, fetch->of->remote->patience_ms / 3) * 1000000;
  for (uint32_t number; (number = take_first(fetch, &fetch->foreign)) != NONE;) {
    if (is_there(fetch, number)) {
      settle(fetch, number);
      continue;
    }
    struct uffd_unit *unit = unit_of(fetch, number);
    bool given_up = uffd_cache_lock(fetch->of->cache, number, 1) == 1;
    if (given_up) uffd_cache_unlock(fetch->of->cache, number, 1);
    if (!given_up) unit->alone = unit->since != 0 && now - unit->since >= most;
    if (given_up || unit->alone != 0) unit->phase = DEMANDED;
    append(fetch, unit->phase == DEMANDED ? &fetch->demands : &left, number);
  }
  fetch->foreign = left;
}

/* The next run of units for a reader that goes on in order: false if there is none, or no flight. */
static bool launch_ahead(struct fetch *fetch, struct reader *reader) {
  while (reader->ahead < reader->planned && !is_open(fetch, reader->ahead)) {
    reader->ahead++;
  }
  if (reader->ahead >= reader->planned) return false;
  struct job *job = free_job(fetch, false);
  if (job == NULL) return false;
  uint64_t first = reader->ahead, count = 0, bytes = 0;
  while (first + count < reader->planned && is_open(fetch, first + count) && bytes < JOB_BYTES) {
    bytes += uffd_unit_stream(fetch->of, first + count).length;
    count++;
  }
  while (count > 0 && lock_units(fetch, first, count) == 0) {
    count /= 2; /* another process is at some of them */
  }
  reader->ahead = first + max_u64(count, 1);
  if (count == 0) return true;
  if (begin(fetch, job, first, count, false)) return true;
  uffd_cache_unlock(fetch->of->cache, first, count);
  return false;
}

static void launch(struct fetch *fetch) {
  uint64_t now = uffd_now();
  for (unsigned i = 0; i < UFFD_FLIGHTS; i++) {
    if (fetch->jobs[i].state == PAUSED && now >= fetch->jobs[i].due_ns) send(fetch, &fetch->jobs[i]);
  }
  look_at_foreign(fetch);
  launch_demands(fetch);
  for (unsigned i = 0; i < READERS; i++) {
    while (launch_ahead(fetch, &fetch->readers[i])) {
    }
  }
}

static int next_timeout(const struct fetch *fetch) {
  uint64_t now = uffd_now(), wait_ms = fetch->foreign.head != 0 ? FOREIGN_MS : IDLE_MS;
  for (unsigned i = 0; i < UFFD_FLIGHTS; i++) {
    const struct job *job = &fetch->jobs[i];
    if (job->state == PAUSED) wait_ms = min_u64(wait_ms, job->due_ns > now ? (job->due_ns - now) / 1000000 + 1 : 0);
  }
  return (int)wait_ms;
}

static void collect(struct fetch *fetch) {
  struct uffd_transport *transport = fetch->of->remote->transport;
  struct uffd_request *list[UFFD_FLIGHTS];
  uint64_t asked;
  size_t count = transport->class->run(transport, fetch->of->wake_fd, next_timeout(fetch), list);
  while (read(fetch->of->wake_fd, &asked, sizeof(asked)) < 0 && errno == EINTR) {
  }
  for (size_t i = 0; i < count; i++) {
    struct job *job = &fetch->jobs[list[i]->slot];
    if (job->request.error == 0) {
      land(fetch, job);
    } else {
      miss(fetch, job);
    }
  }
}

static bool prepare(struct fetch *fetch) {
  fetch->longest = fetch->of->frames.count != 0 ? fetch->of->frames.longest : UFFD_INDEX_CHUNK;
  fetch->decoded = uffd_pages_map(round_up(fetch->longest, BASE_PAGE));
  if (fetch->of->frames.count != 0) fetch->decoder = ZSTD_createDCtx();
  return fetch->decoded != NULL && (fetch->decoder != NULL || fetch->of->frames.count == 0);
}

static void end(struct fetch *fetch) {
  for (unsigned i = 0; i < UFFD_FLIGHTS; i++) {
    struct job *job = &fetch->jobs[i];
    if (job->state != FREE) uffd_cache_unlock(fetch->of->cache, job->first, job->count);
  }
  /* What is under way still writes to its buffer: the transport is ended first. */
  struct uffd_transport *transport = fetch->of->remote->transport;
  fetch->of->remote->transport = NULL;
  transport->class->close(transport);
  for (unsigned i = 0; i < UFFD_FLIGHTS; i++) {
    if (fetch->jobs[i].request.buffer != NULL) uffd_pages_unmap(fetch->jobs[i].request.buffer, fetch->jobs[i].room);
  }
  if (fetch->decoded != NULL) uffd_pages_unmap(fetch->decoded, round_up(fetch->longest, BASE_PAGE));
  ZSTD_freeDCtx(fetch->decoder);
}

/* Without memory for it, all that is asked for fails. */
static void refuse(struct fetch *fetch) {
  for (uint32_t number; (number = take_first(fetch, &fetch->demands)) != NONE;) {
    lose(fetch, number, ENOMEM, "There is no memory to fetch parts of an image.");
  }
}

void *uffd_fetching_run(void *fetching) {
  struct fetch *fetch = NEW(struct fetch);
  struct uffd_fetching *of = fetching;
  struct fetch none = {.of = of};
  bool able = fetch != NULL;
  if (fetch == NULL) fetch = &none;
  fetch->of = of;
  able = able && prepare(fetch);
  while (!atomic_load(&of->stop)) {
    hear_all(fetch);
    if (able) launch(fetch);
    if (!able) refuse(fetch);
    tell(fetch);
    collect(fetch);
    tell(fetch);
  }
  end(fetch);
  if (fetch != &none) DELETE(fetch);
  return NULL;
}
