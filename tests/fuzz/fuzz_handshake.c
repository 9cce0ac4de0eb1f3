/*
 * Any bytes at all at the front door. What must hold: a list means the same however it is cut up; a table that is taken
 * in is one that the pager can rely on; a refusal has a sentence that can be shown on a terminal; nothing is left over
 * (LeakSanitizer looks).
 *
 * The first byte seeds the cuts and the limits, the rest is the stream.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "serve/door/door_firecracker.h"
#include "serve/door/regions.h"

#define HANDSHAKES_MAX 8
#define PAGE           UINT64_C(4096)

#define MUST(condition)                                                                                                \
  do {                                                                                                                 \
    if (!(condition)) abort();                                                                                         \
  } while (0)

/* What a stream comes to. */
struct outcome {
  int result; /* of the last feed */
  unsigned count;
  struct uffd_handshake handshakes[HANDSHAKES_MAX];
};

static void check_table(const struct uffd_handshake *handshake, const struct uffd_door_limits *limits) {
  uint64_t sum = 0;
  MUST(handshake->regions_count > 0 && handshake->regions_count <= limits->max_regions);
  for (uint32_t i = 0; i < handshake->regions_count; i++) {
    const struct uffd_client_region *region = &handshake->regions[i];
    MUST(region->page_size == PAGE || region->page_size == PAGE << 9);
    MUST(region->page_size == handshake->regions[0].page_size);
    MUST(region->length != 0 && region->length % region->page_size == 0);
    MUST(region->address % region->page_size == 0 && region->offset % region->page_size == 0);
    MUST(region->address + region->length > region->address && region->offset + region->length > region->offset);
    sum += region->length;
    for (uint32_t j = 0; j < i; j++) {
      const struct uffd_client_region *before = &handshake->regions[j];
      MUST(before->offset + before->length <= region->offset);
      MUST(before->address + before->length <= region->address || region->address + region->length <= before->address);
    }
  }
  if (limits->image_length == 0) return;
  MUST(sum >= limits->image_length && sum - limits->image_length < handshake->regions[0].page_size);
  MUST(handshake->regions[0].offset == 0);
}

static void check_sentence(void) {
  const char *sentence = uffd_errmsg();
  MUST(strlen(sentence) > 10);
  for (const char *c = sentence; *c != '\0'; c++) {
    MUST(*c >= 0x20 && *c < 0x7f);
  }
}

/* What a client says beside its regions is within its bounds, and a notice has nothing else. */
static void check_extensions(const struct uffd_handshake *handshake, bool is_notice) {
  MUST(handshake->owner.pid >= 0 && handshake->owner.fd >= -1);
  MUST(handshake->notice <= UFFD_NOTICE_SHARE && (handshake->notice != UFFD_NOTICE_NONE) == is_notice);
  MUST(handshake->notice_client <= INT64_MAX && (is_notice || handshake->notice_client == 0));
  MUST(!is_notice || (handshake->regions == NULL && !handshake->part && !handshake->later));
  MUST(is_notice || handshake->regions_count != 0);
}

/* Feeds all of it, in pieces of up to step bytes, until it is refused. */
static void feed_all(const struct uffd_door_limits *limits, const char *bytes, size_t length, size_t step,
                     struct outcome *outcome) {
  const struct uffd_door_kind *kind = &uffd_door_firecracker;
  void *state = calloc(1, kind->state_size);
  memset(outcome, 0, sizeof(*outcome));
  for (size_t at = 0; at < length && outcome->result >= 0 && outcome->count < HANDSHAKES_MAX;) {
    struct uffd_handshake *handshake = &outcome->handshakes[outcome->count];
    size_t used = 0, piece = length - at < step ? length - at : step;
    /* A copy, so that a byte too far is seen. */
    char *copy = malloc(piece);
    memcpy(copy, bytes + at, piece);
    outcome->result = kind->feed(state, limits, copy, piece, &used, handshake);
    free(copy);
    if (outcome->result < 0) break;
    MUST(used > 0 && used <= piece);
    bool is_notice = outcome->result == UFFD_FEED_NOTICE, is_whole = outcome->result == UFFD_FEED_WHOLE;
    MUST(is_whole || is_notice || outcome->result == UFFD_FEED_BYE || used == piece);
    at += used;
    if (is_whole || is_notice) {
      check_extensions(handshake, is_notice);
      outcome->count++;
    }
  }
  if (outcome->result < 0) check_sentence();
  kind->release(state);
  free(state);
}

static void compare(const struct outcome *a, const struct outcome *b) {
  MUST(a->result == b->result && a->count == b->count);
  for (unsigned i = 0; i < a->count; i++) {
    const struct uffd_handshake *x = &a->handshakes[i], *y = &b->handshakes[i];
    MUST(x->regions_count == y->regions_count);
    MUST(memcmp(&x->owner, &y->owner, sizeof(x->owner)) == 0);
    MUST(x->part == y->part && x->later == y->later && x->wants_answer == y->wants_answer);
    MUST(x->notice == y->notice && x->notice_client == y->notice_client);
    if (x->regions_count == 0) continue;
    MUST(memcmp(x->regions, y->regions, x->regions_count * sizeof(*x->regions)) == 0);
  }
}

static void release(struct outcome *outcome) {
  for (unsigned i = 0; i < outcome->count; i++) {
    struct uffd_handshake *handshake = &outcome->handshakes[i];
    uffd_release(handshake->regions, handshake->regions_count * sizeof(*handshake->regions));
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  unsigned seed = data[0];
  const char *bytes = (const char *)data + 1;
  struct uffd_door_limits limits = {.max_bytes = 2048, .max_regions = 8, .image_length = seed % 2 * 3 * PAGE};
  struct outcome whole, pieces;
  feed_all(&limits, bytes, size - 1, SIZE_MAX, &whole);
  feed_all(&limits, bytes, size - 1, 1 + seed / 2 % 16, &pieces);
  compare(&whole, &pieces);
  for (unsigned i = 0; i < whole.count; i++) {
    struct uffd_handshake *handshake = &whole.handshakes[i];
    if (handshake->notice != UFFD_NOTICE_NONE) continue;
    if (uffd_regions_check(handshake->regions, handshake->regions_count, &limits) == 0) {
      check_table(handshake, &limits);
    } else {
      check_sentence();
    }
  }
  release(&whole);
  release(&pieces);
  return 0;
}
