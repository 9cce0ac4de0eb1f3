/*
 * Contents from a buffer of our own: a copy of the caller's bytes, or a pattern that repeats. The pattern is written
 * out once, long enough that any page can be copied from it, wherever the pattern begins in that page.
 */
#include <inttypes.h>
#include <string.h>

#include "resolver/resolver.h"

#define PATTERN_MAX (UINT64_C(1) << 20)

struct bytes {
  uffd_resolver head;
  char *buffer;
  uint64_t length;  /* of the buffer's contents */
  uint64_t pattern; /* 0: not a pattern */
};

static int ask_bytes(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
                     struct uffd_answer *answer) {
  (void)asker;
  const struct bytes *bytes = (const struct bytes *)resolver;
  uffd_cover(fault, 0, bytes->length, answer);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = bytes->buffer + answer->offset;
  return 0;
}

/* The buffer is one pattern longer than HUGE_PAGE: HUGE_PAGE bytes follow every byte of the first pattern. */
static int ask_pattern(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
                       struct uffd_answer *answer) {
  (void)asker;
  const struct bytes *bytes = (const struct bytes *)resolver;
  uffd_cover(fault, 0, UINT64_MAX, answer);
  if (fault->offset + fault->page_size - answer->offset >
      HUGE_PAGE) { /* the answer begins too far before the page: answer from the page on */
    answer->length -= fault->offset - answer->offset;
    answer->offset = fault->offset;
  }
  answer->length = min_u64(answer->length, HUGE_PAGE);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = bytes->buffer + answer->offset % bytes->pattern;
  return 0;
}

static void destroy(uffd_resolver *resolver) {
  struct bytes *bytes = (struct bytes *)resolver;
  uffd_buffer_unmap(bytes->buffer, bytes->length);
  DELETE(bytes);
}

/* NULL with a sentence when there is no memory. */
static struct bytes *make(const struct uffd_resolver_class *class, uint64_t length, uint64_t pattern) {
  struct bytes *bytes = NEW(struct bytes);
  char *buffer = bytes == NULL ? NULL : uffd_buffer_map(length);
  if (buffer == NULL) {
    DELETE(bytes);
    fail(ENOMEM, "No memory for a resolver of %" PRIu64 " bytes.", length);
    return NULL;
  }
  uffd_resolver_init(&bytes->head, class, pattern != 0 ? UINT64_MAX : length);
  bytes->buffer = buffer;
  bytes->length = length;
  bytes->pattern = pattern;
  return bytes;
}

int uffd_resolver_bytes(const void *data, uint64_t length, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {.kind = "bytes", .ask = ask_bytes, .destroy = destroy};
  *resolver = NULL;
  if (data == NULL || length == 0) return fail(EINVAL, "A bytes resolver of 0 bytes: give it contents.");
  struct bytes *bytes = make(&class, length, 0);
  if (bytes == NULL) return -ENOMEM;
  memcpy(bytes->buffer, data, length);
  *resolver = &bytes->head;
  return 0;
}

int uffd_resolver_pattern(const void *pattern, uint64_t length, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {.kind = "pattern", .ask = ask_pattern, .destroy = destroy};
  *resolver = NULL;
  if (pattern == NULL || length == 0 || length > PATTERN_MAX) {
    return fail(EINVAL, "A pattern has 1 byte to 1 MiB, not %" PRIu64 ".", length);
  }
  struct bytes *bytes = make(&class, HUGE_PAGE + length, length);
  if (bytes == NULL) return -ENOMEM;
  memcpy(bytes->buffer, pattern, length);
  for (uint64_t done = length; done < bytes->length;) { /* doubles each time: whole patterns, so the phase stays */
    uint64_t count = min_u64(done, bytes->length - done);
    memcpy(bytes->buffer + done, bytes->buffer, count);
    done += count;
  }
  *resolver = &bytes->head;
  return 0;
}
