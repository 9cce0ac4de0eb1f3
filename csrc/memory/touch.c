/*
 * Makes one access in user mode, the only kind of fault that a USER_MODE_ONLY object answers. The access may raise a
 * signal (poison, beyond a file's end, unmapped). So a helper process that shares this address space makes it, and the
 * signal ends only the helper.
 */
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/memory.h"

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
/*
 * ThreadSanitizer takes clone() for a fork: it then allows no new threads, and takes the helper's signal handlers for
 * the program's.
 */
int __clone(int (*run)(void *), void *stack, int flags, void *argument, ...);
int __sigaction(int signal, const struct sigaction *action, struct sigaction *old);
#define clone                          __clone
#define sigaction(signal, action, old) __sigaction(signal, action, old)
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* 5.14; poison came with 6.6 */
#endif
#define STACK_BYTES (16 * BASE_PAGE)

/* The helper runs with this thread's identity, and never returns through frames that a sanitizer has marked. */
#define HELPER __attribute__((no_sanitize("address", "thread", "undefined")))

struct access {
  volatile unsigned char *byte;
  bool write;
  volatile bool done;
};

HELPER static void leave(int signal) {
  (void)signal;
  _exit(1);
}

HELPER static int make_access(void *argument) {
  struct access *access = argument;
  struct sigaction action = {.sa_handler = leave};
  sigset_t raised;
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* it may sleep for long */
  sigemptyset(&raised);
  sigaddset(&raised, SIGBUS);
  sigaddset(&raised, SIGSEGV);
  sigaction(SIGBUS, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
  sigprocmask(SIG_UNBLOCK, &raised, NULL);
  if (access->write) {
    __atomic_fetch_or(access->byte, 0, __ATOMIC_RELAXED); /* a write that changes nothing */
  } else {
    (void)*access->byte;
  }
  access->done = true;
  return 0;
}

/*
 * Descriptors are shared, not copied: a copy would keep a userfaultfd alive that is closed meanwhile. The program does
 * not notice the helper: no signal tells of its end, and only a wait with __WALL sees it. The program's signal handlers
 * must not run in it.
 */
static int run_helper(struct access *access, char *stack) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t helper = clone(make_access, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_FILES, access);
  int error = helper < 0 ? errno : 0;
  while (helper > 0 && waitpid(helper, NULL, __WALL) < 0 && errno == EINTR) {
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return -error;
}

/* An access by the kernel tells poison from everything else. */
bool uffd_is_poisoned(uint64_t address) {
  void *page = (void *)(uintptr_t)round_down(address, BASE_PAGE); /* NOLINT(performance-no-int-to-ptr) */
  return madvise(page, BASE_PAGE, MADV_POPULATE_READ) != 0 && errno == EHWPOISON;
}

int uffd_touch(uint64_t address, bool write) {
  struct access access = {.byte = (unsigned char *)(uintptr_t)address, .write = write}; /* NOLINT(performance-*) */
  char *stack = uffd_pages_map(STACK_BYTES);
  if (stack == NULL) return -ENOMEM;
  int result = run_helper(&access, stack);
  uffd_pages_unmap(stack, STACK_BYTES);
  if (result < 0) return result;
  return access.done ? 0 : -EFAULT;
}
