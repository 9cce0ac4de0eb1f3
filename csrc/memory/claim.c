/*
 * The claims: which addresses of this process are served, and which a resolver reads. It refuses a resolver
 * whose source is itself served, because its handler would wait for its own answer.
 */
#include <inttypes.h>

#include "memory/memory.h"

static struct uffd_lock claims_lock = UFFD_LOCK_INIT;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER; /* signalled when the last user of a claim has left */
static struct uffd_claim *claims;

/* A forked child starts without claims: it serves nothing. */
static void lock_claims(void) {
  if (uffd_lock(&claims_lock)) {
    pthread_cond_init(&left, NULL);
    claims = NULL;
  }
  BARRIER("claims", NULL);
}

static void unlock_claims(void) {
  uffd_unlock(&claims_lock);
}

static bool overlaps(struct uffd_claim *claim, uint64_t start, uint64_t end) {
  const struct uffd_span *spans = uffd_spans_first(&claim->spans);
  for (size_t i = 0; i < claim->spans.count; i++) {
    if (spans[i].start < end && start < spans[i].end) return true;
  }
  return false;
}

/*
 * True if a mapping that overlaps the range is registered with any userfaultfd, and also if that cannot be found out.
 */
static bool is_registered(uint64_t start, uint64_t end) {
  struct uffd_maps maps;
  struct uffd_mapping mapping;
  if (uffd_maps_open(&maps, true) < 0) return true;
  bool registered = false;
  for (uint64_t at = start; at < end && !registered && uffd_maps_find(&maps, at, &mapping) == 0; at = mapping.end) {
    registered = mapping.start < end && uffd_mapping_is_registered(&mapping);
  }
  uffd_maps_close(&maps);
  return registered;
}

/*
 * Without an event nobody tells that served memory was unmapped or moved. A claim whose range is registered no more is
 * out of date.
 */
static struct uffd_claim *find_conflict(const struct uffd_claim *claim) {
  bool known = false, registered = true;
  for (struct uffd_claim *other = claims; other != NULL; other = other->next) {
    if (!overlaps(other, claim->start, claim->end) || (!claim->served && !other->served)) continue;
    if (other->served && !known) registered = is_registered(claim->start, claim->end);
    known = known || other->served;
    if (registered || !other->served) return other;
  }
  return NULL;
}

/* The claim gives up [start, end), where it is not mapped any more. Without memory for the rest it keeps everything. */
static void give_up(struct uffd_claim *claim, uint64_t start, uint64_t end) {
  if (!overlaps(claim, start, end) || uffd_spans_reserve(&claim->spans) < 0) return;
  uffd_spans_remove(&claim->spans, start, end);
  uffd_places_unmapped(claim->memory, start, end);
}

int uffd_claim(struct uffd_claim *claim) {
  lock_claims();
  const struct uffd_claim *other = find_conflict(claim);
  if (other == NULL) {
    for (struct uffd_claim *old = claims; old != NULL; old = old->next) {
      if (old->served) give_up(old, claim->start, claim->end); /* out of date */
    }
    uffd_spans_reserve(&claim->spans); /* the first needs no memory */
    uffd_spans_add(&claim->spans, claim->start, claim->end);
    claim->next = claims;
    claims = claim;
    unlock_claims();
    return 0;
  }
  uint64_t start = other->start, end = other->end;
  bool same = claim->start == start && claim->end == end;
  bool both = claim->served && other->served, reading = !other->served;
  unlock_claims();
  const char *why = both ? "is served already: a range is served once"
                    : reading
                        ? "is what a resolver reads from: close that resolver first, or serve other memory"
                        : "is served: a resolver must read from memory that is not, or its handler would wait for "
                          "its own answer";
  if (same) return fail(EBUSY, "0x%" PRIx64 "-0x%" PRIx64 " %s.", start, end, why);
  return fail(EBUSY, "0x%" PRIx64 "-0x%" PRIx64 " overlaps 0x%" PRIx64 "-0x%" PRIx64 ", which %s.", claim->start,
              claim->end, start, end, why);
}

void uffd_unclaim(struct uffd_claim *claim) {
  lock_claims();
  struct uffd_claim **link = &claims;
  while (*link != NULL && *link != claim) {
    link = &(*link)->next;
  }
  if (*link != NULL) {
    *link = claim->next;
    while (claim->users != 0) {
      pthread_cond_wait(&left, &claims_lock.mutex);
    }
  }
  unlock_claims();
}

bool uffd_claim_next(struct uffd_claim *claim, uint64_t start, uint64_t end, struct uffd_span *part) {
  bool found = false;
  lock_claims();
  const struct uffd_span *spans = uffd_spans_first(&claim->spans);
  for (size_t i = 0; i < claim->spans.count && !found; i++) {
    *part = (struct uffd_span){max_u64(start, spans[i].start), min_u64(end, spans[i].end)};
    found = part->start < part->end;
  }
  unlock_claims();
  return found;
}

void uffd_claim_release(struct uffd_claim *claim) {
  uffd_unclaim(claim);
  uffd_spans_unmap(&claim->spans);
}

/* The newest first: an older one may be out of date. */
static struct uffd_claim *find_server(uint64_t address) {
  struct uffd_claim *claim = claims;
  while (claim != NULL && !(claim->served && overlaps(claim, address, address + 1))) {
    claim = claim->next;
  }
  return claim;
}

