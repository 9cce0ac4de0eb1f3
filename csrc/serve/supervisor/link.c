/*
 * Links: the connections of the front door, as the supervisor keeps them.
 */
#include "serve/supervisor/link.h"

#include "base/base.h"
#include "serve/door/door.h"
#include "serve/supervisor/arrival.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/entrance.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/looker.h"
#include "serve/supervisor/options.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/refused.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/share.h"

#define HANDSHAKES  8   /* that are taken from one connection before others have their turn */
#define LINKS_SPARE 64u /* connections beyond max_clients, for those whose handshake is not whole yet */

struct uffd_link {
  struct uffd_link *next;
  struct uffd_poll poll;
  struct uffd_connection *connection;
  bool drained;           /* it brings no client any more */
  bool waits;             /* until its client has arrived: it is not read */
  bool again;             /* its client has arrived: what it has sent behind it may have been read already */
  uint64_t clients_ended; /* of the pager, when the link was last checked for clients */
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

static void refuse(uffd_pager *pager, int error, const char *what_becomes) {
  pager->refused++;
  pager->refusals[uffd_refusal_of(-error)]++;
  uffd_report(pager, UFFD_REPORT_REFUSED, -error, NULL, NULL, "%s%s", uffd_errmsg(), what_becomes);
}

/* Its clients are served on: they need the connection only to say that they need no pager any more. */
static void hang_up(uffd_pager *pager, struct uffd_link *link, bool bye) {
  uint64_t number = uffd_connection_number(link->connection);
  bool used = uffd_connection_count(link->connection) != 0;
  drop(pager, link);
  if (used) uffd_clients_hang_up(pager, number, bye);
}

/* What nobody has taken of it. */
static void release(uffd_pager *pager, struct uffd_handshake *handshake) {
  uffd_looker_close(pager, &handshake->object_fd);
  uffd_handshake_release(handshake);
}

/* The client gets one line with the reason, then its connection is closed. Clients that it brought before stay. */
static void refuse_link(uffd_pager *pager, struct uffd_link *link, int error, struct uffd_handshake *handshake) {
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_connection_answer(link->connection, &(struct uffd_response){.why = why.text});
  const char *what_becomes = "";
  /* A restore that cannot say at its end that all is whole kills all its tasks, which have not run yet. */
  if (!uffd_connection_is_by_task(link->connection)) {
    what_becomes = uffd_refused_keep(pager, handshake, handshake->wants_answer || error == -EEXIST);
  }
  uffd_restore_sentence(&why);
  refuse(pager, error, what_becomes);
  hang_up(pager, link, false);
}

static void end(uffd_pager *pager, struct uffd_link *link, int error, struct uffd_handshake *handshake) {
  if (error == -ESHUTDOWN || error == -ECONNRESET) {
    hang_up(pager, link, error == -ESHUTDOWN);
  } else {
    refuse_link(pager, link, error, handshake);
  }
}

/*
 * A client that is refused beside others of the same connection, and hears of it, is refused alone: the text was
 * understood, so the next one will be.
 */
static bool refuse_one(uffd_pager *pager, struct uffd_link *link, int error, struct uffd_handshake *handshake) {
  bool is_first = uffd_connection_count(link->connection) <= 1 && handshake->notice == UFFD_NOTICE_NONE;
  if (!handshake->wants_answer || is_first) return false;
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_connection_answer(link->connection, &(struct uffd_response){.why = why.text});
  (void)uffd_refused_keep(pager, handshake, true);
  uffd_restore_sentence(&why);
  refuse(pager, error, "");
  return true;
}

/* What became of a handshake or a notice of this client is told. False: it was refused, and the link is over. */
static bool answer(uffd_pager *pager, struct uffd_link *link, int result, struct uffd_handshake *handshake,
                   uint64_t client) {
  struct uffd_response response = {.client = client, .known = result == 1};
  bool goes_on = true;
  if (result < 0) goes_on = refuse_one(pager, link, result, handshake);
  if (result >= 0 && handshake->wants_answer) uffd_connection_answer(link->connection, &response);
  if (!goes_on) refuse_link(pager, link, result, handshake);
  release(pager, handshake);
  return goes_on;
}

static bool arrive(uffd_pager *pager, struct uffd_link *link, int result, struct uffd_handshake *handshake,
                   uint64_t client) {
  if (result >= 0 && client != 0 && (pager->opts.flags & UFFD_PAGER_ONCE) != 0) uffd_links_shut(pager);
  return answer(pager, link, result, handshake, client);
}

/* It hears again. */
static void arrived(uffd_pager *pager, void *owner, int result, struct uffd_handshake *handshake, uint64_t client) {
  struct uffd_link *link = owner;
  link->waits = false;
  if (uffd_poll_add(pager, uffd_connection_fd(link->connection), &link->poll) < 0 && result >= 0) {
    hang_up(pager, link, false); /* it is served, and cannot say that it needs no pager any more */
    return;
  }
  link->again = true; /* before it is told: it may be over by that */
  (void)arrive(pager, link, result, handshake, client);
}

/* It hears nothing until its client has arrived, which may be at once. The link may be over when this returns. */
static void wait_for(uffd_pager *pager, struct uffd_link *link, struct uffd_handshake *handshake) {
  link->waits = true;
  uffd_poll_drop(pager, uffd_connection_fd(link->connection));
  int result = uffd_arrival_begin(pager, handshake, arrived, link);
  if (result < 0) arrived(pager, link, result, handshake, 0);
}

/* The same for one that has been taken in, until it is kept. */
static void wait_to_be_kept(uffd_pager *pager, struct uffd_link *link, int result, struct uffd_handshake *handshake,
                            uint64_t client) {
  link->waits = true;
  uffd_poll_drop(pager, uffd_connection_fd(link->connection));
  if (uffd_arrival_hold(pager, handshake, result, client, arrived, link) == 0) return;
  arrived(pager, link, result, handshake, client);
}

/* The image is the pager's: where one is chosen for each client, there is none to speak of. */
static bool tell_size(uffd_pager *pager, struct uffd_link *link, struct uffd_handshake *handshake) {
  if (pager->current == NULL || uffd_options_choose(&pager->opts)) {
    int result = fail(ENODATA, "The pager has no image of a certain size: one is chosen, or made, for each client.");
    return answer(pager, link, result, handshake, 0);
  }
  const struct uffd_response response = {.is_stat = true, .size = pager->current->backing.length};
  uffd_connection_answer(link->connection, &response);
  release(pager, handshake);
  return true;
}

/* The pages that clients of the image share: see uffd_handoff_map(). */
static bool lend_pages(uffd_pager *pager, struct uffd_link *link, struct uffd_handshake *handshake) {
  int fd, result = uffd_image_lend(pager, &fd);
  if (result < 0) return answer(pager, link, result, handshake, 0);
  const struct uffd_backing *backing = &pager->current->backing;
  const struct uffd_response response = {
      .token = backing->token, .size = uffd_backing_shared_length(backing), .fd = fd};
  uffd_connection_answer(link->connection, &response);
  uffd_close_fds(&fd, 1);
  release(pager, handshake);
  return true;
}

/* False: the link is over, or its client waits. */
static bool take_handshake(uffd_pager *pager, struct uffd_link *link, struct uffd_handshake *handshake) {
  uint64_t client = handshake->notice_client;
  if (handshake->notice == UFFD_NOTICE_STAT) return tell_size(pager, link, handshake);
  if (handshake->notice == UFFD_NOTICE_SHARE) return lend_pages(pager, link, handshake);
  if (handshake->notice != UFFD_NOTICE_NONE) {
    int result = uffd_clients_notice(pager, handshake->connection, handshake->notice, &client);
    return answer(pager, link, result, handshake, client);
  }
  int result = 0;
  if (link->drained) result = fail(ESHUTDOWN, "The connection brings no other client: its first one is being drained.");
  if (result == 0 && uffd_arrival_needed(pager, handshake)) {
    wait_for(pager, link, handshake);
    return false;
  }
  if (result == 0) result = uffd_client_come(pager, handshake, pager->current, &client);
  bool kept = uffd_keep_taken(pager, uffd_keep_given(pager)) || BROKEN("keep-answer");
  if (result >= 0 && handshake->wants_answer && !kept) {
    wait_to_be_kept(pager, link, result, handshake, client);
    return false;
  }
  return arrive(pager, link, result, handshake, client);
}

/* A few handshakes at a time: a connection that brings them without an end must not hold up the others. */
static void read_link(uffd_pager *pager, void *owner) {
  struct uffd_link *link = owner;
  struct uffd_handshake handshake = UFFD_HANDSHAKE_INIT;
  int result = 1;
  link->again = false;
  for (int i = 0; i < HANDSHAKES && (result = uffd_connection_read(link->connection, &handshake)) == 1; i++) {
    if (!take_handshake(pager, link, &handshake)) return;
  }
  if (result == 1) link->again = true;
  if (result < 0) end(pager, link, result, &handshake);
  release(pager, &handshake);
}

static int link_in(uffd_pager *pager, struct uffd_connection *connection) {
  struct uffd_link *link = NEW(struct uffd_link);
  if (link == NULL) return fail(ENOMEM, "No memory for a connection.");
  link->connection = connection;
  link->poll = (struct uffd_poll){.ready = read_link, .owner = link, .outside = true};
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

static void give_up(uffd_pager *pager, struct uffd_link *link, int error) {
  struct uffd_handshake handshake;
  uffd_connection_give_up(link->connection, &handshake);
  refuse_link(pager, link, error, &handshake);
  release(pager, &handshake);
}

/* Connections of a process; 0: of all. And the one of them whose handshake is being waited for longest; NULL: none. */
static uint32_t count_links(const uffd_pager *pager, int32_t process, struct uffd_link **half_open) {
  uint32_t count = 0;
  *half_open = NULL;
  for (struct uffd_link *link = pager->links; link != NULL; link = link->next) {
    if (process != 0 && uffd_connection_peer(link->connection)->pid != process) continue;
    count++;
    if (uffd_connection_count(link->connection) == 0) *half_open = link; /* the newest come first in the list */
  }
  return count;
}

/* Silent connections must not keep others out: the oldest of them gives way, and first those of the same process. */
static int make_room(uffd_pager *pager, const struct uffd_connection *connection) {
  struct uffd_link *half_open = NULL;
  uint32_t most = pager->opts.max_clients + LINKS_SPARE;
  int32_t process = uffd_connection_peer(connection)->pid;
  uint32_t count = process != 0 ? count_links(pager, process, &half_open) : 0;
  if (count < uffd_share_of_process(pager, most)) {
    process = 0;
    count = count_links(pager, 0, &half_open);
    if (count < most) return 0;
  }
  if (half_open == NULL) {
    return process == 0
               ? fail(EBUSY, "There are %u connections already: more clients than max_clients lets in.", count)
               : fail(EBUSY, "Process %d has %u connections already: more than max_clients_per_process lets in.",
                      process, count);
  }
  give_up(pager, half_open,
          fail(EBUSY, "There are %u connections%s: this one, which has sent no handshake, gives way to another.", count,
               process != 0 ? " of its process" : ""));
  return 0;
}

static void take(uffd_pager *pager, struct uffd_connection *connection) {
  int result = make_room(pager, connection);
  if (result == 0) result = link_in(pager, connection);
  if (result == 0) return;
  uffd_connection_answer(connection, &(struct uffd_response){.why = uffd_errmsg()});
  uffd_connection_close(connection);
  refuse(pager, result, "");
}

/* A few at a time: a client that connects in a loop must not hold up the others. */
static void accept_some(uffd_pager *pager, void *door) {
  for (int i = 0; i < 8; i++) {
    struct uffd_connection *connection;
    int result = uffd_door_accept(door, &connection);
    if (result == 0) return;
    if (result < 0) {
      refuse(pager, result, "");
    } else {
      take(pager, connection);
    }
  }
}

int uffd_links_open(uffd_pager *pager) {
  return uffd_entrances_open(pager, accept_some);
}

void uffd_links_shut(uffd_pager *pager) {
  uffd_entrances_shut(pager);
}

void uffd_links_refuse(uffd_pager *pager) {
  struct uffd_link *next;
  for (struct uffd_link *link = pager->links; link != NULL; link = next) {
    next = link->next;
    if (link->waits || uffd_connection_deadline(link->connection) == UFFD_NO_DEADLINE) continue;
    give_up(pager, link, fail(ESHUTDOWN, "The pager takes no new clients: it ends."));
  }
}

void uffd_links_close(uffd_pager *pager) {
  uffd_links_shut(pager);
  while (pager->links != NULL) {
    drop(pager, pager->links);
  }
}

void uffd_links_drain(uffd_pager *pager, uint64_t connection) {
  for (struct uffd_link *link = pager->links; link != NULL; link = link->next) {
    if (uffd_connection_number(link->connection) == connection) link->drained = true;
  }
}

void uffd_links_check(uffd_pager *pager, uint64_t now) {
  struct uffd_link *next;
  for (struct uffd_link *link = pager->links; link != NULL; link = next) {
    next = link->next;
    if (link->waits) continue;
    bool late = uffd_connection_deadline(link->connection) <= now;
    if (late || (link->again && uffd_toll_let_in(pager))) read_link(pager, link);
  }
}

uint64_t uffd_links_due(const uffd_pager *pager) {
  uint64_t due = UINT64_MAX;
  for (const struct uffd_link *link = pager->links; link != NULL; link = link->next) {
    if (link->waits) continue;
    due = min_u64(due, link->again ? uffd_toll_next(pager) : uffd_connection_deadline(link->connection));
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
    if (link->waits || link->clients_ended == pager->clients_ended) continue;
    link->clients_ended = pager->clients_ended;
    if (is_deserted(pager, link)) drop(pager, link);
  }
}
