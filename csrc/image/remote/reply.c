/*
 * The head of an answer to a request for a range: reading it, and deciding whether it is the range.
 */
#include "image/remote/reply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define WAIT_MOST 30u /* seconds that Retry-After can ask for */

/* A decimal number from at on: false if there is none, or it is too long. */
static bool take_number(const char **at, const char *end, uint64_t *number) {
  const char *start = *at;
  *number = 0;
  for (; *at < end && **at >= '0' && **at <= '9'; (*at)++) {
    if (*number > (UINT64_MAX - 9) / 10) return false;
    *number = *number * 10 + (uint64_t)(**at - '0');
  }
  return *at > start;
}

static bool take_char(const char **at, const char *end, char c) {
  if (*at >= end || **at != c) return false;
  (*at)++;
  return true;
}

static bool begins(const char *at, const char *end, const char *word) {
  size_t length = strlen(word);
  return (size_t)(end - at) >= length && strncasecmp(at, word, length) == 0;
}

/* bytes LOW-HIGH/TOTAL */
static void take_range(struct uffd_reply *reply, const char *at, const char *end) {
  bool again = reply->has_range || reply->bad_range;
  reply->has_range = false;
  reply->bad_range = true;
  if (again || !begins(at, end, "bytes ")) return;
  at += 6;
  if (!take_number(&at, end, &reply->low) || !take_char(&at, end, '-') || !take_number(&at, end, &reply->high)) return;
  if (!take_char(&at, end, '/') || !take_number(&at, end, &reply->total) || at != end) return;
  reply->bad_range = reply->low > reply->high || reply->high >= reply->total;
  reply->has_range = !reply->bad_range;
}

static void keep(char *to, size_t room, const char *at, const char *end) {
  size_t length = (size_t)(end - at);
  to[0] = '\0';
  if (length >= room || memchr(at, '\0', length) != NULL) return; /* not known, rather than half of it */
  memcpy(to, at, length);
  to[length] = '\0';
}

static void take_status(struct uffd_reply *reply, const char *at, const char *end) {
  uint64_t status = 0;
  memset(reply, 0, sizeof(*reply));
  while (at < end && *at != ' ') {
    at++;
  }
  while (at < end && *at == ' ') {
    at++;
  }
  if (take_number(&at, end, &status) && status < 1000) reply->status = (unsigned)status;
}

static void take_field(struct uffd_reply *reply, const char *line, size_t name, const char *at, const char *end) {
  uint64_t number;
  const char *rest = at;
#define IS(text) (name == strlen(text) && strncasecmp(line, text, name) == 0)
  if (IS("Content-Range")) {
    take_range(reply, at, end);
  } else if (IS("ETag")) {
    keep(reply->etag, sizeof(reply->etag), at, end);
  } else if (IS("x-amz-version-id")) {
    keep(reply->version, sizeof(reply->version), at, end);
  } else if (IS("Last-Modified")) {
    keep(reply->date, sizeof(reply->date), at, end);
  } else if (IS("Content-Encoding")) {
    reply->encoded = !(begins(at, end, "identity") && end - at == 8) && end > at;
  } else if (IS("Transfer-Encoding")) {
    reply->encoded = reply->encoded || !(begins(at, end, "chunked") && end - at == 7);
  } else if (IS("Content-Type")) {
    reply->multipart = begins(at, end, "multipart/");
  } else if (IS("Accept-Ranges")) {
    reply->accepts = begins(at, end, "bytes");
  } else if (IS("Retry-After") && take_number(&rest, end, &number) && rest == end) {
    reply->wait_ms = (uint32_t)min_u64(number, WAIT_MOST) * 1000;
  }
#undef IS
}

void uffd_reply_line(struct uffd_reply *reply, const char *line, size_t length) {
  const char *end = line + length;
  while (end > line && (end[-1] == '\n' || end[-1] == '\r' || end[-1] == ' ' || end[-1] == '\t')) {
    end--;
  }
  if (begins(line, end, "HTTP/")) {
    take_status(reply, line, end);
    return;
  }
  const char *colon = memchr(line, ':', (size_t)(end - line));
  if (colon == NULL) return;
  const char *value = colon + 1;
  while (value < end && (*value == ' ' || *value == '\t')) {
    value++;
  }
  take_field(reply, line, (size_t)(colon - line), value, end);
}

bool uffd_reply_is_strong(const char *etag) {
  size_t length = strlen(etag);
  return length >= 3 && etag[0] == '"' && etag[length - 1] == '"';
}

int uffd_reply_refuse(const struct uffd_reply *reply, bool *heals, char *why, size_t room) {
  static const unsigned healing[] = {408, 429, 500, 502, 503, 504};
  *heals = false;
  for (size_t i = 0; i < sizeof(healing) / sizeof(healing[0]); i++) {
    *heals = *heals || reply->status == healing[i];
  }
  switch (reply->status) {
  case 200:
    snprintf(why, room, "the server sends all of the file (status 200) when it is asked for a part");
    return EPROTO;
  case 401:
  case 403:
    snprintf(why, room, "the server does not let us in (status %u)", reply->status);
    return EACCES;
  case 404:
  case 410:
    snprintf(why, room, "there is no such file (status %u)", reply->status);
    return ENOENT;
  case 412:
    snprintf(why, room, "the file has changed since it was opened (status 412)");
    return ESTALE;
  case 416:
    snprintf(why, room, "the file has become shorter: the server has no such range (status 416)");
    return ESTALE;
  default:
    snprintf(why, room, "the server answers with status %u", reply->status);
    return EIO;
  }
}

int uffd_reply_check(const struct uffd_reply *reply, const struct uffd_reply_wanted *wanted, bool *heals, char *why,
                     size_t room) {
  uint64_t last = wanted->offset + wanted->length - 1;
  *heals = false;
  if (reply->status != 206) return uffd_reply_refuse(reply, heals, why, room);
  if (reply->encoded) {
    snprintf(why, room, "the server sends the range compressed, or encoded");
    return EPROTO;
  }
  if (reply->multipart) {
    snprintf(why, room, "the server sends several ranges in one answer");
    return EPROTO;
  }
  if (!reply->has_range) {
    snprintf(why, room,
             reply->bad_range ? "the server's Content-Range is none" : "the server does not say which range it sends");
    return EPROTO;
  }
  if (wanted->total != 0 && reply->total != wanted->total) {
    snprintf(why, room, "the file has changed: it had %" PRIu64 " bytes, and now has %" PRIu64, wanted->total,
             reply->total);
    return ESTALE;
  }
  if (wanted->etag[0] != '\0' && strcmp(wanted->etag, reply->etag) != 0) {
    snprintf(why, room, "the file has changed since it was opened: its ETag is another");
    return ESTALE;
  }
  if (wanted->date[0] != '\0' && strcmp(wanted->date, reply->date) != 0) {
    snprintf(why, room, "the file has changed since it was opened: its date is another");
    return ESTALE;
  }
  if (wanted->version[0] != '\0' && strcmp(wanted->version, reply->version) != 0) {
    snprintf(why, room, "the store sends another version of the file than the one that was opened");
    return ESTALE;
  }
  if (reply->low != wanted->offset || reply->high != last) {
    snprintf(why, room, "the server sends bytes %" PRIu64 " to %" PRIu64 " instead", reply->low, reply->high);
    return EPROTO;
  }
  if (wanted->got == wanted->length) return 0;
  *heals = wanted->got < wanted->length; /* the connection may have ended */
  snprintf(why, room, "the server sends %s bytes than it says", wanted->got < wanted->length ? "fewer" : "more");
  return EPROTO;
}
