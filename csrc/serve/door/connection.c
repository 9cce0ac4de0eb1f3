/*
 * A connection of the front door: which descriptors belong to which handshake, and how long a handshake may take.
 *
 * Of a refused handshake only the userfaultfd is kept, for the supervisor: where ours is the last copy, its owner's
 * missing pages read as zeros when it is closed.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/door/connection.h"
#include "serve/paper/closer.h"

#define READS      16   /* a call, so that one client that sends a lot does not keep the supervisor busy */
#define BUFFER     4096 /* bytes a read */
#define FDS        (1 + UFFD_HANDSHAKE_FDS)
#define CALL_AGAIN 2 /* between the steps of a read */

struct uffd_connection {
  /* set once */
  int fd;
  uint64_t number;
  struct uffd_peer peer;
  const struct uffd_door_kind *kind;
  struct uffd_door_limits limits;
  uint64_t patience; /* ns for a handshake */
  void *state;       /* of the protocol */
  char socket[UFFD_SOCKET_PATH];
  /* changes */
  uint64_t deadline;
  uint32_t count;
  bool deaf;                       /* refused: what still comes is thrown away */
  bool whole;                      /* the handshake's text is complete, its descriptors may be missing */
  struct uffd_handshake handshake; /* being received: its regions */
  uint32_t mine;                   /* of fds: belong to the handshake, once it is whole */
  uint32_t fds_count;
  uint32_t fresh; /* of fds: came with the bytes in the buffer */
  int fds[2 * FDS];
  size_t at, end; /* in the buffer: bytes that were read and not yet fed */
  char buffer[BUFFER];
};

int uffd_connection_make(const struct uffd_connection_opts *opts, uint64_t number, int fd, const struct uffd_peer *peer,
                         struct uffd_connection **connection) {
  struct uffd_connection *made = NEW(struct uffd_connection);
  void *state = uffd_alloc(opts->kind->state_size);
  *connection = NULL;
  if (made == NULL || state == NULL) {
    uffd_release(state, opts->kind->state_size);
    if (made != NULL) DELETE(made);
    return fail(ENOMEM, "No memory for a connection.");
  }
  made->fd = fd;
  made->number = number;
  made->peer = *peer;
  made->kind = opts->kind;
  made->limits = opts->limits;
  memcpy(made->socket, opts->socket, sizeof(made->socket));
  made->patience = opts->handshake_ms * UINT64_C(1000000);
  made->state = state;
  made->deadline = opts->kind->by_task ? UFFD_NO_DEADLINE : uffd_now() + made->patience;
  made->handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
  *connection = made;
  return 0;
}

bool uffd_connection_is_by_task(const struct uffd_connection *connection) {
  return connection->kind->by_task;
}
int uffd_connection_fd(const struct uffd_connection *connection) {
  return connection->fd;
}
const struct uffd_peer *uffd_connection_peer(const struct uffd_connection *connection) {
  return &connection->peer;
}
uint64_t uffd_connection_number(const struct uffd_connection *connection) {
  return connection->number;
}
uint64_t uffd_connection_deadline(const struct uffd_connection *connection) {
  return connection->deadline;
}
uint32_t uffd_connection_count(const struct uffd_connection *connection) {
  return connection->count;
}

static void drop_fds(struct uffd_connection *connection) {
  uffd_close_foreign(connection->fds, connection->fds_count);
  connection->fds_count = connection->fresh = 0;
}

void uffd_connection_close(struct uffd_connection *connection) {
  if (connection == NULL) return;
  drop_fds(connection);
  uffd_handshake_release(&connection->handshake);
  connection->kind->release(connection->state);
  uffd_release(connection->state, connection->kind->state_size);
  close(connection->fd);
  uffd_close_fds(&connection->peer.pidfd, 1);
  DELETE(connection);
}

static void name_owner(const struct uffd_connection *connection, struct uffd_handshake *handshake) {
  handshake->connection = connection->number;
  handshake->pid = handshake->asker = connection->peer.pid;
  handshake->uid = connection->peer.uid;
  handshake->gid = connection->peer.gid;
  memcpy(handshake->socket, connection->socket, sizeof(handshake->socket));
}

