/*
 * Answers to requests for ranges, heads of any bytes: an answer that is accepted says in so many words that it is the
 * range that was asked for, of a file of that length, whole and not encoded. One that is refused says why.
 */
#include "image/remote/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                                \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "not so: %s\n", #condition);                                                                     \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

/* The head, line by line, each in a buffer of its own so that nothing is read beyond it. */
static void take_lines(struct uffd_reply *reply, const uint8_t *data, size_t size) {
  while (size > 0) {
    const uint8_t *end = memchr(data, '\n', size);
    size_t length = end == NULL ? size : (size_t)(end - data) + 1;
    char *line = malloc(length);
    MUST(line != NULL);
    memcpy(line, data, length);
    uffd_reply_line(reply, line, length);
    free(line);
    data += length;
    size -= length;
  }
}

static void check(const struct uffd_reply *reply, const struct uffd_reply_wanted *wanted) {
  char why[128];
  bool heals;
  int error = uffd_reply_check(reply, wanted, &heals, why, sizeof(why));
  if (error != 0) {
    MUST(strlen(why) > 10 && strlen(why) < sizeof(why));
    return;
  }
  MUST(reply->status == 206 && reply->has_range && !reply->encoded && !reply->multipart && !heals);
  MUST(reply->low == wanted->offset && reply->high - reply->low + 1 == wanted->length && wanted->got == wanted->length);
  MUST(reply->high < reply->total && (wanted->total == 0 || reply->total == wanted->total));
  MUST(wanted->version[0] == '\0' || strcmp(wanted->version, reply->version) == 0);
  MUST(wanted->date[0] == '\0' || strcmp(wanted->date, reply->date) == 0);
  MUST(wanted->etag[0] == '\0' || strcmp(wanted->etag, reply->etag) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct uffd_reply reply = {.status = 0};
  take_lines(&reply, data, size);
  MUST(reply.status < 1000 && reply.wait_ms <= 30000);
  MUST(memchr(reply.etag, '\0', sizeof(reply.etag)) != NULL && memchr(reply.date, '\0', sizeof(reply.date)) != NULL);
  MUST(memchr(reply.version, '\0', sizeof(reply.version)) != NULL);
  MUST(!reply.has_range || (reply.low <= reply.high && reply.high < reply.total));
  MUST(!uffd_reply_is_strong(reply.etag) || reply.etag[0] == '"');
  check(&reply, &(struct uffd_reply_wanted){4096, 4096, 1048576, "\"v1\"", "", "", 4096});
  check(&reply, &(struct uffd_reply_wanted){0, 65536, 0, "", "v.1", "", 65536});
  if (reply.has_range && reply.low < reply.high) {
    check(&reply, &(struct uffd_reply_wanted){reply.low, reply.high - reply.low + 1, reply.total, reply.etag,
                                              reply.version, reply.date, reply.high - reply.low + 1});
    check(&reply, &(struct uffd_reply_wanted){reply.low, reply.high - reply.low + 1, reply.total, "", "", "", 3});
  }
  return 0;
}
