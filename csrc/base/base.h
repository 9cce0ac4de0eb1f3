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

/* Visible for libuffd-pager.so, under UFFD_PRIVATE_1 in uffd.map; what is not is for libuffd alone. */
#define UFFD_SHARED UFFD_EXPORT

/*
 * error.c: fail() is uffd_set_errmsg() under its inner name: it sets the calling thread's sentence and returns -error.
 * Not for the fault path, which formats nothing until a page has failed.
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
/* How many sentences the thread has set: a user's function that fails may have set none, and an older one stands. */
uint32_t uffd_count_sentences(void);
/* What errno says, in English, also for the fault path. */
const char *uffd_error_text(int error);
/* A copy of the thread's sentence. Cleaning up after a failure may fail as well and write another sentence: keep the
 * first one before, restore it after. */
struct uffd_sentence {
  char text[768];
};
UFFD_SHARED struct uffd_sentence uffd_keep_sentence(void);
UFFD_SHARED void uffd_restore_sentence(const struct uffd_sentence *sentence);

/* alloc.c: zeroed memory from the user's allocator, or NULL; release takes the same length. */
UFFD_SHARED void *uffd_alloc(size_t length);
UFFD_SHARED void uffd_release(void *pointer, size_t length);
#define NEW(type)       ((type *)uffd_alloc(sizeof(type)))
#define DELETE(pointer) uffd_release((pointer), sizeof(*(pointer)))

/*
 * pages.c: zeroed whole pages straight from the kernel, NULL when there are none; unmapped with the same length. What
 * a reader or handler allocates comes from here: glibc's fork() holds malloc's locks while it waits for its event.
 */
#define BASE_PAGE UINT64_C(4096)
void *uffd_pages_map(uint64_t length);
void uffd_pages_unmap(void *pages, uint64_t length);
/* UFFD_ZEROS zero bytes that a copy never waits for, shared by the whole process, never given back; NULL: no memory. */
#define UFFD_ZEROS (UINT64_C(2) << 20)
const char *uffd_zeros(void);
/* page: BASE_PAGE bytes, aligned. */
bool uffd_is_zero_page(const char *page);

/*
 * newfile.c: a file that is written beside its target, and put in its place when it is whole. keep syncs, renames and
 * closes; when it fails, the file is discarded as by discard, which does nothing after either.
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
 * thread.c: starts a thread with all signals blocked: a signal handler of the program may touch memory that only this
 * thread can fill. 0, or -errno with a sentence. name: at most 15 characters.
 */
UFFD_SHARED int uffd_thread_start(pthread_t *thread, void *(*run)(void *), void *argument, const char *name);

/* log.c: no lock and no allocation, so that the fault path may say something in a signal handler. */
UFFD_SHARED void uffd_log(int level, const char *format, ...) UFFD_PRINTF(2, 3);

/*
 * fork.c: a number that differs in every process of a family, however it was forked (a MADV_WIPEONFORK page, so raw
 * clone() is seen too). A handle keeps the number of its maker; costs one load.
 */
UFFD_SHARED uint64_t uffd_process(void);

/*
 * lock.c: the lock of something that the whole process shares. A forked child finds it free, whoever held it in the
 * parent. uffd_lock() returns true to the first who locks it in a process: what the lock guards is the parent's then,
 * perhaps half changed, and is to be reset. Ordinary threads only.
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
 * cancel.c: from hold to let the calling thread is not cancelled by pthread_cancel(). They nest. Within a signal
 * handler they may not be used.
 */
void uffd_hold_cancel(void);
void uffd_let_cancel(void);

/* futex.c: waits while the word is as it was seen (it may return earlier), and wakes up to count of those that wait. */
void uffd_futex_wait(_Atomic uint32_t *word, uint32_t seen);
void uffd_futex_wake(_Atomic uint32_t *word, int count);

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
 * A named step that UFFD_BREAK=name in the environment leaves out, to see that a test then fails
 * (tests/house/breaks.sh). Compiled in with UFFD_BARRIERS only.
 */
#ifdef UFFD_BARRIERS
bool uffd_is_broken(const char *name);
#define BROKEN(name) uffd_is_broken(name)
#else
#define BROKEN(name) false
#endif

/* What a descriptor is ready for now, of these events and those that are always told (POLLHUP, ...); 0: nothing. */
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
