/*
 * The process's SIGBUS handler: faults of inline loops are resolved, everything else goes on to the handler that was
 * there before.
 */
#include "loop/engine/inline/sigbus.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/base.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t users; /* under lock */
static struct sigaction before;
static uffd_sigbus_fn *_Atomic resolver;

/* Whether the access was a write, and whether it met a page: only the processor knows. */
static uint64_t fault_flags(const ucontext_t *context) {
#if defined(__x86_64__)
  uint64_t error = (uint64_t)context->uc_mcontext.gregs[REG_ERR]; /* 1: a page was there, 2: a write */
  uint64_t flags = (error & 2) != 0 ? UFFD_FAULT_WRITE : 0;
  return (error & 3) == 3 ? flags | UFFD_FAULT_WP : flags;
#elif defined(__aarch64__)
  const char *record = (const char *)context->uc_mcontext.__reserved, *end = record + 4096;
  while (record < end) { /* the kernel's list of records: magic, size, contents; an empty one ends it */
    uint32_t magic, size;
    memcpy(&magic, record, sizeof(magic));
    memcpy(&size, record + 4, sizeof(size));
    if (magic == 0 || size == 0) break;
    if (magic == 0x45535201) { /* ESR_MAGIC */
      uint64_t esr;
      memcpy(&esr, record + 8, sizeof(esr));
      bool write = (esr & 0x40) != 0, permission = (esr & 0x3C) == 0x0C;
      return (write ? UFFD_FAULT_WRITE : 0) | (write && permission ? UFFD_FAULT_WP : 0);
    }
    record += size;
  }
  return 0;
#else
  (void)context;
  return 0;
#endif
}

int uffd_sigbus(int number, void *information, void *context) {
  const siginfo_t *info = information;
  if (number != SIGBUS || info == NULL || info->si_code <= 0) return 0; /* sent by somebody */
  int error = errno;
  uffd_sigbus_fn *resolve = atomic_load_explicit(&resolver, memory_order_acquire);
  bool resolved = resolve != NULL && resolve((uintptr_t)info->si_addr, fault_flags(context));
  errno = error;
  return resolved;
}

/* As if ours were not there. The default action is left to the kernel: the access is repeated, or the signal sent. */
static void pass_on(int number, siginfo_t *info, void *context) {
  pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
  if ((before.sa_flags & SA_SIGINFO) != 0) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  } else if (before.sa_handler != SIG_IGN || info->si_code > 0) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(number, &standard, NULL);
    if (info->si_code <= 0) raise(number);
  }
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
  if (uffd_sigbus(number, info, context) == 0) pass_on(number, info, context);
}

/* All but those that a thread raises itself: the handlers of others may touch memory that is served, in mid-fault. */
static void fill_mask(sigset_t *mask) {
  static const int raised[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT};
  sigfillset(mask);
  for (size_t i = 0; i < sizeof(raised) / sizeof(*raised); i++) {
    sigdelset(mask, raised[i]);
  }
}

int uffd_sigbus_acquire(uffd_sigbus_fn *resolve) {
  int result = 0;
  atomic_store_explicit(&resolver, resolve, memory_order_release);
  pthread_mutex_lock(&lock);
  if (users == 0) {
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    fill_mask(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &before) != 0) result = fail(errno, "Cannot handle SIGBUS: %s.", strerror(errno));
  }
  if (result == 0) users++;
  pthread_mutex_unlock(&lock);
  return result;
}

/* Whoever has put a handler over ours since keeps it, and may go on calling ours: it passes everything on then. */
void uffd_sigbus_release(void) {
  pthread_mutex_lock(&lock);
  struct sigaction now;
  if (--users == 0 && sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
      now.sa_sigaction == on_sigbus) {
    sigaction(SIGBUS, &before, NULL);
  }
  pthread_mutex_unlock(&lock);
}
