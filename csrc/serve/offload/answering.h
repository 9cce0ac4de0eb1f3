/*
 * Answers the page requests of a virtual machine that is being restored: its memfds are mapped here, and the mapping is
 * a client of the pager as any other. To answer a request is to touch the page: the pager fills it, which puts it into
 * the memfd, whole. So the one fault path serves here too, and this process asks no resolver and writes no page.
 *
 * The process may die at any moment, and another one goes on with the same descriptors and the same notes. A request is
 * looked at, and taken from the socket only when its page is there. Where it was taken and nobody knows whether it was
 * answered, all memory is filled first; then an answer too many does no harm.
 */
#ifndef UFFD_SERVE_ANSWERING_H
#define UFFD_SERVE_ANSWERING_H

#include <stdatomic.h>

#include "serve/offload/slots.h"

#define UFFD_CH_TEXT 1024u

enum { UFFD_CH_IDLE = 0, UFFD_CH_FILLING = 1, UFFD_CH_ANSWERING = 2 };

/* In shared memory. Written by the process that answers; read when it has ended, the counts also before. */
struct uffd_ch_notes {
  _Atomic uint64_t address, length;  /* of the request, in the machine */
  _Atomic uint32_t state;            /* UFFD_CH_*, of the request */
  _Atomic uint32_t began;            /* times that memory was handed over */
  _Atomic uint64_t answered, failed; /* requests; failed: of them, with an error */
  _Atomic uint64_t doubts;           /* times that nobody knew whether a request had been answered */
  int error;                         /* why it gave up: an errno, */
  char text[UFFD_CH_TEXT];           /* and in words */
};

struct uffd_ch_guest {
  const struct uffd_ch_slots *slots;
  const int *files; /* memfds, by uffd_ch_slot.file */
  int socket;       /* that requests come by, which blocks */
  int ready;        /* a byte is written to it when the memory has been handed over */
  const char *door, *label;
  uint32_t timeout_ms; /* for the pager's answer, and for another pager, while a page waits for one */
  struct uffd_ch_notes *notes;
};

/* In a process of its own, until the machine hangs up: 0, or -errno with a sentence. */
int uffd_ch_answer(const struct uffd_ch_guest *guest);

#endif
