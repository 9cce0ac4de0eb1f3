/* What each signal does to a pager's process, and how the dispositions are given back. */
#include "signals.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

static _Atomic(uffd_pager *) owner; /* NULL: the dispositions are the program's */
static atomic_bool second;
static const int heeded[] = {SIGHUP, SIGTERM, SIGINT, SIGPIPE};
enum { HEEDED = sizeof(heeded) / sizeof(heeded[0]) };
static struct sigaction earlier[HEEDED];
static sigset_t unblocked; /* the mask before uffd_lua_signals_hold() */
static bool held;

static void on_signal(int signal) {
  int error = errno;
  uffd_pager *pager = atomic_load(&owner);
  if (pager != NULL && signal == SIGHUP) uffd_pager_reload(pager);
  if (pager != NULL && signal != SIGHUP && uffd_pager_drain(pager) == -EALREADY) atomic_store(&second, true);
  errno = error;
}

void uffd_lua_signals_hold(void) {
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int i = 0; i < HEEDED; i++) {
    sigaddset(&blocked, heeded[i]);
  }
  held = pthread_sigmask(SIG_BLOCK, &blocked, &unblocked) == 0;
}

static void let_go(void) {
  if (held) pthread_sigmask(SIG_SETMASK, &unblocked, NULL);
  held = false;
}

/* SIGPIPE would end the supervisor when nobody reads its output. */
bool uffd_lua_signals_take(uffd_pager *pager) {
  uffd_pager *nobody = NULL;
  if (uffd_lua_signals_taken(pager)) return true;
  if (!atomic_compare_exchange_strong(&owner, &nobody, pager)) return false;
  atomic_store(&second, false);
  for (int i = 0; i < HEEDED; i++) {
    struct sigaction action = {.sa_handler = heeded[i] == SIGPIPE ? SIG_IGN : on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(heeded[i], &action, &earlier[i]);
  }
  let_go();
  return true;
}

bool uffd_lua_signals_taken(const uffd_pager *pager) {
  return atomic_load(&owner) == pager;
}

bool uffd_lua_signals_second(void) {
  return atomic_load(&second);
}

void uffd_lua_signals_return(uffd_pager *pager) {
  if (!atomic_compare_exchange_strong(&owner, &pager, NULL)) return;
  for (int i = 0; i < HEEDED; i++)
    sigaction(heeded[i], &earlier[i], NULL);
}
