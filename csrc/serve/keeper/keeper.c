/*
 * The keeper: where there is no systemd, it holds the descriptors that a pager stores, and starts the pager again when
 * it is killed. It speaks the service manager's side of sd_notify(3), does nothing else, and so has little to die of.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/descriptors.h"
#include "uffd_pager.h"

#define FIRST_FD    3    /* SD_LISTEN_FDS_START */
#define NAME_MAX_   255  /* bytes of a descriptor's name, as systemd has it */
#define STORE_MAX   8192 /* descriptors, or half of what may be open */
#define TEXT_MAX    4096
#define FDS_MAX     16
#define PAUSE_MIN   20                    /* ms before the pager is started again; doubles up to */
#define PAUSE_MAX   5000                  /* when it dies before it is ready, */
#define PAUSE_READY 320                   /* or up to this */
#define HELD_NS     UINT64_C(10000000000) /* a signal waits so long for a pager that does not get ready */
#define CALM_NS     UINT64_C(2000000000)  /* a pager that lived so long is started again at once */

struct kept {
  struct kept *next; /* a newer one */
  int fd;
  char name[NAME_MAX_ + 1];
};

struct keeper {
  const char *const *command;
  int socket, signals;
  char path[64];       /* of the socket, as NOTIFY_SOCKET says it */
  const char *manager; /* our own NOTIFY_SOCKET: what is no matter of the store goes on to it; NULL: none */
  sigset_t mask;       /* as it was before */
  struct kept *kept;   /* the oldest first */
  size_t kept_count, store_max;
  pid_t pager;
  uint64_t started_ns;
  unsigned pause_ms;
  int held; /* a signal for a pager that is not ready, or not there: it would die of it; 0: none */
  uint64_t held_ns;
  bool ready; /* it has said so */
  int ending; /* the signal that told it to end; 0: none */
};

/* ------------------------------------------------------------------------------------------------ the store */

static void keep(struct keeper *keeper, const char *name, int fd) {
  struct kept **at = &keeper->kept;
  for (; *at != NULL; at = &(*at)->next) {
    if (strcmp((*at)->name, name) == 0 && uffd_same_file((*at)->fd, fd)) break;
  }
  struct kept *kept = *at == NULL && keeper->kept_count < keeper->store_max ? NEW(struct kept) : NULL;
  if (kept == NULL) { /* it is there already, or there is no room */
    close(fd);
    return;
  }
  kept->fd = fd;
  snprintf(kept->name, sizeof(kept->name), "%s", name);
  *at = kept;
  keeper->kept_count++;
}

static void drop(struct keeper *keeper, const char *name) {
  struct kept **at = &keeper->kept;
  while (*at != NULL) {
    struct kept *kept = *at;
    if (name != NULL && strcmp(kept->name, name) != 0) {
      at = &kept->next;
      continue;
    }
    *at = kept->next;
    close(kept->fd);
    DELETE(kept);
    keeper->kept_count--;
  }
}

/* ------------------------------------------------------------------------------------------------ what the pager says
 */

/* The value of a line "NAME=value" of the text, which ends with a zero byte; false: there is none. */
static bool line_of(const char *text, const char *name, char *value, size_t room) {
  size_t length = strlen(name);
  for (const char *line = text; line != NULL; line = strchr(line, '\n'), line += line != NULL) {
    if (strncmp(line, name, length) != 0 || line[length] != '=') continue;
    size_t end = strcspn(line + length + 1, "\n");
    if (end >= room) return false;
    memcpy(value, line + length + 1, end);
    value[end] = '\0';
    return true;
  }
  return false;
}

static void pass_on(const struct keeper *keeper, const char *text) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = keeper->manager != NULL ? strlen(keeper->manager) : 0;
  if (length == 0 || length >= sizeof(address.sun_path)) return;
  memcpy(address.sun_path, keeper->manager, length);
  if (keeper->manager[0] == '@') address.sun_path[0] = '\0';
  socklen_t address_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
  (void)sendto(keeper->socket, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&address,
               address_length);
}

static void obey(struct keeper *keeper, const char *text, int *fds, unsigned count) {
  char value[8], name[NAME_MAX_ + 1];
  bool named = line_of(text, "FDNAME", name, sizeof(name));
  if (named && line_of(text, "FDSTORE", value, sizeof(value))) {
    for (unsigned i = 0; i < count; i++) {
      keep(keeper, name, fds[i]);
      fds[i] = -1;
    }
  } else if (named && line_of(text, "FDSTOREREMOVE", value, sizeof(value))) {
    drop(keeper, name);
  } else {
    keeper->ready = keeper->ready || line_of(text, "READY", value, sizeof(value));
    pass_on(keeper, text);
  }
}

