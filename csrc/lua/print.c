/* Messages of policies in a pager's worker: a thread writes them to stderr, so that handlers never wait for stderr. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "policy.h"
#include "util.h"

enum { MESSAGES = 256, PAUSE_NS = 20000000 };

/* Runs until the process ends. */
static void *write_messages(void *ring) {
  struct uffd_lua_message message;
  const struct timespec pause = {.tv_nsec = PAUSE_NS};
  for (;;) {
    while (uffd_lua_ring_pop(ring, &message))
      dprintf(STDERR_FILENO, "policy: %.*s\n", (int)message.length, message.text);
    uint64_t dropped = uffd_lua_ring_dropped(ring);
    if (dropped > 0) dprintf(STDERR_FILENO, "policy: (%llu lines were lost)\n", (unsigned long long)dropped);
    nanosleep(&pause, NULL);
  }
  return NULL;
}

void uffd_lua_policy_print(void) {
  static uint64_t printing; /* the process whose thread runs */
  static struct uffd_lua_ring *ring;
  if (printing == uffd_lua_process()) return;
  printing = uffd_lua_process();
  pthread_t thread;
  sigset_t all, before;
  ring = uffd_lua_ring_new(sizeof(struct uffd_lua_message), MESSAGES);
  if (ring == NULL) return;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (pthread_create(&thread, NULL, write_messages, ring) == 0) {
    pthread_detach(thread);
    uffd_lua_policy_messages(ring);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}
