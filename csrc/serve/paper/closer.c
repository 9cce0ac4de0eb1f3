/*
 * The threads that close foreign descriptors. They allocate nothing, and end when nothing is left to close.
 */
#include "serve/paper/closer.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"

#define THREADS 32u /* so many descriptors may be stuck at a time before others wait behind them */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int queue[2] = {-1, -1}; /* a pipe of descriptors' numbers, both ends non-blocking */
static uint32_t running;        /* threads */
static uint64_t owner;          /* the process that has the queue: a forked worker makes its own */

/* The next descriptor; -1: there is none, and the thread does not count any more. */
static int take(void) {
  int fd = -1;
  pthread_mutex_lock(&lock);
  if (read(queue[0], &fd, sizeof(fd)) != (ssize_t)sizeof(fd)) {
    fd = -1;
    running--;
  }
  pthread_mutex_unlock(&lock);
  return fd;
}

/* Ends when nothing is left: a process with one thread has one again. */
static void *close_all(void *argument) {
  const struct linger none = {0};
  int fd;
  while ((fd = take()) >= 0) {
    /* Waits for the socket's lock, which whoever sends from a missing page of its memory holds. ENOTSOCK: it is none.
     */
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    close(fd);
  }
  return argument;
}

static bool open_queue(void) {
  if (queue[0] >= 0) return true;
  if (pipe2(queue, O_CLOEXEC | O_NONBLOCK) == 0) return true;
  queue[0] = queue[1] = -1;
  return false;
}

/* What the parent's threads held and had in their queue is the parent's. */
static void begin_anew(void) {
  if (owner == uffd_process()) return;
  pthread_mutex_init(&lock, NULL);
  if (queue[0] >= 0) close(queue[0]);
  if (queue[1] >= 0) close(queue[1]);
  queue[0] = queue[1] = -1;
  running = 0;
  owner = uffd_process();
}

static bool hand_over(int fd) {
  struct uffd_sentence kept = uffd_keep_sentence(); /* whoever refuses has set one */
  pthread_t thread;
  begin_anew();
  pthread_mutex_lock(&lock);
  bool done = open_queue();
  if (done && running < THREADS && uffd_thread_start(&thread, close_all, NULL, "uffd-closer") == 0) {
    pthread_detach(thread); /* it waits for the lock */
    running++;
  }
  done = done && running != 0 && write(queue[1], &fd, sizeof(fd)) == (ssize_t)sizeof(fd);
  pthread_mutex_unlock(&lock);
  uffd_restore_sentence(&kept);
  return done;
}

/*
 * The name that the kernel has for it is told without asking its owner. Not among them: userfaultfds, whose last close
 * waits for the lock of their memory, and other objects of the kernel that have work to do at their end.
 */
static bool is_harmless(int fd) {
  static const char *const names[] = {
      "/memfd:", "anon_inode:[eventfd]", "anon_inode:[pidfd]", "pidfd:", "pipe:", "/dev/null", "/dev/zero"};
  char path[64], name[32] = "";
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  if (readlink(path, name, sizeof(name) - 1) <= 0) return false;
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
    if (strncmp(name, names[i], strlen(names[i])) == 0) return true;
  }
  return false;
}

void uffd_close_foreign(int *fds, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if (fds[i] < 0) continue;
    if (is_harmless(fds[i]) || !hand_over(fds[i])) close(fds[i]);
    fds[i] = -1;
  }
}