/* Who sent it, and its descriptors. Others than the pager are not heard. */
static pid_t unpack(struct msghdr *message, int *fds, unsigned *count) {
  pid_t pid = 0;
  *count = 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_CREDENTIALS) {
      struct ucred who;
      memcpy(&who, CMSG_DATA(header), sizeof(who));
      pid = who.pid;
    } else if (header->cmsg_type == SCM_RIGHTS) {
      *count = (unsigned)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
      memcpy(fds, CMSG_DATA(header), *count * sizeof(int));
    }
  }
  return pid;
}

static void hear(struct keeper *keeper) {
  for (;;) {
    char text[TEXT_MAX + 1];
    union {
      struct cmsghdr header;
      char bytes[CMSG_SPACE(FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec part = {text, TEXT_MAX};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    int fds[FDS_MAX];
    unsigned count;
    ssize_t got = recvmsg(keeper->socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return;
    text[got] = '\0';
    if (unpack(&message, fds, &count) == keeper->pager && strlen(text) == (size_t)got) obey(keeper, text, fds, count);
    uffd_close_fds(fds, count);
  }
}

/* ------------------------------------------------------------------------------------------------ the pager's process
 */

static void set_number(const char *name, long long value) {
  char text[24];
  snprintf(text, sizeof(text), "%lld", value);
  setenv(name, text, 1);
}

/* In the child. All descriptors first move out of the way of the numbers that they are to have. */
static bool place_descriptors(const struct keeper *keeper) {
  int at = FIRST_FD, above = FIRST_FD + (int)keeper->kept_count;
  for (struct kept *kept = keeper->kept; kept != NULL; kept = kept->next) {
    kept->fd = fcntl(kept->fd, F_DUPFD_CLOEXEC, above);
    if (kept->fd < 0) return false;
  }
  for (const struct kept *kept = keeper->kept; kept != NULL; kept = kept->next) {
    if (dup2(kept->fd, at++) < 0) return false;
  }
  return true;
}

static bool set_names(const struct keeper *keeper) {
  size_t length = 1;
  for (const struct kept *kept = keeper->kept; kept != NULL; kept = kept->next) {
    length += strlen(kept->name) + 1;
  }
  char *names = uffd_alloc(length), *end = names;
  if (names == NULL) return false;
  for (const struct kept *kept = keeper->kept; kept != NULL; kept = kept->next) {
    end += sprintf(end, "%s%s", end != names ? ":" : "", kept->name);
  }
  bool set = setenv("LISTEN_FDNAMES", names, 1) == 0;
  uffd_release(names, length);
  return set;
}

_Noreturn static void become_pager(const struct keeper *keeper) {
  sigprocmask(SIG_SETMASK, &keeper->mask, NULL);
  setenv("NOTIFY_SOCKET", keeper->path, 1);
  set_number("FDSTORE", (long long)keeper->store_max);
  if (keeper->kept_count != 0) {
    set_number("LISTEN_PID", getpid());
    set_number("LISTEN_FDS", (long long)keeper->kept_count);
    if (!set_names(keeper) || !place_descriptors(keeper)) _exit(126);
  }
  execvp(keeper->command[0], (char *const *)(uintptr_t)keeper->command);
  _exit(127);
}

static int start(struct keeper *keeper) {
  keeper->started_ns = uffd_now();
  keeper->ready = false;
  keeper->pager = fork();
  if (keeper->pager == 0) become_pager(keeper);
  if (keeper->pager < 0) return fail(errno, "No process for the pager: %s.", strerror(errno));
  return 0;
}

/* The exit code, 128 and the signal, or -1: it lives. */
static int reap(const struct keeper *keeper, bool *killed) {
  int status;
  if (waitpid(keeper->pager, &status, WNOHANG) != keeper->pager) return -1;
  *killed = WIFSIGNALED(status);
  return *killed ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What was kept is to be drained by a pager: one that has just begun would die of the signal. The second one passes. */
static void pass_signal(struct keeper *keeper, int signal) {
  if (keeper->held == 0 && (keeper->pager == 0 || !keeper->ready)) {
    keeper->held = signal;
    keeper->held_ns = uffd_now();
    return;
  }
  keeper->held = 0;
  if (keeper->pager > 0) kill(keeper->pager, signal);
}

/* ^C and ^\ of a terminal reach the pager by themselves. */
static void take_signals(struct keeper *keeper) {
  struct signalfd_siginfo info;
  while (read(keeper->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
    int signal = (int)info.ssi_signo;
    if (signal == SIGCHLD) continue;
    if (signal != SIGHUP) keeper->ending = signal;
    if (info.ssi_code != SI_KERNEL || keeper->pager == 0) pass_signal(keeper, signal);
  }
}

/* To a pager that is ready; one that takes too long gets it as it is. */
static void pass_held(struct keeper *keeper) {
  if (keeper->held == 0 || keeper->pager == 0) return;
  if (!keeper->ready && uffd_now() - keeper->held_ns < HELD_NS) return;
  kill(keeper->pager, keeper->held);
  keeper->held = 0;
}

static bool has_clients(const struct keeper *keeper) {
  const struct kept *kept = keeper->kept;
  while (kept != NULL && strncmp(kept->name, "client", 6) != 0 && strncmp(kept->name, "refused", 7) != 0) {
    kept = kept->next;
  }
  return kept != NULL;
}

/* A signal has killed the pager. One that was killed while it drained has not drained: the next one is told again. */
static bool goes_on(struct keeper *keeper, int code) {
  if (keeper->ending == 0 || keeper->held != 0) return true;
  if (code == 128 + keeper->ending || !has_clients(keeper)) return false;
  keeper->held = keeper->ending;
  keeper->held_ns = uffd_now();
  return true;
}

static void pause_before(struct keeper *keeper) {
  if (uffd_now() - keeper->started_ns > CALM_NS) keeper->pause_ms = PAUSE_MIN;
  struct pollfd poll_fd = {.fd = keeper->signals, .events = POLLIN};
  (void)poll(&poll_fd, 1, (int)keeper->pause_ms);
  unsigned most = keeper->ready ? PAUSE_READY : PAUSE_MAX;
  keeper->pause_ms = keeper->pause_ms * 2 < most ? keeper->pause_ms * 2 : most;
}

/* Until the pager ends by itself: its exit code. */
static int run(struct keeper *keeper) {
  struct pollfd polls[2] = {{.fd = keeper->socket, .events = POLLIN}, {.fd = keeper->signals, .events = POLLIN}};
  int result = start(keeper);
  while (result == 0) {
    bool killed = false;
    (void)poll(polls, 2, keeper->held != 0 ? (int)(HELD_NS / 1000000) : -1);
    hear(keeper);
    int code = reap(keeper, &killed);
    if (code >= 0) keeper->pager = 0;
    take_signals(keeper);
    pass_held(keeper);
    if (code < 0) continue;
    hear(keeper); /* what it said last */
    if (!killed || !goes_on(keeper, code)) return code;
    pause_before(keeper);
    take_signals(keeper);
    result = start(keeper);
  }
  return result;
}

static int open_socket(struct keeper *keeper) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  socklen_t length = sizeof(address);
  int on = 1;
  keeper->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  /* An abstract name that the kernel chooses: it leaves no file, and others than the pager are not heard. */
  if (keeper->socket < 0 || bind(keeper->socket, (struct sockaddr *)&address, sizeof(sa_family_t)) != 0 ||
      setsockopt(keeper->socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0 ||
      getsockname(keeper->socket, (struct sockaddr *)&address, &length) != 0) {
    return fail(errno, "No socket for the keeper: %s.", strerror(errno));
  }
  snprintf(keeper->path, sizeof(keeper->path), "@%.*s", (int)(length - offsetof(struct sockaddr_un, sun_path) - 1),
           address.sun_path + 1);
  return 0;
}

static int open_signals(struct keeper *keeper) {
  static const int taken[] = {SIGCHLD, SIGTERM, SIGINT, SIGQUIT, SIGHUP};
  sigset_t set;
  sigemptyset(&set);
  for (size_t i = 0; i < sizeof(taken) / sizeof(*taken); i++) {
    sigaddset(&set, taken[i]);
  }
  if (sigprocmask(SIG_BLOCK, &set, &keeper->mask) != 0) return fail(errno, "Signals: %s.", strerror(errno));
  keeper->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  return keeper->signals >= 0 ? 0 : fail(errno, "No descriptor for signals: %s.", strerror(errno));
}

int uffd_pager_keep(const char *const *command) {
  struct keeper keeper = {.command = command, .socket = -1, .signals = -1, .pause_ms = PAUSE_MIN};
  if (command == NULL || command[0] == NULL) return fail(EINVAL, "uffd_pager_keep: the command line is empty.");
  keeper.store_max = (size_t)min_u64(uffd_raise_fd_limit() / 2, STORE_MAX);
  keeper.manager = getenv("NOTIFY_SOCKET");
  int result = open_socket(&keeper);
  if (result == 0) result = open_signals(&keeper);
  if (result == 0) result = run(&keeper);
  drop(&keeper, NULL);
  if (keeper.signals >= 0) sigprocmask(SIG_SETMASK, &keeper.mask, NULL);
  uffd_close_fds(&keeper.socket, 1);
  uffd_close_fds(&keeper.signals, 1);
  return result;
}
