/*
 * Clients, as the supervisor keeps them: how they come, how their end is noticed, what becomes of what is left.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <signal.h>

#include "serve/supervisor/family.h"
#include "serve/supervisor/pager.h"

#define KIN_TRIES 5 /* to find the process of a forked child */

/* ---- coming */

static void exited(uffd_pager *pager, void *owner) {
  struct uffd_served *served = owner;
  uffd_watch_drop(pager, served->pidfd);
  served->exited = true;
  served->probe_ns = uffd_now();
  served->probe_step = UFFD_PROBE_MIN_NS;
}

/* Without a pidfd nobody tells that it is gone. */
static int watch(uffd_pager *pager, struct uffd_served *served) {
  served->exit = (struct uffd_watch){exited, served};
  if (served->pidfd >= 0) return uffd_watch_add(pager, served->pidfd, &served->exit);
  served->probe_step = UFFD_PROBE_MIN_NS;
  served->probe_ns = uffd_now() + served->probe_step;
  return 0;
}

static struct uffd_served *make(uffd_pager *pager) {
  struct uffd_served *served = calloc(1, sizeof(*served));
  if (served == NULL) return NULL;
  served->object_fd = served->pidfd = -1;
  served->book = (struct uffd_book)UFFD_BOOK_INIT;
  memset(served->fds, -1, sizeof(served->fds));
  served->client.id = pager->last_id + 1;
  served->since_ns = uffd_now();
  served->slot = uffd_tasks_slot(pager);
  served->now.task = UFFD_TASK_WAITING;
  return served;
}

static void link_in(uffd_pager *pager, struct uffd_served *served) {
  served->client.regions = uffd_book_regions(&served->book);
  served->client.fds = served->fds;
  served->completing = pager->draining && pager->opts.on_drain == UFFD_PAGER_COMPLETE;
  served->next = pager->clients;
  pager->clients = served;
  pager->clients_count++;
  pager->served++;
  pager->last_id = served->client.id;
  if (served->client.of == 0) {
    uffd_report(pager, UFFD_REPORT_CLIENT, 0, served, NULL, "It has handed over its memory.");
  } else {
    uffd_report(pager, UFFD_REPORT_CLIENT, 0, served, NULL, "It was forked from client %" PRIu64 ".",
                served->client.of);
  }
}

void uffd_served_free(uffd_pager *pager, struct uffd_served *served) {
  if (served->pidfd >= 0 && !served->exited) uffd_watch_drop(pager, served->pidfd);
  uffd_close_fds(&served->object_fd, 1);
  uffd_close_fds(&served->pidfd, 1);
  uffd_close_fds(served->fds, UFFD_HANDSHAKE_FDS);
  uffd_book_close(&served->book);
  free(served);
}

static int check_room(const uffd_pager *pager) {
  if (pager->draining) return fail(ESHUTDOWN, "The pager takes no new clients: it is being drained.");
  if ((pager->opts.flags & UFFD_PAGER_ONCE) != 0 && pager->served != 0) {
    return fail(ESHUTDOWN, "The pager takes no new clients: it was to serve one only.");
  }
  if (pager->clients_count < pager->opts.max_clients) return 0;
  return fail(EBUSY, "There are %u clients already: more must be allowed by max_clients.", pager->clients_count);
}

int uffd_served_come(uffd_pager *pager, struct uffd_handshake *handshake) {
  int result = check_room(pager);
  if (result < 0) return result;
  struct uffd_served *served = make(pager);
  if (served == NULL) return fail(ENOMEM, "No memory for a client.");
  struct uffd_client client = {
      .id = served->client.id,
      .pid = handshake->pid,
      .uid = handshake->uid,
      .gid = handshake->gid,
      .regions_count = handshake->regions_count,
      .regions = handshake->regions,
      .fds_count = handshake->fds_count,
  };
  served->client = client;
  served->pidfd = handshake->pidfd;
  handshake->pidfd = -1;
  result = uffd_book_create(&client, pager->opts.record != NULL, &served->book);
  if (result == 0) result = watch(pager, served);
  if (result < 0) {
    served->exited = true; /* it is not watched */
    uffd_served_free(pager, served);
    return result;
  }
  served->connection = handshake->connection;
  served->object_fd = handshake->object_fd;
  handshake->object_fd = -1;
  for (uint32_t i = 0; i < handshake->fds_count; i++) {
    served->fds[i] = handshake->fds[i];
    handshake->fds[i] = -1;
  }
  link_in(pager, served);
  if ((pager->opts.flags & UFFD_PAGER_ONCE) != 0) uffd_links_shut(pager);
  return 0;
}

