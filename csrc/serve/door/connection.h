/*
 * A connection of the front door: turns bytes and descriptors into handshakes. It never waits: its descriptor is polled
 * by the supervisor.
 */
#ifndef UFFD_SERVE_CONNECTION_H
#define UFFD_SERVE_CONNECTION_H

#include "serve/door/handshake.h"
#include "serve/door/listen.h"
#include "serve/door/protocol.h"

#define UFFD_NO_DEADLINE UINT64_MAX

struct uffd_connection_opts {
  const struct uffd_door_kind *kind;
  struct uffd_door_limits limits;
  uint32_t handshake_ms;         /* a handshake must be whole after so long */
  char socket[UFFD_SOCKET_PATH]; /* at which they connect; the door sets it */
};

struct uffd_connection;

/* Takes over fd, a stream socket, and peer->pidfd when it succeeds. -ENOMEM. */
int uffd_connection_make(const struct uffd_connection_opts *opts, uint64_t number, int fd, const struct uffd_peer *peer,
                         struct uffd_connection **connection);
bool uffd_connection_is_by_task(const struct uffd_connection *connection); /* see protocol.h */
int uffd_connection_fd(const struct uffd_connection *connection);
const struct uffd_peer *uffd_connection_peer(const struct uffd_connection *connection);
uint64_t uffd_connection_number(const struct uffd_connection *connection);

/*
 * Reads what has come, a bounded amount of it. Call it when the descriptor polls readable, and when the deadline has
 * passed. 1: a handshake or a notice, which the caller owns; call again. 0: nothing more for now. Otherwise the
 * connection is over:
 *   -ESHUTDOWN  the client has said that it needs no pager any more
 *   -ECONNRESET it hung up after its handshakes. It may still live: Firecracker before 1.12 hangs up at once
 *   -EPIPE      it hung up before its handshake, or in the middle of one
 *   -ETIMEDOUT  the handshake was not whole in time
 *   others      refused: the sentence names the cause and the mend
 * After a refusal the connection gives no handshake any more and throws away what still comes. The handshake has what
 * is known of who was refused then, and the userfaultfd, if one came: its last close turns missing pages into zeros.
 */
int uffd_connection_read(struct uffd_connection *connection, struct uffd_handshake *handshake);
/* Refuses what has not come yet. The handshake is as after a refusal. */
void uffd_connection_give_up(struct uffd_connection *connection, struct uffd_handshake *handshake);
/* Tells the client what became of its handshake. What does not fit at once is lost. */
void uffd_connection_answer(const struct uffd_connection *connection, const struct uffd_response *response);
uint64_t uffd_connection_deadline(const struct uffd_connection *connection); /* as uffd_now(); UFFD_NO_DEADLINE */
uint32_t uffd_connection_count(const struct uffd_connection *connection);    /* of handshakes so far */
void uffd_connection_close(struct uffd_connection *connection);              /* NULL is allowed */

#endif
