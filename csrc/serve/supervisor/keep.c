/*
 * The store of the service manager: what is put in, and taken out. Nothing here waits for the manager.
 */
#include "serve/supervisor/keep.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"

#define RETRY_NS UINT64_C(1000000) /* when the kernel has no memory, or too many descriptors are on their way */

/* A message that did not fit. */
struct uffd_errand {
  struct uffd_errand *next;
  char text[UFFD_KEEP_NAME + 64];
  int fd; /* a copy, so that the original may be closed; -1: none */
};

static void report_once(uffd_pager *pager, int error, const char *why) {
  if (pager->keep.reported) return;
  pager->keep.reported = true;
  uffd_report(
      pager, UFFD_REPORT_ERROR, error, NULL, NULL,
      "The service manager cannot keep descriptors: %s. If this supervisor dies, workers serve their clients on, "
      "but no other supervisor can take them over.",
      why);
}

/* 0, -EAGAIN: the manager's queue is full; -EBUSY: the kernel cannot now; or another -errno. */
static int send_now(const struct uffd_keep *keep, const char *text, int fd) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {.bytes = {0}};
  struct iovec part = {.iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text)};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (fd >= 0) {
    message.msg_control = &control;
    message.msg_controllen = sizeof(control.bytes);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  if (sendmsg(keep->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return 0;
  bool busy = errno == EINTR || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS;
  return busy ? -EBUSY : -errno;
}

static void push(uffd_pager *pager);

static void take_room(uffd_pager *pager, void *owner) {
  (void)owner;
  push(pager);
}

/* The queue of a datagram socket is short (net.unix.max_dgram_qlen). What is in it is safe, what waits here is not. */
static void put_off(uffd_pager *pager, const char *text, int fd) {
  struct uffd_keep *keep = &pager->keep;
  struct uffd_errand **at = &keep->errands, *errand = NEW(struct uffd_errand);
  if (errand == NULL) return;
  snprintf(errand->text, sizeof(errand->text), "%s", text);
  errand->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
  if (errand->fd < 0 && fd >= 0) report_once(pager, errno, strerror(errno));
  while (*at != NULL) {
    at = &(*at)->next;
  }
  *at = errand;
  keep->put_off++;
}

static void stop_waiting(uffd_pager *pager) {
  struct uffd_keep *keep = &pager->keep;
  if (keep->room.ready != NULL) uffd_poll_drop(pager, keep->fd);
  keep->room.ready = NULL;
}

static void wait_for_room(uffd_pager *pager) {
  struct uffd_keep *keep = &pager->keep;
  if (keep->room.ready != NULL) return;
  keep->room.ready = take_room;
  if (uffd_poll_add(pager, keep->fd, &keep->room) == 0) {
    uffd_poll_write(pager, keep->fd, &keep->room, true);
  } else {
    keep->room.ready = NULL; /* the clock is waited for */
  }
}

static void wait_after(uffd_pager *pager, int result) {
  pager->keep.retry_ns = uffd_now() + RETRY_NS;
  if (result == -EAGAIN) {
    wait_for_room(pager);
  } else {
    stop_waiting(pager); /* there is room, and it does not help */
  }
}

static void say(uffd_pager *pager, const char *text, int fd) {
  struct uffd_keep *keep = &pager->keep;
  int result = 0;
  if (keep->errands != NULL) { /* messages keep their order */
    put_off(pager, text, fd);
    return;
  }
  result = send_now(keep, text, fd);
  if (result == -EAGAIN || result == -EBUSY) {
    put_off(pager, text, fd);
    wait_after(pager, result);
  } else if (result < 0) {
    report_once(pager, -result, strerror(-result));
  }
}

static void store(uffd_pager *pager, int fd, const char *format, ...) UFFD_PRINTF(3, 4);
static void drop(uffd_pager *pager, const char *format, ...) UFFD_PRINTF(2, 3);

/* FDPOLL=0: systemd takes descriptors out that poll as broken, as those of a dead process do. */
static void store(uffd_pager *pager, int fd, const char *format, ...) {
  char name[UFFD_KEEP_NAME], text[UFFD_KEEP_NAME + 64];
  struct uffd_keep *keep = &pager->keep;
  va_list arguments;
  if (keep->fd < 0 || fd < 0) return;
  if (keep->limit != 0 && keep->stored >= keep->limit) {
    report_once(pager, ENOSPC, "its store is full (FileDescriptorStoreMax)");
    return;
  }
  va_start(arguments, format);
  vsnprintf(name, sizeof(name), format, arguments);
  va_end(arguments);
  snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
  keep->stored++;
  say(pager, text, fd);
}

static void drop(uffd_pager *pager, const char *format, ...) {
  char name[UFFD_KEEP_NAME], text[UFFD_KEEP_NAME + 64];
  struct uffd_keep *keep = &pager->keep;
  va_list arguments;
  if (keep->fd < 0) return;
  va_start(arguments, format);
  vsnprintf(name, sizeof(name), format, arguments);
  va_end(arguments);
  snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
  if (keep->stored != 0) keep->stored--;
  say(pager, text, -1);
}

/* ------------------------------------------------------------------------------------------------ */

/* The object goes last: what has an object has the rest. */
void uffd_keep_client(uffd_pager *pager, const struct uffd_supervised *client) {
  uint64_t id = client->who.id;
  store(pager, client->book.fd, "client%" PRIu64 ".book", id);
  uffd_keep_process(pager, client);
  for (uint32_t i = 0; i < client->who.fds_count; i++) {
    store(pager, client->fds[i], "client%" PRIu64 ".fd%u", id, i);
  }
  if (!BROKEN("keep-object")) store(pager, client->object_fd, "client%" PRIu64 ".object", id);
}

void uffd_keep_process(uffd_pager *pager, const struct uffd_supervised *client) {
  store(pager, client->pidfd, "client%" PRIu64 ".process", client->who.id);
}

void uffd_keep_drop_client(uffd_pager *pager, const struct uffd_supervised *client) {
  uint64_t id = client->who.id;
  if (!BROKEN("keep-drop")) drop(pager, "client%" PRIu64 ".object", id);
  drop(pager, "client%" PRIu64 ".book", id);
  drop(pager, "client%" PRIu64 ".process", id);
  for (uint32_t i = 0; i < client->who.fds_count; i++) {
    drop(pager, "client%" PRIu64 ".fd%u", id, i);
  }
}

/* What a worker is told of it, as a file. */
static int write_paper(const struct uffd_image *image) {
  struct uffd_message message;
  int fds[UFFD_MESSAGE_FDS], fd = memfd_create("uffd-image", MFD_CLOEXEC);
  message.fds_count = uffd_backing_write(&image->backing, &message, fds);
  if (fd >= 0 && write(fd, &message, sizeof(message)) == (ssize_t)sizeof(message)) return fd;
  uffd_close_fds(&fd, 1);
  return -1;
}

/* The names of the lowest layer's descriptors have no number: that file goes last, and what has it has the rest. */
void uffd_keep_image(uffd_pager *pager, const struct uffd_image *image) {
  const struct uffd_backing *backing = &image->backing;
  uint64_t number = backing->number;
  if (pager->keep.fd < 0) return;
  int paper = write_paper(image);
  if (paper < 0) report_once(pager, EMFILE, "no descriptor is left");
  store(pager, paper, "image%" PRIu64 ".paper", number);
  uffd_close_fds(&paper, 1);
  store(pager, backing->list_fd, "image%" PRIu64 ".list", number);
  store(pager, backing->replay_fd, "image%" PRIu64 ".replay", number);
  if (!BROKEN("keep-shared")) store(pager, backing->shared_fd, "image%" PRIu64 ".shared", number);
  for (uint32_t i = backing->count - 1; i > 0; i--) {
    store(pager, backing->files[i].sidecar_fd, "image%" PRIu64 ".index%u", number, i);
    store(pager, backing->files[i].fd, "image%" PRIu64 ".file%u", number, i);
  }
  store(pager, backing->files[0].sidecar_fd, "image%" PRIu64 ".index", number);
  if (!BROKEN("keep-image")) store(pager, backing->files[0].fd, "image%" PRIu64 ".file", number);
}

void uffd_keep_drop_image(uffd_pager *pager, const struct uffd_image *image) {
  const struct uffd_backing *backing = &image->backing;
  uint64_t number = backing->number;
  drop(pager, "image%" PRIu64 ".file", number);
  if (backing->files[0].sidecar_fd >= 0) drop(pager, "image%" PRIu64 ".index", number);
  for (uint32_t i = 1; i < backing->count; i++) {
    drop(pager, "image%" PRIu64 ".file%u", number, i);
    if (backing->files[i].sidecar_fd >= 0) drop(pager, "image%" PRIu64 ".index%u", number, i);
  }
  drop(pager, "image%" PRIu64 ".paper", number);
  drop(pager, "image%" PRIu64 ".list", number);
  if (backing->replay_fd >= 0) drop(pager, "image%" PRIu64 ".replay", number);
  if (backing->shared_fd >= 0) drop(pager, "image%" PRIu64 ".shared", number);
}

void uffd_keep_refused(uffd_pager *pager, uint64_t number, int object_fd) {
  store(pager, object_fd, "refused%" PRIu64 ".object", number);
}

void uffd_keep_drop_refused(uffd_pager *pager, uint64_t number) {
  drop(pager, "refused%" PRIu64 ".object", number);
}

void uffd_keep_socket(uffd_pager *pager, const char *name, int fd) {
  store(pager, fd, "%s", name);
}

/* In a forked child the pager's door is not shut: it closes its copies. */
void uffd_keep_drop_socket(uffd_pager *pager, const char *name) {
  if (pager->pid == getpid()) drop(pager, "%s", name);
}

void uffd_keep_count(uffd_pager *pager, uint64_t stored) {
  pager->keep.stored += stored;
}

/* ------------------------------------------------------------------------------------------------ */

uint64_t uffd_keep_given(const uffd_pager *pager) {
  return pager->keep.put_off;
}

bool uffd_keep_taken(const uffd_pager *pager, uint64_t number) {
  return pager->keep.caught_up >= number;
}

void uffd_keep_complain(uffd_pager *pager, uint32_t waited_ms) {
  char why[64];
  snprintf(why, sizeof(why), "it has taken nothing for %" PRIu32 " ms", waited_ms);
  report_once(pager, ETIMEDOUT, why);
}

static void push(uffd_pager *pager) {
  struct uffd_keep *keep = &pager->keep;
  while (keep->errands != NULL) {
    struct uffd_errand *errand = keep->errands;
    int result = send_now(keep, errand->text, errand->fd);
    if (result == -EAGAIN || result == -EBUSY) {
      wait_after(pager, result);
      return;
    }
    if (result < 0) report_once(pager, -result, strerror(-result));
    keep->errands = errand->next;
    keep->caught_up++;
    uffd_close_fds(&errand->fd, 1);
    DELETE(errand);
  }
  stop_waiting(pager);
}

void uffd_keep_push(uffd_pager *pager, uint64_t now) {
  if (uffd_keep_due(pager) <= now) push(pager);
}

uint64_t uffd_keep_due(const uffd_pager *pager) {
  const struct uffd_keep *keep = &pager->keep;
  return keep->errands != NULL && keep->room.ready == NULL ? keep->retry_ns : UINT64_MAX;
}

int uffd_keep_open(uffd_pager *pager) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = getenv("NOTIFY_SOCKET"), *limit = getenv("FDSTORE");
  if ((pager->opts.flags & UFFD_PAGER_KEEP) == 0) return 0;
  size_t length = path != NULL ? strlen(path) : 0;
  if (length == 0 || length >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@')) {
    return fail(EINVAL, "keep: there is no service manager that keeps descriptors (NOTIFY_SOCKET names none).");
  }
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  socklen_t address_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || connect(fd, (const struct sockaddr *)&address, address_length) != 0) {
    int result = fail(errno, "keep: the service manager at %s cannot be reached: %s.", path, strerror(errno));
    uffd_close_fds(&fd, 1);
    return result;
  }
  pager->keep.fd = fd;
  pager->keep.limit = limit != NULL ? strtoull(limit, NULL, 10) : 0;
  return 0;
}

void uffd_keep_close(uffd_pager *pager) {
  struct uffd_keep *keep = &pager->keep;
  while (keep->errands != NULL) {
    struct uffd_errand *errand = keep->errands;
    keep->errands = errand->next;
    uffd_close_fds(&errand->fd, 1);
    DELETE(errand);
  }
  uffd_close_fds(&keep->fd, 1);
}
