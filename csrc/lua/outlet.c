/*
 * Outlets: standard output and error of a program that must never wait for who reads them. The descriptor becomes a
 * pipe; one thread empties it into a buffer, another one writes the buffer to where the descriptor led before. Lines
 * for which there is no room are dropped and counted. Workers inherit the pipe, so what they print waits for nobody
 * either.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

#define BUFFER   ((size_t)1 << 20) /* bytes that wait to be written */
#define LINE     ((size_t)1 << 16) /* of it must be free when a line begins */
#define CHUNK    ((size_t)1 << 14) /* bytes at a time */
#define PATIENCE 2000              /* ms at the end, without anything having been written */

/* Never freed: its threads may wait in the kernel until the process ends. */
struct outlet {
  /* set once */
  int fd, real, pipe;
  char notice[256]; /* how to say that lines were dropped: one %llu */
  /* under the lock */
  pthread_mutex_t lock;
  pthread_cond_t filled;
  size_t start, length; /* in the buffer, which is a ring */
  unsigned long long dropped, written;
  bool writing, reading;
  /* the reader's */
  bool dropping, inside; /* this line is dropped; bytes of it have come */
  char buffer[BUFFER];
};

static void put_byte(struct outlet *outlet, char byte) {
  outlet->buffer[(outlet->start + outlet->length++) % BUFFER] = byte;
}

/* Line by line: what is dropped is whole lines, but for those that are longer than there is room. */
static void take_in(struct outlet *outlet, const char *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (!outlet->inside) outlet->dropping = BUFFER - outlet->length < LINE;
    outlet->inside = bytes[i] != '\n';
    bool cut = outlet->inside && BUFFER - outlet->length < 2;
    if (!outlet->dropping && !cut) put_byte(outlet, bytes[i]);
    if (!outlet->inside && outlet->dropping) outlet->dropped++;
  }
  pthread_cond_signal(&outlet->filled);
}

static void *empty_pipe(void *argument) {
  struct outlet *outlet = argument;
  char bytes[CHUNK];
  for (;;) {
    ssize_t count = read(outlet->pipe, bytes, sizeof(bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return NULL;
    pthread_mutex_lock(&outlet->lock);
    take_in(outlet, bytes, (size_t)count);
    pthread_mutex_unlock(&outlet->lock);
  }
}

/* The next piece, under the lock: what waits, or how much was dropped before it. */
static size_t next_piece(struct outlet *outlet, char *bytes) {
  if (outlet->length == 0 && outlet->dropped != 0) {
    int length = snprintf(bytes, CHUNK, outlet->notice, outlet->dropped);
    outlet->dropped = 0;
    return length > 0 ? (size_t)length : 0;
  }
  size_t count = outlet->length < CHUNK ? outlet->length : CHUNK;
  for (size_t i = 0; i < count; i++) {
    bytes[i] = outlet->buffer[(outlet->start + i) % BUFFER];
  }
  outlet->start = (outlet->start + count) % BUFFER;
  outlet->length -= count;
  return count;
}

/* Where nobody reads any more, it is thrown away. */
static void write_all(const struct outlet *outlet, const char *bytes, size_t count) {
  size_t done = 0;
  while (done < count) {
    ssize_t wrote = write(outlet->real, bytes + done, count - done);
    if (wrote > 0) done += (size_t)wrote;
    if (wrote < 0 && errno == EAGAIN) {
      struct pollfd room = {.fd = outlet->real, .events = POLLOUT};
      (void)poll(&room, 1, -1);
    } else if (wrote < 0 && errno != EINTR) {
      return;
    }
  }
}

static void *fill_real(void *argument) {
  struct outlet *outlet = argument;
  char bytes[CHUNK];
  pthread_mutex_lock(&outlet->lock);
  for (;;) {
    while (outlet->length == 0 && outlet->dropped == 0) {
      pthread_cond_wait(&outlet->filled, &outlet->lock);
    }
    size_t count = next_piece(outlet, bytes);
    outlet->writing = true;
    pthread_mutex_unlock(&outlet->lock);
    write_all(outlet, bytes, count);
    pthread_mutex_lock(&outlet->lock);
    outlet->writing = false;
    outlet->written += count;
  }
  return NULL;
}

/* Signals are for the main thread; without SIGPIPE a write to a pipe that nobody reads is an error. */
static int start(struct outlet *outlet, void *(*run)(void *)) {
  sigset_t all, before;
  pthread_t thread;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&thread, NULL, run, outlet);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error == 0) pthread_detach(thread);
  return error;
}

static int set_up(struct outlet *outlet) {
  int ends[2];
  outlet->real = fcntl(outlet->fd, F_DUPFD_CLOEXEC, 3);
  if (outlet->real < 0) return errno;
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  outlet->pipe = ends[0];
  pthread_mutex_init(&outlet->lock, NULL);
  pthread_cond_init(&outlet->filled, NULL);
  int error = start(outlet, empty_pipe);
  if (error == 0) error = start(outlet, fill_real);
  if (error == 0 && dup2(ends[1], outlet->fd) < 0) error = errno;
  close(ends[1]);
  return error;
}

/*
 * core.outlet(fd, notice): from now on what this process and its children write to fd waits for nobody. notice: how the
 * reader is told of lines that were dropped, with %d for their number. Returns a function that waits until all is
 * written, or nobody takes it, and puts the descriptor back.
 */
static bool is_idle(struct outlet *outlet, unsigned long long *written) {
  int unread = 0;
  pthread_mutex_lock(&outlet->lock);
  bool idle = outlet->length == 0 && outlet->dropped == 0 && !outlet->writing;
  *written = outlet->written;
  pthread_mutex_unlock(&outlet->lock);
  return idle && ioctl(outlet->pipe, FIONREAD, &unread) == 0 && unread == 0;
}

static int finish(lua_State *L) {
  struct outlet *outlet = lua_touserdata(L, lua_upvalueindex(1));
  const struct timespec moment = {.tv_nsec = 1000000};
  unsigned long long before = 0, now = 0;
  fflush(NULL);
  if (dup2(outlet->real, outlet->fd) < 0) return 0;
  /* Twice: between the pipe and the buffer, bytes are in neither. */
  for (int waited = 0, idle = 0; waited < PATIENCE && idle < 2; waited++, before = now) {
    idle = is_idle(outlet, &now) ? idle + 1 : 0;
    if (now != before) waited = 0;
    nanosleep(&moment, NULL);
  }
  return 0;
}

static int open_outlet(lua_State *L) {
  int fd = (int)uffd_lua_unsigned(L, 1);
  const char *notice = luaL_checkstring(L, 2);
  struct outlet *outlet = calloc(1, sizeof(*outlet));
  if (outlet == NULL) return uffd_lua_fail(L, uffd_set_errmsg(ENOMEM, "No memory for an outlet."));
  outlet->fd = fd;
  const char *mark = strstr(notice, "%d");
  luaL_argcheck(L, mark != NULL && strchr(mark + 2, '%') == NULL && strchr(notice, '%') == mark, 2, "one %d");
  snprintf(outlet->notice, sizeof(outlet->notice), "%.*s%%llu%s", (int)(mark - notice), notice, mark + 2);
  int error = set_up(outlet);
  if (error != 0)
    return uffd_lua_fail(L, uffd_set_errmsg(error, "No outlet for descriptor %d: %s.", fd, strerror(error)));
  lua_pushlightuserdata(L, outlet);
  lua_pushcclosure(L, finish, 1);
  return 1;
}

static const luaL_Reg functions[] = {{"outlet", open_outlet}, {NULL, NULL}};

void uffd_lua_open_outlet(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
