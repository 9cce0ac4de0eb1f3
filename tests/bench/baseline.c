/*
 * Other ways to do the work, written from the manual pages.
 */
#include "baseline.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "raw.h"

char *map_fresh(uint64_t length, bool huge) {
  char *start = mmap(NULL, length + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) die("cannot map: %m");
  char *memory = (char *)(((uintptr_t)start + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
  if (memory != start) munmap(start, (size_t)(memory - start));
  munmap(memory + length, HUGE_PAGE - (size_t)(memory - start));
  if (huge) madvise(memory, length, MADV_HUGEPAGE);
  return memory;
}

void unmap(const char *memory, uint64_t length) {
  munmap((char *)(uintptr_t)memory, length);
}

/* The textbook loop */

struct textbook {
  int fd, cpu;
  const struct plan *plan;
  const char *memory, *source; /* NULL: zeros */
};

static void *handle_faults(void *argument) {
  const struct textbook *textbook = argument;
  pin(textbook->cpu);
  for (;;) {
    struct pollfd poll_fd = {.fd = textbook->fd, .events = POLLIN};
    struct uffd_msg message;
    if (poll(&poll_fd, 1, -1) != 1) die("poll: %m"); /* the thread is cancelled here */
    if (read(textbook->fd, &message, sizeof(message)) != (ssize_t)sizeof(message)) continue;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    uint64_t page = message.arg.pagefault.address & ~(PAGE - 1);
    int error =
        raw_fill(textbook->fd, page, raw_source(textbook->plan, textbook->source, textbook->memory, page), PAGE);
    if (error != 0 && error != EEXIST) die("the textbook loop: errno %d", error);
  }
  return NULL;
}

static void run_textbook(const struct plan *plan, int cpu, bool check, double figures[FIGURES]) {
  char *memory = map_fresh(plan->length, false);
  const char *source = NULL;
  if (plan->contents == IMAGE) {
    source = mmap(NULL, plan->length, PROT_READ, MAP_SHARED, plan->image->fd, 0);
    if (source == MAP_FAILED) die("cannot map the image: %m");
  }
  struct textbook textbook = {raw_open(0), cpu, plan, memory, source};
  pthread_t thread;
  raw_register(textbook.fd, memory, plan->length, UFFDIO_REGISTER_MODE_MISSING);
  if (pthread_create(&thread, NULL, handle_faults, &textbook) != 0) die("no thread");
  pin(cpu);
  plan_touch(plan, memory, figures);
  if (check) plan_check(plan, memory);
  pthread_cancel(thread);
  pthread_join(thread, NULL);
  close(textbook.fd);
  unmap(memory, plan->length);
  if (source != NULL) unmap(source, plan->length);
}

void textbook(const struct plan *plan, bool check, double figures[FIGURES]) {
  run_textbook(plan, -1, check, figures);
}

void textbook_pinned(const struct plan *plan, bool check, double figures[FIGURES]) {
  run_textbook(plan, current_cpu(), check, figures);
}

/* Files without userfaultfd */

void map_file(const struct plan *plan, bool check, double figures[FIGURES]) {
  char *memory = mmap(NULL, plan->length, PROT_READ, plan->write ? MAP_PRIVATE : MAP_SHARED, plan->image->fd, 0);
  if (memory == MAP_FAILED) die("cannot map the image: %m");
  plan_touch(plan, memory, figures);
  if (check) plan_check(plan, memory);
  unmap(memory, plan->length);
}

void read_file(const struct plan *plan, bool check, double figures[FIGURES]) {
  char *memory = map_fresh(plan->length, plan->kind != 0);
  uint64_t begin = now_ns();
  for (uint64_t offset = 0; offset < plan->length; offset += HUGE_PAGE) {
    if (pread(plan->image->fd, memory + offset, HUGE_PAGE, (off_t)offset) != (ssize_t)HUGE_PAGE) die("pread: %m");
  }
  double read_ns = (double)(now_ns() - begin);
  plan_touch(plan, memory, figures);
  figures[MAIN] += read_ns / (double)plan_pages(plan);
  if (check) plan_check(plan, memory);
  unmap(memory, plan->length);
}

/* Mprotect and SIGSEGV */

static void unprotect(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  char *page = (char *)((uintptr_t)info->si_addr & ~(PAGE - 1));
  if (mprotect(page, PAGE, PROT_READ | PROT_WRITE) != 0) _exit(3);
}

void protect(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  struct sigaction action = {.sa_sigaction = unprotect, .sa_flags = SA_SIGINFO | SA_NODEFER}, before;
  char *memory = map_fresh(plan->length, false);
  if (madvise(memory, plan->length, MADV_POPULATE_WRITE) != 0) die("cannot populate: %m");
  if (mprotect(memory, plan->length, PROT_READ) != 0) die("mprotect: %m");
  sigaction(SIGSEGV, &action, &before);
  plan_touch(plan, memory, figures);
  sigaction(SIGSEGV, &before, NULL);
  unmap(memory, plan->length);
}

uint64_t protect_until_refused(uint64_t length) {
  char *memory = map_fresh(length, false);
  uint64_t done = 0;
  if (mprotect(memory, length, PROT_READ) != 0) die("mprotect: %m");
  while (done * 2 * PAGE < length && mprotect(memory + done * 2 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0) {
    done++;
  }
  unmap(memory, length);
  return done;
}