bool uffd_claim_serves(uint64_t address, uint64_t limit, uint64_t *end) {
  *end = limit;
  lock_claims();
  struct uffd_claim *server = find_server(address);
  for (struct uffd_claim *claim = claims; claim != NULL; claim = claim->next) {
    const struct uffd_span *spans = uffd_spans_first(&claim->spans);
    /* Up to the next border of any span: the caller asks again from there. */
    for (size_t i = 0; i < claim->spans.count && claim->served; i++) {
      if (spans[i].start > address) *end = min_u64(*end, spans[i].start);
      if (spans[i].end > address) *end = min_u64(*end, spans[i].end);
    }
  }
  unlock_claims();
  return server != NULL;
}

/*
 * The claimed parts of [from, from+length) are claimed at to from now on. Without memory to split it, the whole range
 * is claimed there.
 */
static void move_spans(struct uffd_claim *claim, uint64_t from, uint64_t to, uint64_t length) {
  struct uffd_spans *spans = &claim->spans;
  struct uffd_span inside;
  for (;;) {
    size_t i = 0;
    const struct uffd_span *all = uffd_spans_first(spans);
    while (i < spans->count && (all[i].end <= from || all[i].start >= from + length)) {
      i++;
    }
    if (i == spans->count) return;
    inside = (struct uffd_span){max_u64(all[i].start, from), min_u64(all[i].end, from + length)};
    if (uffd_spans_reserve(spans) < 0) return;
    uffd_spans_remove(spans, inside.start, inside.end);
    if (uffd_spans_reserve(spans) < 0) return;
    uffd_spans_add(spans, inside.start - from + to, inside.end - from + to);
  }
}

static void follow_one(struct uffd_claim *claim, const struct uffd_event *event) {
  uint64_t from = event->address, to = event->to, length = event->length;
  bool moves = event->type == UFFD_REMAP;
  if (moves) give_up(claim, to, to + length);
  if (!overlaps(claim, from, from + length)) return;
  if (moves) {
    move_spans(claim, from, to, length);
    uffd_places_moved(claim->memory, from, to, length);
  } else {
    give_up(claim, from, from + length);
  }
}

void uffd_claims_follow(const struct uffd_event *event) {
  if (event->type != UFFD_REMAP && event->type != UFFD_UNMAP) return;
  lock_claims();
  for (struct uffd_claim *claim = claims; claim != NULL; claim = claim->next) {
    if (claim->served) follow_one(claim, event);
  }
  unlock_claims();
}

static struct uffd_claim *take_server(uint64_t address) {
  lock_claims();
  struct uffd_claim *claim = find_server(address);
  if (claim != NULL) claim->users++;
  unlock_claims();
  return claim;
}

static void release_server(struct uffd_claim *claim) {
  lock_claims();
  if (--claim->users == 0) pthread_cond_broadcast(&left);
  unlock_claims();
}

/* Without the lock: the function that answers may read served memory itself, or make and close resolvers. */
int uffd_claim_bring_in(uint64_t address, bool write) {
  struct uffd_claim *claim = take_server(address);
  if (claim == NULL) return -ENOENT;
  int result = claim->bring_in(claim->ctx, address, write);
  release_server(claim);
  return result;
}

/* The part of the claim that address lies in, in *span; false: address is not in the claim. */
static bool find_span(struct uffd_claim *claim, uint64_t address, struct uffd_span *span) {
  const struct uffd_span *spans = uffd_spans_first(&claim->spans);
  for (size_t i = 0; i < claim->spans.count; i++) {
    *span = spans[i];
    if (span->start <= address && address < span->end) return true;
  }
  return false;
}

uint64_t uffd_claim_end(uint64_t address) {
  struct uffd_span span = {0};
  lock_claims();
  struct uffd_claim *claim = find_server(address);
  bool found = claim != NULL && find_span(claim, address, &span);
  unlock_claims();
  return found ? span.end : 0;
}

int uffd_claim_discard(uffd_memory *memory, uint64_t start, uint64_t end) {
  struct uffd_claim *claim = take_server(start);
  if (claim == NULL) return -ENOENT;
  int result = end <= uffd_claim_end(start) ? claim->discard(claim->ctx, memory, start, end) : -ENOENT;
  release_server(claim);
  return result;
}

_Thread_local bool uffd_thread_answers;

/* Replaces the part that was found, if this claim has one of [start, end) that begins before it. */
static bool find_first(struct uffd_claim *claim, uint64_t start, uint64_t end, bool found, struct uffd_own *own) {
  const struct uffd_span *spans = uffd_spans_first(&claim->spans);
  for (size_t i = 0; i < claim->spans.count; i++) {
    if (spans[i].end <= start || spans[i].start >= end || (found && spans[i].start >= own->start)) continue;
    *own = (struct uffd_own){max_u64(start, spans[i].start), min_u64(end, spans[i].end), claim->modes};
    return true;
  }
  return found;
}

bool uffd_claim_own(uint64_t start, uint64_t end, struct uffd_own *own) {
  bool found = false;
  lock_claims();
  for (struct uffd_claim *claim = claims; claim != NULL; claim = claim->next) {
    if (claim->served && overlaps(claim, start, end) && claim->is_own(claim->ctx))
      found = find_first(claim, start, end, found, own);
  }
  unlock_claims();
  return found;
}
