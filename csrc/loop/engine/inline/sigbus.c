/*
 * The process's SIGBUS handler: faults of inline loops are resolved, everything else goes on to the handler that was
 * there before, as the kernel would have delivered it. The disposition is never given back: a thread may have faulted
 * in a loop's memory, and have its signal only when the loop is long closed.
 */
#include "loop/engine/inline/sigbus.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/base.h"

/*
 * What ours was put over: a program may put a handler of its own over ours, which calls ours, and ours over that when
 * it makes another loop. Each time it is another function of ours that the kernel calls, with a disposition of its own
 * below it: a function goes on to the one that it was put over, and a chain never goes up again.
 */
#define LEVELS 8u

struct disposition {
  struct sigaction action;        /* as sigaction() had it */
  _Atomic(void (*)(int)) handler; /* of action; SIG_DFL once SA_RESETHAND has reset it */
};
static struct disposition below[LEVELS]; /* of a level: written before its function is installed */
static uint32_t levels;                  /* in use; under lock */
static struct uffd_lock lock = UFFD_LOCK_INIT;
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

/* The thread is on a signal stack, of which less is left than an answer needs. */
static bool is_cramped(const ucontext_t *context) {
  uintptr_t here = (uintptr_t)__builtin_frame_address(0), low = (uintptr_t)context->uc_stack.ss_sp;
  return here - low < context->uc_stack.ss_size && here - low < UFFD_ANSWER_STACK;
}

/* Missing and protected pages are BUS_ADRERR. Others are poison (BUS_MCEERR_AR), bad alignment, or sent by somebody. */
int uffd_sigbus(int number, void *information, void *context) {
  const siginfo_t *info = information;
  if (number != SIGBUS || info == NULL || info->si_code != BUS_ADRERR) return 0;
  int error = errno;
  uffd_sigbus_fn *resolve = atomic_load_explicit(&resolver, memory_order_acquire);
  uint64_t flags = context == NULL ? 0 : fault_flags(context);
  bool cramped = context != NULL && is_cramped(context);
  bool resolved = resolve != NULL && resolve((uintptr_t)info->si_addr, flags, cramped);
  errno = error;
  return resolved;
}

/*
 * The handlers of others may touch memory that is served, in mid-fault: all are blocked but those that a thread raises
 * itself, and the two that nobody can block.
 */
static const int unblocked[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT, SIGKILL, SIGSTOP};

static void fill_mask(sigset_t *mask) {
  sigfillset(mask);
  for (size_t i = 0; i < sizeof(unblocked) / sizeof(*unblocked); i++) {
    sigdelset(mask, unblocked[i]);
  }
}

/*
 * The signal once more, for this thread, to be delivered when the handler returns: the process dies where it was
 * interrupted, with the same siginfo. Repeating the access would not do for signals that no access has caused.
 */
static void act_by_default(int number, siginfo_t *info) {
  struct sigaction standard = {.sa_handler = SIG_DFL};
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, number);
  pthread_sigmask(SIG_BLOCK, &blocked, NULL);
  sigaction(number, &standard, NULL);
  if (syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), number, info) != 0 && info->si_code <= 0) {
    raise(number); /* a filter forbids the call; a fault comes again by itself */
  }
}

/* The kernel lets nobody ignore a fault. A memory error that the thread has not met (BUS_MCEERR_AO) is only news. */
static bool may_be_ignored(const siginfo_t *info) {
  return info->si_code <= 0 || info->si_code == BUS_MCEERR_AO;
}

/* The kernel's part of a set: what lies beyond it may hold anything. */
static bool holds_all(const sigset_t *set, const sigset_t *of) {
  for (int i = 1; i <= SIGRTMAX; i++) {
    if (sigismember(of, i) == 1 && sigismember(set, i) != 1) return false;
  }
  return true;
}

/*
 * What the kernel would have blocked for the handler. Not where a handler of the program calls ours: the mask is that
 * handler's then, and lacks a signal that ours blocks.
 */
static void block_for(const struct sigaction *action, int number, const ucontext_t *context, const sigset_t *now) {
  sigset_t wanted;
  fill_mask(&wanted);
  if (context == NULL || !holds_all(now, &wanted)) return;
  sigorset(&wanted, &context->uc_sigmask, &action->sa_mask);
  if ((action->sa_flags & SA_NODEFER) == 0) sigaddset(&wanted, number);
  pthread_sigmask(SIG_SETMASK, &wanted, NULL);
}

static void call(struct disposition *next, void (*handler)(int), int number, siginfo_t *info, void *context) {
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, NULL, &now);
  block_for(&next->action, number, context, &now);
  if ((next->action.sa_flags & SA_SIGINFO) != 0) {
    ((void (*)(int, siginfo_t *, void *))(void (*)(void))handler)(number, info, context);
  } else {
    handler(number);
  }
  pthread_sigmask(SIG_SETMASK, &now, NULL);
}