int uffd_served_fork(uffd_pager *pager, const struct uffd_served *parent, int object_fd, int book_fd) {
  struct uffd_served *served = make(pager);
  if (served == NULL) return fail(ENOMEM, "No memory for a forked client.");
  int result = uffd_book_open(book_fd, &served->book);
  if (result < 0) {
    served->exited = true;
    uffd_served_free(pager, served);
    return result;
  }
  struct uffd_book_head *head = served->book.head;
  served->client.of = parent->client.id;
  served->client.uid = parent->client.uid;
  served->client.gid = parent->client.gid;
  served->client.regions_count = head->regions_count;
  head->id = served->client.id;
  head->of = served->client.of;
  served->forked_ticks = uffd_family_clock();
  served->kin_tries = KIN_TRIES;
  served->object_fd = object_fd;
  (void)watch(pager, served); /* without a pidfd it cannot fail */
  link_in(pager, served);
  return 0;
}

struct uffd_served *uffd_served_find(const uffd_pager *pager, uint64_t id) {
  struct uffd_served *served = pager->clients;
  while (served != NULL && served->client.id != id) {
    served = served->next;
  }
  return served;
}

/* ---- leaving */

void uffd_served_leave(uffd_pager *pager, struct uffd_served *served, uint32_t state, const char *why) {
  (void)pager;
  if (served->leaving) return;
  served->leaving = true;
  served->why = why;
  served->state = state;
}

/*
 * That a connection ends says little: Firecracker before 1.12 hung up right after its handshake. Only what the client
 * itself says, or its end, lets it go.
 */
void uffd_served_hang_up(uffd_pager *pager, uint64_t connection, bool bye) {
  for (struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    if (served->connection != connection) continue;
    served->connection = 0;
    served->probe_ns = uffd_now();
    served->probe_step = UFFD_PROBE_MIN_NS;
    if (bye) uffd_served_leave(pager, served, UFFD_CLIENT_GONE, "It has said that it needs no pager any more.");
  }
}

static void find_process(uffd_pager *pager, struct uffd_served *served) {
  const struct uffd_served *parent = uffd_served_find(pager, served->client.of);
  served->kin_tries--;
  if (parent == NULL) return;
  served->client.pid = uffd_family_child(pager, parent, served, &served->pidfd);
  if (served->client.pid == 0) return;
  served->kin_tries = 0;
  served->book.head->pid = served->client.pid;
  if (watch(pager, served) < 0) uffd_close_fds(&served->pidfd, 1);
}

static void probe(uffd_pager *pager, struct uffd_served *served, uint64_t now) {
  const struct uffd_client_region *regions = served->client.regions;
  if (uffd_memory_gone(served->object_fd, regions[0].address)) {
    const char *how = served->state == UFFD_CLIENT_FROZEN ? "Its process is dead: no worker could serve it."
                      : served->exited                    ? "Its process is dead."
                                                          : "Its memory is no more.";
    uffd_served_leave(pager, served, UFFD_CLIENT_GONE, how);
    served->probe_ns = 0;
    return;
  }
  if (served->kin_tries != 0) find_process(pager, served);
  served->probe_ns = now + served->probe_step;
  served->probe_step = min_u64(2 * served->probe_step, UFFD_PROBE_MAX_NS);
}

bool uffd_served_kill(const struct uffd_served *served) {
  return served->pidfd >= 0 && !served->exited && syscall(SYS_pidfd_send_signal, served->pidfd, SIGKILL, NULL, 0) == 0;
}

void uffd_served_give_up(uffd_pager *pager, struct uffd_served *served, int error, const char *why) {
  served->now = (struct uffd_share){0};
  if (served->state == UFFD_CLIENT_FROZEN || served->leaving) return;
  served->state = UFFD_CLIENT_FROZEN;
  bool killed = pager->opts.on_crash == UFFD_PAGER_KILL && uffd_served_kill(served);
  uffd_report(pager, UFFD_REPORT_FROZEN, error, served, NULL, "%s It is %s.", why,
              killed                                    ? "killed"
              : pager->opts.on_crash == UFFD_PAGER_KILL ? "frozen: there is no pidfd to kill it with"
                                                        : "frozen");
}

