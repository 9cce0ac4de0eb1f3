/*
 * Keeps the memory of a machine attached to a pager. A thread sleeps until the pager hangs up. Its workers may go on
 * without it, so that alone changes nothing; but when a touched page waits then, the thread hands the memory over once
 * more, to whoever listens at the door by now. It never touches the memory.
 */
#ifndef UFFD_SERVE_ATTACHED_H
#define UFFD_SERVE_ATTACHED_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "serve/offload/answering.h"
#include "uffd_pager.h"

struct uffd_ch_attached {
  /* set once */
  uffd_handoff *handoff; /* the thread's alone, while it runs */
  const struct uffd_ch_guest *guest;
  pthread_t thread;
  int stop_fd; /* an eventfd; -1: there is no thread */
  /* written by the thread that touches; odd: it does so now */
  _Atomic uint64_t touches;
};
#define UFFD_CH_ATTACHED_INIT                                                                                          \
  { .stop_fd = -1 }

/*
 * Starts the thread: 0, or -errno with a sentence. When no pager has taken the memory and a page has waited for
 * guest->timeout_ms, the thread writes the reason into guest->notes and ends the process, with which the machine's
 * connection ends: the page stays missing, and is never zeros.
 */
int uffd_ch_attached_begin(struct uffd_ch_attached *attached, uffd_handoff *handoff, const struct uffd_ch_guest *guest);
void uffd_ch_attached_end(struct uffd_ch_attached *attached); /* nothing, if it has not begun */

static inline void uffd_ch_touch_begins(struct uffd_ch_attached *attached) {
  uint64_t touches = atomic_load_explicit(&attached->touches, memory_order_relaxed);
  atomic_store_explicit(&attached->touches, touches + 1, memory_order_relaxed);
}

static inline void uffd_ch_touch_ends(struct uffd_ch_attached *attached) {
  uffd_ch_touch_begins(attached); /* the next number is even */
}

#endif
