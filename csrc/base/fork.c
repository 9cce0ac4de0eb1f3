/*
 * Tells processes apart. A handle belongs to the process that made it, and a forked child must be refused. getpid() is
 * a system call, and its numbers are used again. So the number lies in a page that the kernel wipes on every fork, also
 * on a raw clone(): a check is one load.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

static _Atomic(_Atomic uint64_t *) own_page; /* holds this process's number; 0: not numbered since the fork */
static _Atomic uint64_t last_number;         /* a child inherits it, so its own number differs from its ancestors' */

static void forget_number(void) {
  _Atomic uint64_t *page = atomic_load(&own_page);
  if (page != NULL) atomic_store(page, 0);
}

static _Atomic uint64_t *make_page(void) {
  size_t length = (size_t)sysconf(_SC_PAGESIZE);
  _Atomic uint64_t *page = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return NULL;
  bool wiped = madvise(page, length, MADV_WIPEONFORK) == 0; /* 4.14 */
  _Atomic uint64_t *present = NULL;
  if (!atomic_compare_exchange_strong(&own_page, &present, page)) {
    munmap(page, length);
    return present;
  }
  if (!wiped) pthread_atfork(NULL, NULL, forget_number);
  return page;
}

uint64_t uffd_process(void) {
  _Atomic uint64_t *page = atomic_load_explicit(&own_page, memory_order_acquire);
  if (page == NULL) {
    page = make_page();
    if (page == NULL) return 0; /* without memory for one page there is no fork check */
  }
  uint64_t number = atomic_load_explicit(page, memory_order_relaxed);
  if (number != 0) return number;
  uint64_t next = atomic_fetch_add(&last_number, 1) + 1;
  return atomic_compare_exchange_strong(page, &number, next) ? next : number;
}