/* Throws away what has come of the handshake, but for the userfaultfd. The caller has set the sentence. */
static int refuse(struct uffd_connection *connection, int result, struct uffd_handshake *handshake) {
  *handshake = connection->handshake;
  connection->handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
  name_owner(connection, handshake);
  if (connection->peer.pidfd >= 0) {
    uffd_close_fds(&handshake->pidfd, 1);
    handshake->pidfd = fcntl(connection->peer.pidfd, F_DUPFD_CLOEXEC, 0);
  }
  if (connection->fds_count != 0 && uffd_fd_is(0, connection->fds[0], UFFD_FD_OBJECT)) {
    handshake->object_fd = connection->fds[0];
    connection->fds[0] = -1;
  }
  drop_fds(connection);
  connection->at = connection->end = 0;
  connection->whole = false;
  connection->deadline = UFFD_NO_DEADLINE;
  connection->deaf = true;
  return result;
}

void uffd_connection_give_up(struct uffd_connection *connection, struct uffd_handshake *handshake) {
  (void)refuse(connection, -EBUSY, handshake);
}

/* fd -1: none goes with it. */
static void send_answer(int socket, const char *text, size_t length, int fd) {
  union {
    struct cmsghdr header; /* for its alignment */
    char room[CMSG_SPACE(sizeof(int))];
  } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
  struct iovec data = {(char *)(uintptr_t)text, length};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
  memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
  if (fd >= 0) {
    message.msg_control = control.room;
    message.msg_controllen = sizeof(control.room);
  }
  (void)sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void uffd_connection_answer(const struct uffd_connection *connection, const struct uffd_response *response) {
  char text[1024];
  size_t length = connection->kind->answer(response, text, sizeof(text));
  if (length != 0) send_answer(connection->fd, text, length, response->token != 0 ? response->fd : -1);
}

/* The kernel has installed these descriptors even when others did not fit: each one is kept, or it would leak. */
static void note_fds(struct uffd_connection *connection, struct msghdr *message) {
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(&connection->fds[connection->fds_count], CMSG_DATA(part), count * sizeof(int));
    connection->fds_count += (uint32_t)count;
    connection->fresh += (uint32_t)count;
  }
}

/* Reads the next piece into the empty buffer: its length, 0 at the end, -EAGAIN without a sentence, another -errno. */
static ssize_t receive(struct uffd_connection *connection) {
  union {
    struct cmsghdr header; /* for its alignment */
    char room[CMSG_SPACE(FDS * sizeof(int))];
  } control;
  struct iovec data = {connection->buffer, sizeof(connection->buffer)};
  struct msghdr message = {
      .msg_iov = &data,
      .msg_iovlen = 1,
      .msg_control = control.room,
      .msg_controllen = CMSG_LEN(FDS * sizeof(int)) /* with its padding counted, the room would take one more */
  };
  connection->at = connection->end = 0;
  connection->fresh = 0;
  ssize_t length = recvmsg(connection->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (length < 0) {
    if (errno == EAGAIN || errno == EINTR) return -EAGAIN;
    if (errno == ECONNRESET) return 0; /* it hung up before it had read all of ours */
    return fail(errno, "Cannot read a handshake: %s.", strerror(errno));
  }
  note_fds(connection, &message);
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    return fail(EMSGSIZE,
                "Descriptors of the handshake were lost: more than the %d that are taken came at once, the pager has "
                "none left (ulimit -n), or a security module (SELinux, AppArmor) did not let them through.",
                FDS);
  }
  connection->end = (size_t)length;
  return length;
}

static int drain(struct uffd_connection *connection) {
  for (int i = 0; i < READS; i++) {
    ssize_t length = receive(connection);
    drop_fds(connection);
    if (length == -EAGAIN) return 0;
    if (length == 0) return fail(ECONNRESET, "The client has hung up.");
  }
  return 0;
}

