/*
 * Is an answer of a server the bytes that were asked for? Libraries call it a success when a server sends other bytes
 * than those, fewer, or compressed ones: so each header is looked at here. No I/O, no state but the struct.
 */
#ifndef UFFD_IMAGE_REMOTE_REPLY_H
#define UFFD_IMAGE_REMOTE_REPLY_H

#include "base/base.h"

/* What the headers of an answer say. */
struct uffd_reply {
  unsigned status; /* 0: no status line yet */
  bool has_range;  /* low, high and total are of Content-Range */
  bool bad_range;  /* there is a Content-Range that cannot be understood */
  uint64_t low, high, total;
  bool encoded; /* Content-Encoding other than identity */
  bool multipart;
  bool accepts;      /* Accept-Ranges: bytes */
  uint32_t wait_ms;  /* Retry-After */
  char etag[256];    /* as it was sent, with its quotes; "" none, or longer than that */
  char date[64];     /* Last-Modified */
  char version[160]; /* x-amz-version-id, of a store that keeps versions; "" none, or longer than that */
};

/* One line of the head, with or without its end. A status line begins a new answer (after a redirection). */
void uffd_reply_line(struct uffd_reply *reply, const char *line, size_t length);

/* What was asked for. */
struct uffd_reply_wanted {
  uint64_t offset, length;
  uint64_t total;      /* of the file; 0: not known yet */
  const char *etag;    /* of the file when it was opened; "": none */
  const char *version; /* that was asked for by its id; "": none */
  const char *date;    /* Last-Modified then, where no strong ETag tells of a change; "": not looked at */
  uint64_t got;        /* bytes that came */
};

/*
 * 0 when the answer is exactly that; else an errno and why, the end of a sentence. *heals: it may be right when it is
 * asked again.
 */
int uffd_reply_check(const struct uffd_reply *reply, const struct uffd_reply_wanted *wanted, bool *heals, char *why,
                     size_t room);
/* The same of a status alone, as soon as it is known that it is not 206. */
int uffd_reply_refuse(const struct uffd_reply *reply, bool *heals, char *why, size_t room);
/* An ETag that tells every two contents apart. */
bool uffd_reply_is_strong(const char *etag);

#endif
