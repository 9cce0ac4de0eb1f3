/*
 * The guard's process. It is a child of the supervisor, as its worker is. Other threads of the worker's program may
 * have held locks of the C library when it was made: it allocates nothing.
 */
#include "serve/worker/guard.h"

#include <linux/sched.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "loop/pages/ledger.h"
#include "serve/paper/alive.h"
#include "serve/paper/book.h"
#include "serve/paper/channel.h"
#include "serve/paper/descriptors.h"

#define LOOK_MS 1 /* between two looks whether the supervisor has taken it */

struct guard {
  struct uffd_mouth mouth;
  int32_t worker;
  uint64_t announced; /* so far */
  bool heard;         /* the supervisor has taken all of it */
};

static void announce(struct guard *guard, uint64_t parent, uint32_t index, int fd) {
  struct uffd_message message = {.kind = UFFD_SAY_FORKED, .client = parent, .flags = index};
  message.number = UFFD_GUARD_NUMBERS + guard->announced++;
  guard->heard = uffd_say_message(&guard->mouth, &message, &fd, 1) && guard->heard;
}

/* The forks that the worker has read and not passed on. Messages of other readers name descriptors of theirs. */
static void look_into(void *ctx, int fd) {
  struct guard *guard = ctx;
  struct uffd_book book;
  if (!uffd_fd_is(0, fd, "/memfd:uffd-book") || uffd_book_open(fd, &book) < 0) return;
  if (atomic_load(&book.head->reader) == guard->worker) {
    const struct uffd_ledger_book *ledger = uffd_book_ledger(&book);
    for (uint32_t i = 0; i < UFFD_READ_MAX; i++) {
      const struct uffd_raw_msg *message = &ledger->messages[i];
      int child = message->event == UFFD_FORK ? (int)message->arg.fork.ufd : -1;
      if (child >= 0 && uffd_fd_is(0, child, UFFD_FD_OBJECT)) announce(guard, book.head->id, i, child);
    }
  }
  munmap(book.head, book.length); /* the descriptor stays: with it goes the lock by which the worker reads */
}

/* False: the supervisor has died before it had taken all of it. What it has not read dies with it. */
static bool is_heard(struct guard *guard) {
  struct pollfd supervisor = {.fd = guard->mouth.channel};
  int unread = 1;
  while (guard->heard && unread != 0) {
    (void)poll(&supervisor, 1, 0);
    if ((supervisor.revents & POLLHUP) != 0) guard->heard = false;
    if (ioctl(guard->mouth.channel, SIOCOUTQ, &unread) != 0) unread = 0;
    if (guard->heard && unread != 0) (void)poll(NULL, 0, LOOK_MS);
  }
  return guard->heard;
}

/* By exit_group(2): what the program does at its exit is not the guard's to do. */
_Noreturn static void be_guard(struct guard *guard, int pidfd) {
  struct pollfd end = {.fd = pidfd, .events = POLLIN};
  (void)prctl(PR_SET_NAME, "uffd-guard");
  while (poll(&end, 1, -1) != 1) {
  }
  BARRIER("guarding", guard);
  guard->heard = true;
  uffd_each_fd(look_into, guard);
  BARRIER("guarded", guard);
  if (!is_heard(guard)) uffd_hold_objects();
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
