/*
 * What every C test uses: checks, one forked process for each test, threads that are known to sleep in a fault,
 * memories of every kind, huge pages, barriers. A program is a table of tests and CHECK_MAIN.
 */
#ifndef UFFD_TESTS_CHECK_H
#define UFFD_TESTS_CHECK_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "uffd.h"

/* Checks: the first that fails ends the test */

#define CHECK(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))
#define CHECK_EQ(actual, expected)                                                                                     \
  check_equal((long long)(actual), (long long)(expected), __FILE__, __LINE__, #actual, #expected)
/* A call of the library that must succeed; its result. */
#define CHECK_OK(call) check_result((call), __FILE__, __LINE__, #call)
/* A call that must fail with exactly -E..., and set a sentence. */
#define CHECK_ERR(call, error) check_error((call), (error), __FILE__, __LINE__, #call, #error)
/* The sentence of the last failure holds these words. */
#define CHECK_SAYS(words) check_says((words), __FILE__, __LINE__)
/* Skips the test; the reason as for printf. */
#define SKIP(...) check_skip(__VA_ARGS__)

_Noreturn void check_failed(const char *file, int line, const char *text);
void check_equal(long long actual, long long expected, const char *file, int line, const char *actual_text,
                 const char *expected_text);
int check_result(int result, const char *file, int line, const char *text);
void check_error(int result, int error, const char *file, int line, const char *text, const char *error_text);
void check_says(const char *words, const char *file, int line);
_Noreturn void check_skip(const char *format, ...) UFFD_PRINTF(1, 2);

/*
 * Programs: each test runs in a process of its own. A test hangs if it makes no progress for CHECK_SECONDS; it is then
 * ended, with its name and the places of its threads. Time in which it waits for a processor does not count
 * (watchdog.h).
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CHECK_SECONDS INT64_C(60) /* a thousand threads under ThreadSanitizer */
#else
#define CHECK_SECONDS INT64_C(20)
#endif

/* Say this after each of many rounds: the watchdog starts to count anew. Never in a loop that waits. */
void check_progress(void);

struct check_test {
  const char *name;
  void (*run)(void);
};
#define TEST(function)                                                                                                 \
  { #function, function }
/* Runs all tests, or those named on the command line: 0, 1 when one failed, 77 when all were skipped. */
#define CHECK_MAIN(tests)                                                                                              \
  int main(int argc, char **argv) {                                                                                    \
    return check_main((tests), sizeof(tests) / sizeof((tests)[0]), argc, argv);                                        \
  }
int check_main(const struct check_test *tests, size_t count, int argc, char **argv);

/*
 * Runs function in a forked child, for tests that change privileges, limits, filters. Its failure or skip becomes this
 * test's.
 */
void check_in_child(void (*function)(void *ctx), void *ctx);
/* Waits for a child that must exit with 0, like one made by fork(). */
void check_child(pid_t child);
/* Ends the test with success and without a sanitizer's leak check: for tests that gave up /proc or descriptors. */
_Noreturn void check_leave(void);
/* The child becomes an ordinary user, without capabilities. */
void check_drop_privileges(void);

bool check_is_root(void);                /* with CAP_SYS_PTRACE */
bool check_is_sanitized(void);           /* built with AddressSanitizer or ThreadSanitizer */
bool check_mlock_works(void);            /* under a sanitizer mlock() and mlockall() do nothing */
bool check_under_tsan(void);             /* where raw clone() and the like cannot be used */
uint64_t check_page(void);               /* the base page */
uint64_t check_number(const char *path); /* of a file such as a sysctl; 0 if there is none */

/* The object */

/* Opens an object with these features enabled; skips where this kernel or user cannot. */
uffd_object *check_open(uint64_t features);
/* Skips unless the kernel offers the features (without enabling them). */
void check_needs(uint64_t features);
bool check_has(uint64_t features); /* for a test of which only a part needs them */
/*
 * The inline engine. Before Linux 6.6 it has no default for on_error, as it can neither poison nor wait: zero is chosen
 * there, so that the test runs. Tests of poison need UFFD_FEAT_POISON themselves.
 */
void check_inline(struct uffd_loop_opts *opts);
/* Skips unless kernel-mode faults can be answered (not USER_MODE_ONLY). */
void check_needs_kernel_faults(const uffd_object *object);

/* Reads exactly one page fault, waiting for it. */
struct uffd_event check_fault(uffd_object *object);

/* Memory of every kind */

enum { CHECK_ANON, CHECK_SHMEM, CHECK_SHMEM_PRIVATE, CHECK_HUGETLB, CHECK_HUGETLB_PRIVATE, CHECK_KINDS };
extern const char *const check_kind_names[CHECK_KINDS];

struct check_area {
  unsigned char *at;    /* mapped, untouched */
  unsigned char *alias; /* the same file mapped again, shared; NULL for anonymous memory */
  uint64_t page;        /* bytes */
  uint64_t length;      /* bytes */
  int fd;               /* the memfd, or -1 */
  int kind;
};
/* Maps count pages of a kind. Huge pages are lent for it, or the test is skipped. */
struct check_area check_map(int kind, uint64_t count);
void check_unmap(struct check_area *area);
#define CHECK_ADDRESS(pointer) ((uint64_t)(uintptr_t)(pointer))

/* Makes sure that count huge pages are free until the test ends (hugepages.h). Skips without privilege. */
void check_hugepages(uint64_t count);

/* A page-aligned buffer whose page i is filled with the byte first + i. */
unsigned char *check_pattern(uint64_t page, uint64_t count, unsigned first);
/* Every byte of the page is this one. */
bool check_filled(const unsigned char *page, uint64_t length, unsigned byte);

/* Threads that touch */

struct check_touch {
  pthread_t thread;
  _Atomic int tid;
  _Atomic bool done;
  unsigned char *address;
  bool write; /* writes value, else reads it */
  unsigned char value;
  int signal; /* 0, or the SIGBUS or SIGSEGV that the access raised */
};
/* Starts a thread that reads, or writes value to, one byte. */
void check_touch_read(struct check_touch *touch, void *address);
void check_touch_write(struct check_touch *touch, void *address, unsigned value);
/* Waits until the thread sleeps in the fault, as the kernel tells. */
void check_touch_asleep(const struct check_touch *touch);
/* Joins the thread and returns the byte that was read or written. The access must not have raised a signal. */
unsigned check_touch_join(struct check_touch *touch);

/* Makes the access in this thread: 0, or the signal that it raised. value may be NULL. */
int check_access(void *address, bool write, unsigned *value);

/* Runs function in a thread; its tid is known when this returns. */
struct check_thread {
  pthread_t thread;
  _Atomic int tid;
  _Atomic bool done;
  void (*function)(void *ctx);
  void *ctx;
};
void check_thread_start(struct check_thread *thread, void (*function)(void *ctx), void *ctx);
void check_thread_join(struct check_thread *thread);

/* Waits until a thread sleeps in the kernel in a function whose name holds this text ("userfault", "poll", ...). */
void check_asleep(int tid, const char *where);
/* Lets other threads run: for loops that wait for a condition. The watchdog bounds them. */
void check_pause(void);

/* Barriers: hold threads of the library at named points (builds with UFFD_BARRIERS) */

#ifdef UFFD_BARRIERS
void check_barrier_hold(const char *name);  /* threads that come to the point wait there from now on */
void check_barrier_await(const char *name); /* waits until a thread is there */
void check_barrier_await_all(const char *name, unsigned count);
void check_barrier_release(const char *name); /* all threads that wait there go on, and later ones do not stop */
#endif

#endif
