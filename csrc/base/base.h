/*
 * The ground floor: error sentences, allocation, clock, threads, log, options, the fork check, barriers for tests.
 * Knows nothing of userfaultfd.
 */
#ifndef UFFD_BASE_BASE_H
#define UFFD_BASE_BASE_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uffd.h"

/* Exported for libuffd-pager.so, as UFFD_PRIVATE_1 in uffd.map. Functions without it are for libuffd alone. */
#define UFFD_SHARED UFFD_EXPORT

/*
 * error.c: fail() is uffd_set_errmsg(): it sets the calling thread's sentence and returns -error. The fault path must
 * not format a sentence before a page has failed.
 */
#ifdef __clang_analyzer__ /* It does not see into error.c: no error is 0. */
static inline int uffd_failed(int result) {
  if (result >= 0) __builtin_unreachable();
  return result;
}
#define fail(...) uffd_failed(uffd_set_errmsg(__VA_ARGS__))
#else
#define fail uffd_set_errmsg
#endif
/*
 * How many sentences the thread has set so far. A user's callback may fail without one: then the present sentence is
 * about an older failure.
 */
uint32_t uffd_count_sentences(void);
/* The text of an errno, in English; the fault path may use it too. */
const char *uffd_error_text(int error);
/*
 * A copy of the thread's sentence. Cleaning up after a failure may fail too and set another sentence: keep the first
 * one before, restore it after.
 */
struct uffd_sentence {
  char text[768];
};
UFFD_SHARED struct uffd_sentence uffd_keep_sentence(void);
UFFD_SHARED void uffd_restore_sentence(const struct uffd_sentence *sentence);

/* alloc.c: zeroed memory from the user's allocator, or NULL. Release takes the same length. */
UFFD_SHARED void *uffd_alloc(size_t length);
UFFD_SHARED void uffd_release(void *pointer, size_t length);
#define NEW(type)       ((type *)uffd_alloc(sizeof(type)))
#define DELETE(pointer) uffd_release((pointer), sizeof(*(pointer)))

/*
 * pages.c: zeroed whole pages straight from the kernel, or NULL; unmap them with the same length. Readers and handlers
 * allocate only these, because glibc's fork() holds malloc's locks while it waits for its event to be read.
 */
#define BASE_PAGE UINT64_C(4096)
UFFD_SHARED void *uffd_pages_map(uint64_t length);
UFFD_SHARED void uffd_pages_unmap(void *pages, uint64_t length);
/*
 * For large tables of which little is written. Where huge pages are made of all memory (transparent_hugepage=always, as
 * Debian has it), the first byte that is written would otherwise take 2 MiB.
 */
void *uffd_pages_map_sparse(uint64_t length);
/*
 * UFFD_ZEROS bytes of zeros, shared by the whole process and never freed: copying them never faults. NULL: no memory.
 */
#define UFFD_ZEROS (UINT64_C(2) << 20)
const char *uffd_zeros(void);
/* page: BASE_PAGE bytes, aligned. */
bool uffd_is_zero_page(const char *page);

/*
 * newfile.c: a file that is written beside its target, and renamed to it when it is whole. keep syncs, renames and
 * closes. When keep fails, it discards the file. discard after either does nothing.
 */
struct uffd_newfile {
  int fd;            /* to read and write; -1: kept or discarded */
  char path[4096];   /* as it is written */
  char target[4096]; /* what it becomes */
};
UFFD_SHARED int uffd_newfile_open(struct uffd_newfile *file, const char *path);
UFFD_SHARED int uffd_newfile_keep(struct uffd_newfile *file);
UFFD_SHARED void uffd_newfile_discard(struct uffd_newfile *file);
/* pwrite(2) of exactly so many bytes: 0, or -errno with a sentence. */
UFFD_SHARED int uffd_write_exactly(int fd, const char *path, uint64_t offset, const void *bytes, uint64_t length);

/* clock.c: CLOCK_MONOTONIC in nanoseconds. */
UFFD_SHARED uint64_t uffd_now(void);