/*
 * The disposition that is next for this signal, NULL: none is left. How far it has come is noted in its frame, in
 * uc_link, which the kernel clears when it delivers a signal, and does not read: so nothing is left of a handler that
 * jumped out.
 */
static struct disposition *find_next(uint32_t level, const ucontext_t *context) {
  uintptr_t noted = context == NULL ? 0 : (uintptr_t)context->uc_link - (uintptr_t)below;
  if (context == NULL || noted >= sizeof(below)) return &below[level];
  uint32_t reached = (uint32_t)(noted / sizeof(*below));
  return reached == 0 ? NULL : &below[min_u64(level, reached - 1)];
}

/* Apart from the path of our own faults, which needs little of the stack. */
static __attribute__((noinline)) void pass_on(uint32_t level, int number, siginfo_t *info, ucontext_t *context) {
  struct disposition *next = find_next(level, context);
  if (next == NULL) {
    act_by_default(number, info);
    return;
  }
  bool once = (next->action.sa_flags & (int)SA_RESETHAND) != 0;
  void (*handler)(int) = once ? atomic_exchange(&next->handler, SIG_DFL) : atomic_load(&next->handler);
  if (handler == SIG_IGN && may_be_ignored(info)) return;
  if (handler == SIG_DFL || handler == SIG_IGN) {
    act_by_default(number, info);
    return;
  }
  ucontext_t *outer = context == NULL ? NULL : context->uc_link;
  if (context != NULL) context->uc_link = (ucontext_t *)(void *)next;
  call(next, handler, number, info, context);
  if (context != NULL) context->uc_link = outer;
}

static void on_sigbus(uint32_t level, int number, siginfo_t *info, void *context) {
  if (uffd_sigbus(number, info, context) == 0) pass_on(level, number, info, context);
}

#define LEVEL(level)                                                                                                   \
  static void on_sigbus_##level(int number, siginfo_t *info, void *context) {                                          \
    on_sigbus(level, number, info, context);                                                                           \
  }
LEVEL(0)
LEVEL(1)
LEVEL(2)
LEVEL(3)
LEVEL(4)
LEVEL(5)
LEVEL(6)
LEVEL(7)
static void (*const ours[])(int, siginfo_t *, void *) = {on_sigbus_0, on_sigbus_1, on_sigbus_2, on_sigbus_3,
                                                         on_sigbus_4, on_sigbus_5, on_sigbus_6, on_sigbus_7};

static bool is_ours(const struct sigaction *action) {
  for (uint32_t i = 0; i < levels && (action->sa_flags & SA_SIGINFO) != 0; i++) {
    if (action->sa_sigaction == ours[i]) return true;
  }
  return false;
}

static bool is_below(uint32_t level, const struct sigaction *action) {
  const struct disposition *known = &below[level];
  return known->action.sa_handler == action->sa_handler && known->action.sa_flags == action->sa_flags &&
         holds_all(&known->action.sa_mask, &action->sa_mask) && holds_all(&action->sa_mask, &known->action.sa_mask);
}

/* The level that goes on to this disposition: the highest, a new one, or if there is none left, any that does. */
static int find_level(const struct sigaction *action) {
  if (levels != 0 && is_below(levels - 1, action)) return (int)levels - 1;
  if (levels < LEVELS) {
    below[levels].action = *action;
    return (int)levels++;
  }
  for (uint32_t i = LEVELS; i-- > 0;) {
    if (is_below(i, action)) return (int)i;
  }
  return fail(EBUSY, "%u SIGBUS handlers have been put over the library's, one after the other: no more can be kept.",
              LEVELS);
}

static int put_over(const struct sigaction *present) {
  int level = find_level(present);
  if (level < 0) return level;
  atomic_store(&below[level].handler, present->sa_handler); /* anew, if it is one that is reset when it is called */
  struct sigaction action = {.sa_sigaction = ours[level], .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  bool handled = present->sa_handler != SIG_DFL && present->sa_handler != SIG_IGN;
  if (!handled || (present->sa_flags & SA_RESTART) != 0) action.sa_flags |= SA_RESTART;
  fill_mask(&action.sa_mask);
  return sigaction(SIGBUS, &action, NULL) == 0 ? 0 : fail(errno, "Cannot handle SIGBUS: %s.", strerror(errno));
}

int uffd_sigbus_acquire(uffd_sigbus_fn *resolve) {
  struct sigaction present;
  int result = 0;
  atomic_store_explicit(&resolver, resolve, memory_order_release);
  uffd_lock(&lock);
  BARRIER("sigbus", NULL);
  if (sigaction(SIGBUS, NULL, &present) != 0) {
    result = fail(errno, "Cannot ask for the SIGBUS handler: %s.", strerror(errno));
  } else if (!is_ours(&present)) {
    result = put_over(&present);
  }
  uffd_unlock(&lock);
  return result;
}
