/*
 * The guard's process. It is a child of the supervisor, as its worker is. Other threads of the worker's program may
 * have held locks of the C library when it was made: it allocates nothing.
 */
#include "serve/worker/guard.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "loop/pages/ledger.h"
#include "serve/paper/alive.h"
#include "serve/paper/book.h"
#include "serve/paper/channel.h"

#define HOLD_MS     1000                /* between two looks at what is held */
#define ANY_ADDRESS (UINT64_C(1) << 30) /* the kernel looks at the address space first */
#define NUMBERS     (UINT64_C(1) << 63) /* of its announcements, from here on: the worker's are below */

struct guard {
  struct uffd_mouth mouth;
  int32_t worker;
  uint64_t announced; /* so far */
  bool heard;         /* the supervisor has taken all of it */
};

/* An entry of a directory, as getdents64(2) has it. */
struct entry {
  uint64_t inode;
  int64_t next;
  uint16_t length;
  uint8_t type;
  char name[];
};

/* Calls each with every descriptor of this process; each may close it. */
static void visit(void (*each)(struct guard *guard, int fd), struct guard *guard) {
  _Alignas(struct entry) char buffer[4096];
  int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  long length;
  while (folder >= 0 && (length = syscall(SYS_getdents64, folder, buffer, sizeof(buffer))) > 0) {
    for (long at = 0; at < length;) {
      const struct entry *entry = (const struct entry *)(const void *)(buffer + at);
      int fd = entry->name[0] != '.' ? (int)strtol(entry->name, NULL, 10) : -1;
      if (fd >= 0 && fd != folder) each(guard, fd);
      at += entry->length;
    }
  }
  if (folder >= 0) close(folder);
}

static bool is_named(int fd, const char *name) {
  char path[64], target[64];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  ssize_t length = readlink(path, target, sizeof(target) - 1);
  target[length > 0 ? length : 0] = '\0';
  return strncmp(target, name, strlen(name)) == 0;
}

static bool is_userfaultfd(int fd) {
  return is_named(fd, "anon_inode:[userfaultfd]");
}

static void announce(struct guard *guard, uint64_t parent, uint32_t index, int fd) {
  struct uffd_message message = {.kind = UFFD_SAY_FORKED, .client = parent, .flags = index};
  message.number = NUMBERS + guard->announced++;
  guard->heard = uffd_say_message(&guard->mouth, &message, &fd, 1) && guard->heard;
}

/* The forks that the worker has read and not passed on. Messages of other readers name descriptors of theirs. */
static void look_into(struct guard *guard, int fd) {
  struct uffd_book book;
  if (!is_named(fd, "/memfd:uffd-book") || uffd_book_open(fd, &book) < 0) return;
  if (atomic_load(&book.head->reader) == guard->worker) {
    const struct uffd_ledger_book *ledger = uffd_book_ledger(&book);
    for (uint32_t i = 0; i < UFFD_READ_MAX; i++) {
      const struct uffd_raw_msg *message = &ledger->messages[i];
      int child = message->event == UFFD_FORK ? (int)message->arg.fork.ufd : -1;
      if (child >= 0 && is_userfaultfd(child)) announce(guard, book.head->id, i, child);
    }
  }
  munmap(book.head, book.length); /* the descriptor stays: with it goes the lock by which the worker reads */
}

/* Locks of dead workers must not keep others out. */
static void close_other(struct guard *guard, int fd) {
  (void)guard;
  if (!is_userfaultfd(fd)) close(fd);
}

static void close_gone(struct guard *guard, int fd) {
  if (uffd_memory_gone(fd, ANY_ADDRESS)) {
    close(fd);
  } else {
    guard->announced++;
  }
}

static void hold_on(struct guard *guard) {
  visit(close_other, guard);
  do {
    guard->announced = 0;
    visit(close_gone, guard);
  } while (guard->announced != 0 && poll(NULL, 0, HOLD_MS) >= 0);
}

/* By exit_group(2): what the program does at its exit is not the guard's to do. */
_Noreturn static void be_guard(struct guard *guard, int pidfd) {
  struct pollfd end = {.fd = pidfd, .events = POLLIN}, supervisor = {.fd = guard->mouth.channel};
  (void)prctl(PR_SET_NAME, "uffd-guard");
  while (poll(&end, 1, -1) != 1) {
  }
  BARRIER("guarding", guard);
  guard->heard = true;
  visit(look_into, guard);
  (void)poll(&supervisor, 1, 0);
  if (!guard->heard || (supervisor.revents & POLLHUP) != 0) hold_on(guard);
  for (;;) {
    (void)syscall(SYS_exit_group, 0);
  }
}

int uffd_guard_start(const struct uffd_mouth *mouth) {
  struct guard guard = {.mouth = *mouth, .worker = (int32_t)getpid()};
  if (BROKEN("guard")) return 0;
  int pidfd = (int)syscall(SYS_pidfd_open, guard.worker, 0);
  if (pidfd < 0) return fail(errno, "No descriptor for the guard of a worker: %s.", strerror(errno));
  long pid = syscall(SYS_clone, CLONE_FILES | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) be_guard(&guard, pidfd);
  if (pid > 0) { /* the descriptor is the guard's: their table is one */
    struct uffd_message hello = {.kind = UFFD_SAY_GUARD, .number = (uint64_t)pid};
    (void)uffd_say_message(mouth, &hello, NULL, 0); /* before READY: the supervisor waits for the end of both */
    return 0;
  }
  close(pidfd);
  return fail(errno, "No process for the guard of a worker: %s.", strerror(errno));
}
