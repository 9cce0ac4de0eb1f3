/*
 * A pager that is gone is replaced by the one that listens at its door.
 */
#include "serve/offload/attached.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/door/handoff.h"
#include "serve/paper/descriptors.h"

#define AGAIN_MS 50   /* between two looks, while a page waits */
#define IDLE_MS  1000 /* between two looks at most, while none does */

/* Waits for the end, or until the other descriptor hangs up (-1: there is none). True: it is to end. */
static bool is_over(const struct uffd_ch_attached *attached, int fd, int timeout_ms) {
  struct pollfd polls[2] = {{.fd = attached->stop_fd, .events = POLLIN}, {.fd = fd, .events = POLLRDHUP}};
  (void)poll(polls, 2, timeout_ms);
  return polls[0].revents != 0;
}

/* Whoever touches sleeps, so the whole process is ended here. */
_Noreturn static void give_up(const struct uffd_ch_attached *attached) {
  const struct uffd_ch_guest *guest = attached->guest;
  struct uffd_ch_notes *notes = guest->notes;
  struct uffd_sentence why = uffd_keep_sentence();
  notes->error = EPIPE;
  snprintf(notes->text, sizeof(notes->text),
           "The pager is gone, and a page has waited %" PRIu32 " ms for another one at %s: %s", guest->timeout_ms,
           guest->door, why.text);
  _exit(1);
}

/* A page of it waits for a pager, or will. False: it is to end. */
static bool attach_again(const struct uffd_ch_attached *attached) {
  const struct uffd_ch_guest *guest = attached->guest;
  const uint64_t patience = guest->timeout_ms * UINT64_C(1000000);
  uint64_t seen = atomic_load(&attached->touches), until = uffd_now() + patience;
  int pause = AGAIN_MS;
  while (!is_over(attached, -1, pause)) {
    uint64_t touches = atomic_load(&attached->touches);
    bool touching = touches % 2 != 0, waits = touching && touches == seen;
    pause = touching ? AGAIN_MS : (int)min_u64(2 * (uint64_t)pause, IDLE_MS);
    if (!waits) {
      seen = touches;
      until = uffd_now() + patience;
      continue;
    }
    if (uffd_handoff_attach(attached->handoff, guest->door) == 0) {
      atomic_fetch_add(&guest->notes->began, 1);
      return true;
    }
    BARRIER("offload-alone", &until);
    if (uffd_now() >= until) give_up(attached);
  }
  return false;
}

static void *watch(void *argument) {
  const struct uffd_ch_attached *attached = argument;
  bool goes_on = !BROKEN("offload-attach");
  while (goes_on) {
    int socket = uffd_handoff_socket(attached->handoff);
    goes_on = !is_over(attached, socket, -1);
    if (goes_on && uffd_ready(socket, POLLRDHUP) != 0) goes_on = attach_again(attached);
  }
  return NULL;
}

int uffd_ch_attached_begin(struct uffd_ch_attached *attached, uffd_handoff *handoff,
                           const struct uffd_ch_guest *guest) {
  attached->handoff = handoff;
  attached->guest = guest;
  attached->stop_fd = eventfd(0, EFD_CLOEXEC);
  if (attached->stop_fd < 0) return fail(errno, "No descriptor for a thread: %s.", strerror(errno));
  int result = uffd_thread_start(&attached->thread, watch, attached, "uffd-attached");
  if (result < 0) uffd_close_fds(&attached->stop_fd, 1);
  return result;
}

void uffd_ch_attached_end(struct uffd_ch_attached *attached) {
  const uint64_t one = 1;
  if (attached->stop_fd < 0) return;
  (void)!write(attached->stop_fd, &one, sizeof(one));
  pthread_join(attached->thread, NULL);
  uffd_close_fds(&attached->stop_fd, 1);
}