/* Has another handshake begun after a whole one? */
static bool has_more(struct uffd_connection *connection) {
  while (connection->at < connection->end && connection->kind->is_blank(connection->buffer[connection->at])) {
    connection->at++;
  }
  return connection->at < connection->end;
}

/*
 * The descriptors of the handshake that has just become whole. The kernel delivers descriptors with the piece that they
 * were sent with, and ends a read after that piece: so they belong to the last byte of a read. When another handshake
 * begins in the same read, the descriptors of this read are that one's.
 */
static uint32_t own_fds(struct uffd_connection *connection) {
  uint32_t older = connection->fds_count - connection->fresh;
  return older != 0 && has_more(connection) ? older : connection->fds_count;
}

/* It has no descriptors: those that are there belong to the next handshake. */
static int give_notice(struct uffd_connection *connection, struct uffd_handshake *out) {
  enum uffd_notice notice = connection->handshake.notice;
  if (connection->count == 0 && notice != UFFD_NOTICE_STAT && notice != UFFD_NOTICE_SHARE)
    return fail(EINVAL, "A notice came before any handshake: there is no client.");
  *out = connection->handshake;
  out->connection = connection->number;
  connection->handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
  connection->deadline = UFFD_NO_DEADLINE;
  return 1;
}

static int feed(struct uffd_connection *connection, struct uffd_handshake *out) {
  size_t used = 0;
  int result = connection->kind->feed(connection->state, &connection->limits, connection->buffer + connection->at,
                                      connection->end - connection->at, &used, &connection->handshake);
  if (result < 0) return result;
  connection->at += used;
  if (result == UFFD_FEED_BYE && connection->count == 0) return fail(EINVAL, "The handshake has no regions.");
  if (result == UFFD_FEED_BYE) return fail(ESHUTDOWN, "The client has said that it needs no pager any more.");
  if (result == UFFD_FEED_NOTICE) return give_notice(connection, out);
  if (connection->kind->by_task && result == UFFD_FEED_NOTHING) connection->deadline = UFFD_NO_DEADLINE;
  if (result == UFFD_FEED_NOTHING) return CALL_AGAIN;
  if (connection->deadline == UFFD_NO_DEADLINE) connection->deadline = uffd_now() + connection->patience;
  if (result == UFFD_FEED_MORE) return CALL_AGAIN;
  struct uffd_handshake *handshake = &connection->handshake;
  if (!connection->kind->by_task) {
    result = uffd_regions_check(handshake->regions, handshake->regions_count, &connection->limits);
    if (result < 0) return result;
  }
  connection->whole = true;
  connection->mine = own_fds(connection);
  return CALL_AGAIN;
}

/* UFFDIO_WAKE changes nothing, and the kernel refuses it beyond the end of the address space, which only it knows. */
static int check_addresses(uffd_object *object, const struct uffd_handshake *handshake) {
  for (uint32_t i = 0; i < handshake->regions_count; i++) {
    const struct uffd_client_region *region = &handshake->regions[i];
    if (uffd_wake(object, region->address, region->length) != 0) {
      return fail(EINVAL, "The region at 0x%" PRIx64 " (%" PRIu64 " bytes) reaches beyond the client's address space.",
                  region->address, region->length);
    }
  }
  return 0;
}

/* uffd_adopt() looks into fdinfo. It needs a copy of the descriptor, because closing the object closes it. */
static int check_object(int fd, const struct uffd_handshake *handshake) {
  uffd_object *object = NULL;
  if (!uffd_fd_is(0, fd, UFFD_FD_OBJECT)) {
    return fail(
        EINVAL,
        "The handshake's first descriptor must be a userfaultfd after its UFFDIO_API: it is not a userfaultfd.");
  }
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return fail(errno, "No descriptor left for another client: raise ulimit -n.");
  int result = uffd_adopt(copy, &object);
  if (result < 0) {
    close(copy);
    return fail(-result, "The handshake's first descriptor must be a userfaultfd after its UFFDIO_API: %s",
                uffd_errmsg());
  }
  result = check_addresses(object, handshake);
  uffd_close(object);
  if (result < 0) return result;
  int flags = fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) != 0) return 0;
  return fail(EBADF, "The userfaultfd stays blocking: set O_NONBLOCK before handing it over.");
}

