/*
 * Transports: how bytes of one file come from a server. One vtable; one file a protocol. A transport is used by one
 * thread at a time: by the one that opens the file, then by the fetch thread. It knows neither chunks nor pages, tries
 * nothing twice, and says of each failure whether it may heal.
 */
#ifndef UFFD_IMAGE_REMOTE_TRANSPORT_H
#define UFFD_IMAGE_REMOTE_TRANSPORT_H

#include "base/base.h"

#define UFFD_FLIGHTS      20u                 /* requests under way, at most */
#define UFFD_WORDS        320u                /* of a failure */
#define UFFD_REQUEST_MOST (UINT64_C(4) << 20) /* bytes that should be asked for at once */

/* One read. */
struct uffd_request {
  uint64_t offset, length; /* in the file */
  char *buffer;
  uint32_t slot; /* below UFFD_FLIGHTS, of no other request under way */
  /* When it is done: */
  int error;              /* 0, or an errno */
  bool heals;             /* it may be otherwise when it is tried again */
  uint32_t wait_ms;       /* that the server asked for; 0: nothing */
  char words[UFFD_WORDS]; /* why: the end of a sentence, without a full stop */
};

struct uffd_transport;

struct uffd_transport_class {
  const char *kind;
  /* Begins a read; what fails at once is done at the next run. */
  void (*start)(struct uffd_transport *transport, struct uffd_request *request);
  /*
   * Works until a request is done, wake_fd (or -1) can be read, or timeout_ms is over; gives the requests that are done
   * and returns how many. list: UFFD_FLIGHTS long.
   */
  size_t (*run)(struct uffd_transport *transport, int wake_fd, int timeout_ms, struct uffd_request **list);
  /* Ends it, and all requests under way, whose buffers are not written to any more. */
  void (*close)(struct uffd_transport *transport);
};

/* The head of every transport. */
struct uffd_transport {
  const struct uffd_transport_class *class;
  const char *name;  /* of the file, without secrets */
  uint64_t bytes;    /* of the file */
  char version[384]; /* what the server calls its state; "": it says nothing that could be relied on */
};

struct uffd_transport_opts {
  const char *uri, *name;
  const char *credentials; /* a file, or NULL */
  const char *ca_file;
  uint32_t patience_ms; /* no request takes longer */
  bool unversioned;
};

/*
 * Connects, and learns the file's length and state. heals: the failure may heal. Errors: -ENOENT there is no such file;
 * -EACCES; -EPROTO the server does not do what is needed; -ENOSYS built without it, or the library is not installed;
 * others of connecting. The text, in words, is the end of a sentence.
 */
struct uffd_refusal {
  bool heals;
  uint32_t wait_ms;
  char words[UFFD_WORDS];
};
int uffd_http_open(const struct uffd_transport_opts *opts, struct uffd_transport **made, struct uffd_refusal *refusal);
int uffd_nbd_open(const struct uffd_transport_opts *opts, struct uffd_transport **made, struct uffd_refusal *refusal);

#endif