/* ---- the record */

static uint64_t image_length(const uffd_pager *pager, const struct uffd_client *client) {
  uint64_t length = pager->image_length;
  for (uint32_t i = 0; length == 0 && i < client->regions_count; i++) {
    if (i + 1 == client->regions_count) length = client->regions[i].offset + client->regions[i].length;
  }
  return length;
}

static int fill_set(const struct uffd_served *served, uffd_workingset *set) {
  const struct uffd_book_head *head = served->book.head;
  uint64_t count = atomic_load_explicit(&served->book.head->recorded, memory_order_acquire);
  for (uint64_t i = 0; i < min_u64(count, head->pages); i++) {
    struct uffd_touch touch = uffd_book_touched(&served->book, i);
    int result = uffd_workingset_add(set, touch.offset, touch.flags);
    if (result < 0) return result;
  }
  return 0;
}

static int save(const uffd_pager *pager, const struct uffd_served *served, const char *path) {
  const struct uffd_client *client = &served->client;
  uffd_workingset *set;
  int result =
      uffd_workingset_create(client->regions[0].page_size, image_length(pager, client), pager->image_identity, &set);
  if (result < 0) return result;
  result = fill_set(served, set);
  if (result >= 0) result = uffd_workingset_save(set, path);
  uffd_workingset_close(set);
  return result;
}

static void record(uffd_pager *pager, const struct uffd_served *served) {
  if (pager->opts.record == NULL || served->book.head->record_at == 0) return;
  char path[4096 + 32];
  if (served->client.id == 1) {
    snprintf(path, sizeof(path), "%s", pager->opts.record);
  } else {
    snprintf(path, sizeof(path), "%s.%" PRIu64, pager->opts.record, served->client.id);
  }
  int result = save(pager, served, path);
  if (result >= 0) return;
  uffd_report(pager, UFFD_REPORT_ERROR, -result, served, NULL, "Its working set is not written: %s", uffd_errmsg());
}

/* ---- the end */

static bool others_on(const uffd_pager *pager, uint64_t connection) {
  for (const struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    if (served->connection == connection) return true;
  }
  return false;
}

static void finish(uffd_pager *pager, struct uffd_served *served) {
  uint64_t connection = served->connection;
  bool dead = served->exited;
  pager->clients_count--;
  record(pager, served);
  uffd_report(pager, served->state == UFFD_CLIENT_COMPLETE ? UFFD_REPORT_COMPLETE : UFFD_REPORT_GONE, 0, served, NULL,
              "%s", served->why);
  uffd_served_free(pager, served);
  /* A connection that others have inherited would never end. */
  if (dead && connection != 0 && !others_on(pager, connection)) uffd_links_drop(pager, connection);
}

/* When it is time to say that no worker begins. */
static uint64_t begin_due(const struct uffd_served *served) {
  bool begins = served->now.task == UFFD_TASK_WAITING || served->now.task == UFFD_TASK_MAKING;
  if (!begins || served->slow || served->leaving) return UINT64_MAX;
  return max_u64(served->since_ns, served->task_ns) + UFFD_START_LATE_NS;
}

void uffd_served_check(uffd_pager *pager, uint64_t now) {
  struct uffd_served **at = &pager->clients;
  while (*at != NULL) {
    struct uffd_served *served = *at;
    if (served->probe_ns != 0 && served->probe_ns <= now && !served->leaving) probe(pager, served, now);
    if (begin_due(served) < now) {
      served->slow = true;
      uffd_report(pager, UFFD_REPORT_LATE, 0, served, NULL, "No worker has begun to serve it for %u s.",
                  (unsigned)(UFFD_START_LATE_NS / 1000000000));
    }
    if (served->leaving && served->now.task == UFFD_TASK_NONE && served->heir.task == UFFD_TASK_NONE) {
      *at = served->next;
      finish(pager, served);
    } else {
      at = &served->next;
    }
  }
}

uint64_t uffd_served_due(const uffd_pager *pager) {
  uint64_t due = UINT64_MAX;
  for (const struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    if (served->probe_ns != 0 && !served->leaving) due = min_u64(due, served->probe_ns);
    due = min_u64(due, begin_due(served));
  }
  return due;
}
