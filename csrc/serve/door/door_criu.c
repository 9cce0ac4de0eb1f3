/*
 * CRIU's hand-off, by one connection of the process that restores. For each task of the dump, in any order: four bytes,
 * its pid as the dump has it, then one byte that is sent with its userfaultfd; for a zombie only the negative pid. At
 * last four bytes that say that all tasks are whole, and are about to run. Numbers are in the host's byte order. CRIU
 * reads nothing.
 */
#include "serve/door/door_criu.h"

#include <inttypes.h>
#include <string.h>

#include "base/base.h"

#define ALL_RESTORED 0x52535446u /* larger than any pid */

struct criu {
  unsigned char bytes[4]; /* of the next number */
  uint32_t has;
  int32_t task; /* that was named, and whose descriptor is to come; 0: none */
};

/* A number is whole. NOTHING; MORE: a task was named; NOTICE; or -errno. */
static int take_number(struct criu *state, struct uffd_handshake *handshake) {
  int32_t number;
  memcpy(&number, state->bytes, sizeof(number));
  state->has = 0;
  if ((uint32_t)number == ALL_RESTORED) {
    handshake->notice = UFFD_NOTICE_FILL;
    return UFFD_FEED_NOTICE;
  }
  if (number == 0 || number == INT32_MIN) {
    return fail(EPROTO, "The restore sends %" PRId32 " for a pid: this door is for criu restore --lazy-pages.", number);
  }
  if (number < 0) return UFFD_FEED_NOTHING; /* a zombie has no memory */
  state->task = number;
  return UFFD_FEED_MORE;
}

static int feed(void *room, const struct uffd_door_limits *limits, const char *bytes, size_t length, size_t *used,
                struct uffd_handshake *handshake) {
  struct criu *state = room;
  (void)limits;
  for (size_t i = 0; i < length; i++) {
    *used = i + 1;
    if (state->task != 0) {
      handshake->task = state->task;
      handshake->later = true; /* its memory is registered after this, mapping by mapping */
      state->task = 0;
      return UFFD_FEED_WHOLE;
    }
    state->bytes[state->has++] = (unsigned char)bytes[i];
    int result = state->has == sizeof(state->bytes) ? take_number(state, handshake) : UFFD_FEED_MORE;
    if (result < 0 || result == UFFD_FEED_NOTICE) return result;
  }
  return state->has != 0 || state->task != 0 ? UFFD_FEED_MORE : UFFD_FEED_NOTHING;
}

/* It has no answers. */
static size_t answer(const struct uffd_response *response, char *text, size_t size) { /* NOLINT(readability-*) */
  (void)response, (void)text, (void)size;
  return 0;
}

static bool is_blank(char c) {
  (void)c;
  return false;
}

static void release(void *room) {
  (void)room;
}

const struct uffd_door_kind uffd_door_criu = {
    .name = "criu",
    .by_task = true,
    .state_size = sizeof(struct criu),
    .feed = feed,
    .answer = answer,
    .is_blank = is_blank,
    .release = release,
};