/*
 * thread.c: starts a thread with all signals blocked, because a signal handler of the program may touch memory that
 * only this thread can fill. 0, or -errno with a sentence. name: at most 15 characters.
 */
UFFD_SHARED int uffd_thread_start(pthread_t *thread, void *(*run)(void *), void *argument, const char *name);

/* log.c: logs without lock and allocation, so that the fault path may use it in a signal handler. */
UFFD_SHARED void uffd_log(int level, const char *format, ...) UFFD_PRINTF(2, 3);

/*
 * fork.c: a number that differs in every process of a family, also after a raw clone(). A handle keeps the number of
 * the process that made it. A call costs one load.
 */
UFFD_SHARED uint64_t uffd_process(void);

/*
 * lock.c: the lock of something that the whole process shares. A forked child finds it free, whoever held it in the
 * parent. uffd_lock() returns true to the first thread that locks it in a process: what the lock guards was copied from
 * the parent, perhaps half changed, and must be reset. Not in signal handlers.
 */
struct uffd_lock {
  pthread_mutex_t mutex;
  _Atomic uint64_t process; /* whose lock it is; 0: nobody has locked it yet */
};
#define UFFD_LOCK_INIT                                                                                                 \
  { PTHREAD_MUTEX_INITIALIZER, 0 }
bool uffd_lock(struct uffd_lock *lock);
void uffd_unlock(struct uffd_lock *lock);

/*
 * cancel.c: between hold and let, pthread_cancel() does not end the calling thread. Pairs may nest. Not in signal
 * handlers.
 */
void uffd_hold_cancel(void);
void uffd_let_cancel(void);

/* futex.c: wait sleeps while the word is still as seen, and may return earlier. wake wakes up to count sleepers. */
UFFD_SHARED void uffd_futex_wait(_Atomic uint32_t *word, uint32_t seen);
void uffd_futex_wait_for(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns);
UFFD_SHARED void uffd_futex_wake(_Atomic uint32_t *word, int count);

/* options.c: copies a user's size-versioned struct into ours. 0, or -EINVAL for a size of 0 or a non-zero unknown tail.
 */
UFFD_SHARED int uffd_take_opts(void *ours, size_t our_size, const void *theirs, const char *what);

/*
 * A named point at which a test can hold a thread, so that races repeat. Compiled in only with UFFD_BARRIERS; the
 * library that is installed has none.
 */
#ifdef UFFD_BARRIERS
extern _Atomic(void (*)(const char *name, void *ctx)) uffd_barrier_hook;
#define BARRIER(name, ctx)                                                                                             \
  do {                                                                                                                 \
    void (*hook_)(const char *, void *) = atomic_load(&uffd_barrier_hook);                                             \
    if (hook_ != NULL) hook_((name), (ctx));                                                                           \
  } while (0)
#else
#define BARRIER(name, ctx) ((void)0)
#endif

/*
 * A named step that UFFD_BREAK=name in the environment leaves out: a test must then fail (tests/house/breaks.sh). Only
 * with UFFD_BARRIERS.
 */
#ifdef UFFD_BARRIERS
bool uffd_is_broken(const char *name);
#define BROKEN(name) uffd_is_broken(name)
#else
#define BROKEN(name) false
#endif

/*
 * Which of these events a descriptor is ready for now, and of those that poll() always tells (POLLHUP, ...); 0: none.
 */
static inline short uffd_ready(int fd, short events) {
  struct pollfd descriptor = {.fd = fd, .events = events};
  while (poll(&descriptor, 1, 0) < 0 && errno == EINTR) { /* a signal may come amid a poll that does not wait, too */
  }
  return descriptor.revents;
}

static inline uint64_t round_down(uint64_t value, uint64_t unit) {
  return value - value % unit;
}
static inline uint64_t round_up(uint64_t value, uint64_t unit) {
  return round_down(value + unit - 1, unit);
}
static inline uint64_t min_u64(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b) {
  return a > b ? a : b;
}

#endif