/* Who has hung up, as Firecracker before 1.12 does, names itself: its userfaultfd proves that it is the one. */
static void name_unproved(const struct uffd_connection *connection, struct uffd_owner *owner) {
  if (!connection->peer.unproved || connection->kind->by_task || UFFD_OWNER_IS_NAMED(owner)) return;
  owner->pid = connection->peer.pid;
}

static int give(struct uffd_connection *connection, struct uffd_handshake *out) {
  struct uffd_handshake *handshake = &connection->handshake;
  uint32_t mine = connection->mine;
  if (mine > FDS) {
    return fail(E2BIG, "The handshake came with %u descriptors: at most %d are taken beside the userfaultfd.", mine,
                UFFD_HANDSHAKE_FDS);
  }
  int result = check_object(connection->fds[0], handshake);
  if (result < 0) return result;
  if (connection->peer.pidfd >= 0) {
    handshake->pidfd = fcntl(connection->peer.pidfd, F_DUPFD_CLOEXEC, 0);
    if (handshake->pidfd < 0) return fail(errno, "No descriptor left for another client: raise ulimit -n.");
  }
  name_owner(connection, handshake);
  name_unproved(connection, &handshake->owner);
  handshake->object_fd = connection->fds[0];
  handshake->fds_count = mine - 1;
  memcpy(handshake->fds, connection->fds + 1, (mine - 1) * sizeof(int));
  connection->fds_count -= mine;
  memmove(connection->fds, connection->fds + mine, connection->fds_count * sizeof(int));
  *out = *handshake;
  *handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
  connection->whole = false;
  connection->deadline = UFFD_NO_DEADLINE;
  connection->count++;
  return 1;
}

static int end_of_stream(const struct uffd_connection *connection) {
  if (connection->whole)
    return fail(EBADF, "The handshake came without a userfaultfd: send one with it (SCM_RIGHTS); a security module "
                       "(SELinux, AppArmor) can take it away.");
  if (connection->deadline != UFFD_NO_DEADLINE) {
    return fail(EPIPE, "The client (process %d) hung up before the end of its handshake.", connection->peer.pid);
  }
  return fail(ECONNRESET, "The client has hung up.");
}

static int late(const struct uffd_connection *connection) {
  if (uffd_now() < connection->deadline) return 0;
  return fail(ETIMEDOUT, "The handshake was not there after %" PRIu64 " ms: %s.", connection->patience / 1000000,
              connection->whole ? "its userfaultfd is lacking" : "its list of regions is not whole");
}

/* 1 a handshake or a notice, CALL_AGAIN, 0 nothing more for now, or -errno. All bytes read are fed before the next
 * read. */
static int step(struct uffd_connection *connection, struct uffd_handshake *handshake, int *reads) {
  if (connection->whole && connection->mine != 0) return give(connection, handshake);
  if (connection->whole && has_more(connection)) {
    return fail(EBADF, "A handshake came without a userfaultfd, and another follows: send each with its own "
                       "(SCM_RIGHTS).");
  }
  if (connection->at < connection->end) return feed(connection, handshake);
  if (connection->fds_count > FDS) {
    return fail(E2BIG, "The handshake came with %u descriptors: at most %d are taken beside the userfaultfd.",
                connection->fds_count, UFFD_HANDSHAKE_FDS);
  }
  ssize_t length = (*reads)-- > 0 ? receive(connection) : -EAGAIN;
  if (length == -EAGAIN) return late(connection);
  if (length <= 0) return length < 0 ? (int)length : end_of_stream(connection);
  if (connection->whole) connection->mine = connection->fds_count;
  return CALL_AGAIN;
}

int uffd_connection_read(struct uffd_connection *connection, struct uffd_handshake *handshake) {
  *handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
  if (connection->deaf) return drain(connection);
  int result, reads = READS;
  do {
    result = step(connection, handshake, &reads);
  } while (result == CALL_AGAIN);
  return result < 0 ? refuse(connection, result, handshake) : result;
}
