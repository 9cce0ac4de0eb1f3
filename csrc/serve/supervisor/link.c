/*
 * Links: the connections of the front door, as the supervisor keeps them.
 */
#include "serve/supervisor/link.h"

#include "base/base.h"
#include "serve/door/door.h"
#include "serve/door/door_firecracker.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"

#define LINKS_SPARE 64u /* connections beyond max_clients, for those whose handshake is not whole yet */

struct uffd_link {
  struct uffd_link *next;
  struct uffd_poll poll;
  struct uffd_connection *connection;
  uint64_t clients_ended; /* of the pager, when the link was last checked for clients */
  bool refused;           /* no more handshakes are taken from it */
};

static void drop(uffd_pager *pager, struct uffd_link *link) {
  struct uffd_link **at = &pager->links;
  while (*at != link) {
    at = &(*at)->next;
  }
  *at = link->next;
  pager->links_count--;
  uffd_poll_drop(pager, uffd_connection_fd(link->connection));
  uffd_connection_close(link->connection);
  DELETE(link);
}

static void refuse(uffd_pager *pager, int error) {
  pager->refused++;
  uffd_report(pager, UFFD_REPORT_REFUSED, -error, NULL, NULL, "%s", uffd_errmsg());
}

/* The link may be kept after this: its end tells something of its earlier clients. */
static void refuse_link(uffd_pager *pager, struct uffd_link *link, int error) {
  if (!link->refused) refuse(pager, error);
  link->refused = true;
}

static void end(uffd_pager *pager, struct uffd_link *link, int error) {
  uint64_t number = uffd_connection_number(link->connection);
  bool used = uffd_connection_count(link->connection) != 0;
  bool over = error == -ESHUTDOWN || error == -ECONNRESET || error == -EPIPE;
  if (error != -ESHUTDOWN && error != -ECONNRESET) refuse_link(pager, link, error);
  if (used && !over) return;
  drop(pager, link);
  if (used) uffd_clients_hang_up(pager, number, error == -ESHUTDOWN);
}

static void read_link(uffd_pager *pager, void *owner) {
  struct uffd_link *link = owner;
  struct uffd_handshake handshake = UFFD_HANDSHAKE_INIT;
  int result;
  while ((result = uffd_connection_read(link->connection, &handshake)) == 1) {
    int taken = uffd_client_come(pager, &handshake);
    uffd_handshake_release(&handshake);
    if (taken < 0) refuse(pager, taken);
    if (taken == 0 && (pager->opts.flags & UFFD_PAGER_ONCE) != 0) uffd_links_shut(pager);
  }
  if (result < 0) end(pager, link, result);
}

static int link_in(uffd_pager *pager, struct uffd_connection *connection) {
  struct uffd_link *link = NEW(struct uffd_link);
  if (link == NULL) return fail(ENOMEM, "No memory for a connection.");
  link->connection = connection;
  link->poll = (struct uffd_poll){read_link, link};
  int result = uffd_poll_add(pager, uffd_connection_fd(connection), &link->poll);
  if (result < 0) {
    DELETE(link);
    return result;
  }
  link->next = pager->links;
  pager->links = link;
  pager->links_count++;
  return 0;
}

static void take(uffd_pager *pager, struct uffd_connection *connection) {
  int result = 0;
  if (pager->links_count >= pager->opts.max_clients + LINKS_SPARE) {
    result =
        fail(EBUSY, "There are %u connections already: more clients than max_clients lets in.", pager->links_count);
  }
  if (result == 0) result = link_in(pager, connection);
  if (result == 0) return;
  uffd_connection_close(connection);
  refuse(pager, result);
}

/* A few at a time: a client that connects in a loop must not hold up the others. */
static void accept_some(uffd_pager *pager, void *owner) {
  (void)owner;
  for (int i = 0; i < 8; i++) {
    struct uffd_connection *connection;
    int result = uffd_door_accept(pager->door, &connection);
    if (result == 0) return;
    if (result < 0) {
      refuse(pager, result);
    } else {
      take(pager, connection);
    }
  }
}

int uffd_links_open(uffd_pager *pager) {
  const struct uffd_pager_opts *opts = &pager->opts;
  const struct uffd_door_opts door = {
      .path = opts->socket,
      .mode = opts->socket_mode,
      .uid = opts->uid,
      .connection = {.kind = &uffd_door_firecracker,
                     .limits = {opts->max_bytes, opts->max_regions, 0},
                     .handshake_ms = opts->handshake_ms},
  };
  int result = uffd_door_open(&door, &pager->door);
  if (result < 0) return result;
  pager->door_poll = (struct uffd_poll){accept_some, pager};
  return uffd_poll_add(pager, uffd_door_fd(pager->door), &pager->door_poll);
}

void uffd_links_shut(uffd_pager *pager) {
  if (pager->door == NULL) return;
  uffd_poll_drop(pager, uffd_door_fd(pager->door));
  uffd_door_close(pager->door);
  pager->door = NULL;
}

void uffd_links_close(uffd_pager *pager) {
  uffd_links_shut(pager);
  while (pager->links != NULL) {
    drop(pager, pager->links);
  }
}

void uffd_links_check(uffd_pager *pager, uint64_t now) {
  struct uffd_link *next;
  for (struct uffd_link *link = pager->links; link != NULL; link = next) {
    next = link->next;
    if (uffd_connection_deadline(link->connection) <= now) read_link(pager, link);
  }
}

uint64_t uffd_links_due(const uffd_pager *pager) {
  uint64_t due = UINT64_MAX;
  for (const struct uffd_link *link = pager->links; link != NULL; link = link->next) {
    due = min_u64(due, uffd_connection_deadline(link->connection));
  }
  return due;
}

/* Its clients have ended and its process is dead: only somebody who inherited the connection keeps it open. */
static bool is_deserted(const uffd_pager *pager, const struct uffd_link *link) {
  int pidfd = uffd_connection_peer(link->connection)->pidfd;
  return uffd_connection_count(link->connection) != 0 && pidfd >= 0 && uffd_ready(pidfd, POLLIN) != 0 &&
         !uffd_clients_of(pager, uffd_connection_number(link->connection));
}

void uffd_links_sweep(uffd_pager *pager) {
  struct uffd_link *next;
  for (struct uffd_link *link = pager->links; link != NULL; link = next) {
    next = link->next;
    if (link->clients_ended == pager->clients_ended) continue;
    link->clients_ended = pager->clients_ended;
    if (is_deserted(pager, link)) drop(pager, link);
  }
}
