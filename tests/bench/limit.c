/*
 * Bare kernel operations: what an answer costs when nobody has to find out what it should be.
 */
#include "limit.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "baseline.h"
#include "raw.h"

#define PIECE (256 * KIB) /* that are read and copied at once: they stay in the cache */

/* The answer of the signal handler; one run at a time. */
static struct {
  const struct plan *plan;
  const char *memory;
  int fd;
  bool protect; /* what is copied arrives write-protected */
} current;

/* The bytes of the image come from the file, as uffd has them. */
static int fill_from_file(const struct plan *plan, int fd, uint64_t dst, uint64_t offset, char *buffer,
                          uint64_t length) {
  if (pread(plan->image->fd, buffer, length, (off_t)offset) != (ssize_t)length) return EIO;
  return raw_copy(fd, dst, buffer, length, current.protect);
}

static void on_missing(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  uint64_t page = (uintptr_t)info->si_addr & ~(PAGE - 1);
  static _Thread_local char buffer[PAGE];
  uint64_t offset = page - (uintptr_t)current.memory;
  int error = current.plan->contents == IMAGE
                  ? fill_from_file(current.plan, current.fd, page, offset, buffer, PAGE)
                  : raw_fill(current.fd, page, raw_source(current.plan, NULL, current.memory, page), PAGE);
  if (error != 0) _exit(3);
}

static void on_protected(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  if (raw_writeprotect(current.fd, (uintptr_t)info->si_addr & ~(PAGE - 1), PAGE, false) != 0) _exit(3);
}

static void touch_with(void (*handler)(int, siginfo_t *, void *), const struct plan *plan, char *memory,
                       double figures[FIGURES]) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER}, before;
  sigaction(SIGBUS, &action, &before);
  plan_touch(plan, memory, figures);
  sigaction(SIGBUS, &before, NULL);
}

void limit_signal(const struct plan *plan, bool check, double figures[FIGURES]) {
  char *memory = map_fresh(plan->length, false);
  current.plan = plan;
  current.memory = memory;
  current.fd = raw_open(UFFD_FEATURE_SIGBUS);
  (void)plan_split(plan, memory);
  raw_register(current.fd, memory, plan->length, UFFDIO_REGISTER_MODE_MISSING);
  touch_with(on_missing, plan, memory, figures);
  if (check) plan_check(plan, memory);
  close(current.fd);
  unmap(memory, plan->length);
}

void limit_unprotect(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  char *memory = map_fresh(plan->length, false);
  if (madvise(memory, plan->length, MADV_POPULATE_WRITE) != 0) die("cannot populate: %m");
  current.fd = raw_open(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP);
  raw_register(current.fd, memory, plan->length, UFFDIO_REGISTER_MODE_WP);
  if (raw_writeprotect(current.fd, (uintptr_t)memory, plan->length, true) != 0) die("UFFDIO_WRITEPROTECT: %m");
  touch_with(on_protected, plan, memory, figures);
  close(current.fd);
  unmap(memory, plan->length);
}

static void fill_in_bulk(const struct plan *plan, int fd, char *memory, bool check, double figures[FIGURES]) {
  static char buffer[PIECE];
  uint64_t begin = now_ns();
  for (uint64_t offset = 0; offset < plan->length; offset += PIECE) {
    uint64_t dst = (uintptr_t)memory + offset;
    int error = plan->contents == IMAGE ? fill_from_file(plan, fd, dst, offset, buffer, PIECE)
                                        : raw_fill(fd, dst, raw_source(plan, NULL, memory, dst), PIECE);
    if (error != 0) die("the bulk ioctl: errno %d", error);
  }
  double bulk_ns = (double)(now_ns() - begin);
  plan_touch(plan, memory, figures);
  figures[MAIN] += bulk_ns / (double)plan_pages(plan);
  if (check && !plan->write) plan_check(plan, memory);
  close(fd);
  unmap(memory, plan->length);
}

void limit_bulk(const struct plan *plan, bool check, double figures[FIGURES]) {
  char *memory = map_fresh(plan->length, false);
  int fd = raw_open(0);
  raw_register(fd, memory, plan->length, UFFDIO_REGISTER_MODE_MISSING);
  fill_in_bulk(plan, fd, memory, check, figures);
}

void limit_bulk_protected(const struct plan *plan, bool check, double figures[FIGURES]) {
  char *memory = map_fresh(plan->length, false);
  int fd = raw_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC);
  raw_register(fd, memory, plan->length, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
  current.protect = true;
  fill_in_bulk(plan, fd, memory, check, figures);
  current.protect = false;
}

void limit_continue(const struct plan *plan, bool check, double figures[FIGURES]) {
  char *memory = mmap(NULL, plan->length, PROT_READ | PROT_WRITE, MAP_SHARED, plan->image->fd, 0);
  if (memory == MAP_FAILED) die("cannot map the memfd: %m");
  int fd = raw_open(UFFD_FEATURE_MINOR_SHMEM);
  raw_register(fd, memory, plan->length, UFFDIO_REGISTER_MODE_MINOR);
  uint64_t begin = now_ns();
  for (uint64_t offset = 0; offset < plan->length; offset += HUGE_PAGE) {
    int error = raw_continue(fd, (uintptr_t)memory + offset, HUGE_PAGE);
    if (error != 0) die("the bulk ioctl: errno %d", error);
  }
  double bulk_ns = (double)(now_ns() - begin);
  plan_touch(plan, memory, figures);
  figures[MAIN] += bulk_ns / (double)plan_pages(plan);
  if (check) plan_check(plan, memory);
  close(fd);
  unmap(memory, plan->length);
}
