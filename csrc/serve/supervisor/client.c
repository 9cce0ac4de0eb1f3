/*
 * Clients, as the supervisor keeps them: how they come, how their end is noticed, what becomes of them then.
 */
#include "serve/supervisor/client.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/door/regions.h"
#include "serve/paper/closer.h"
#include "serve/supervisor/dumped.h"
#include "serve/supervisor/family.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/looker.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/record.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/sum.h"
#include "serve/supervisor/worker.h"

#define FDS_AN_IMAGE   3u                   /* beside its files: their list, its working set, what is shared */
#define FDS_SPARE      61u                  /* workers, connections without a client */
#define RECALL_NS      UINT64_C(5000000000) /* a former worker that does not let go of a client in so long is killed */
#define ASK_NS         UINT64_C(20000000)
#define KIN_TRIES      5                     /* to find the process of a forked child */
#define EXITING_NS     UINT64_C(200000000)   /* a process that gives up its memory to exit is dead by then */
#define LEAVING_NS     UINT64_C(2000000000)  /* one that unmaps its memory may exit so much later */
#define PROBE_MIN_NS   UINT64_C(10000000)    /* the first pause before a client's memory is asked for, */
#define PROBE_MAX_NS   UINT64_C(1000000000)  /* and the longest */
#define PROBE_STUCK_NS UINT64_C(10000000000) /* after a look that did not come back */
#define KILL_TRIES     3                     /* of which the looker does not come back */

static void exited(uffd_pager *pager, void *owner) {
  struct uffd_supervised *client = owner;
  uffd_poll_drop(pager, client->pidfd);
  uffd_close_fds(&client->pidfd, 1);
  client->exited = true;
  client->probe_ns = uffd_now();
  client->probe_step = PROBE_MIN_NS;
}

/*
 * Without a pidfd its end is noticed by asking for its memory. With one, too, now and then: whoever has connected may
 * live on, and hold the connection, when the memory is gone: it executes another program, or it was another's memory.
 */
static int poll_exit(uffd_pager *pager, struct uffd_supervised *client) {
  client->exit = (struct uffd_poll){.ready = exited, .owner = client};
  client->probe_step = client->pidfd >= 0 ? PROBE_MAX_NS : PROBE_MIN_NS;
  client->probe_ns = uffd_now() + client->probe_step;
  return client->pidfd >= 0 ? uffd_poll_add(pager, client->pidfd, &client->exit) : 0;
}

static uint32_t count_clients(const uffd_pager *pager, uint32_t slot) {
  uint32_t count = 0;
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->slot == slot) count++;
  }
  return count;
}

/* The slot with the fewest clients, of those that have a worker if any has one. */
static uint32_t choose_slot(const uffd_pager *pager) {
  uint32_t best = 0, fewest = UINT32_MAX;
  bool has_worker = false;
  for (uint32_t slot = 0; slot < pager->opts.workers; slot++) {
    bool has = uffd_worker_of(pager, slot) != NULL;
    uint32_t count = count_clients(pager, slot);
    if (has == has_worker ? count >= fewest : has_worker) continue;
    best = slot;
    fewest = count;
    has_worker = has;
  }
  return best;
}

static struct uffd_supervised *make(uffd_pager *pager, struct uffd_image *image) {
  struct uffd_supervised *client = NEW(struct uffd_supervised);
  if (client == NULL) return NULL;
  client->object_fd = client->pidfd = -1;
  client->book = (struct uffd_book)UFFD_BOOK_INIT;
  memset(client->fds, -1, sizeof(client->fds));
  client->who.id = pager->last_id + 1;
  client->since_ns = uffd_now();
  client->late_ns = client->since_ns + UFFD_BEGIN_NS;
  client->slot = choose_slot(pager);
  client->image = image;
  client->stage = UFFD_STAGE_QUEUED;
  return client;
}

static void add(uffd_pager *pager, struct uffd_supervised *client) {
  client->who.regions = uffd_book_regions(&client->book);
  client->who.fds = client->fds;
  client->who.label = client->book.head->label;
  client->who.socket = client->book.head->socket;
  client->next = pager->clients;
  pager->clients = client;
  pager->clients_count++;
  pager->forks_count += client->who.of != 0;
  pager->fds_extra += client->who.fds_count;
  pager->clients_come++;
  if (client->image != NULL) client->image->clients_count++;
  pager->last_id = max_u64(pager->last_id, client->who.id);
  /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): who is added has a book, made by uffd_book_create() */
  client->book.head->image = client->image != NULL ? client->image->backing.number : 0;
}

static void link_in(uffd_pager *pager, struct uffd_supervised *client) {
  add(pager, client);
  uffd_keep_client(pager, client);
  if (client->who.of == 0) {
    uffd_report(pager, UFFD_REPORT_CLIENT, 0, client, NULL, "It has handed over its memory.");
  } else {
    uffd_report(pager, UFFD_REPORT_CLIENT, 0, client, NULL, "It was forked from client %" PRIu64 ".", client->who.of);
  }
}

static void close_client(uffd_pager *pager, struct uffd_supervised *client) {
  if (client->pidfd >= 0) uffd_poll_drop(pager, client->pidfd);
  uffd_looker_close(pager, &client->object_fd);
  uffd_close_fds(&client->pidfd, 1);
  uffd_close_foreign(client->fds, UFFD_HANDSHAKE_FDS);
}

/* Its record may still be written from it. */
static void release_client(struct uffd_supervised *client) {
  uffd_book_close(&client->book);
  DELETE(client);
}

static void free_client(uffd_pager *pager, struct uffd_supervised *client) {
  close_client(pager, client);
  release_client(client);
}

/* A worker has the most for a client: object, book, pidfd, and four of its loop. */
static int check_fds(const uffd_pager *pager, uint32_t extra) {
  uint64_t clients = pager->clients_count + 1;
  uint64_t kept = (uint64_t)pager->refused_kept * 2; /* their objects and pidfds, here only */
  for (const struct uffd_image *image = pager->images; image != NULL; image = image->next) {
    kept += image->backing.count + FDS_AN_IMAGE;
  }
  if (clients * UFFD_FDS_A_CLIENT + kept + pager->fds_extra + extra + FDS_SPARE <= pager->fds_limit) return 0;
  return fail(EMFILE, "No descriptors are left for another client, beside %u: raise the limit (ulimit -n).",
              pager->clients_count);
}

static int check_room(const uffd_pager *pager, const struct uffd_handshake *handshake) {
  uint32_t count = pager->clients_count - pager->forks_count;
  if (pager->draining) return fail(ESHUTDOWN, "The pager takes no new clients: it is being drained.");
  bool joins = handshake->task != 0 && uffd_clients_of(pager, handshake->connection); /* one restore is one client */
  if ((pager->opts.flags & UFFD_PAGER_ONCE) != 0 && pager->clients_come != 0 && !joins) {
    return fail(ESHUTDOWN, "The pager takes no new clients: it was to serve one only.");
  }
  if (count >= pager->opts.max_clients) {
    return fail(EBUSY, "There is no room for another client: max_clients is %" PRIu32 ".", pager->opts.max_clients);
  }
  const struct uffd_asker asker = {handshake->asker, handshake->uid};
  int result = handshake->task != 0 ? 0 : uffd_share_check(pager, &asker, handshake->fds_count, false);
  return result < 0 ? result : check_fds(pager, handshake->fds_count);
}

/* A client that hands over its userfaultfd once more: a retry, or a handshake that was sent twice. */
static struct uffd_supervised *find_same(const uffd_pager *pager, int object_fd) {
  struct uffd_supervised *client = pager->clients;
  while (client != NULL && !uffd_same_file(client->object_fd, object_fd)) {
    client = client->next;
  }
  return client;
}

bool uffd_client_has(const uffd_pager *pager, int object_fd) {
  return find_same(pager, object_fd) != NULL;
}

/* Its process was not known, or is dead while another one has the memory: the handshake names it. */
static void learn_process(uffd_pager *pager, struct uffd_supervised *client, struct uffd_handshake *handshake) {
  if (client->pidfd >= 0 || handshake->pidfd < 0) return;
  client->pidfd = handshake->pidfd;
  if (poll_exit(pager, client) < 0) {
    client->pidfd = -1;
    return;
  }
  handshake->pidfd = -1;
  client->exited = false;
  client->kin_tries = 0;
  client->who.pid = client->book.head->pid = handshake->pid;
  uffd_keep_process(pager, client);
}

/* Two loops for one userfaultfd would each have half of its events. */
static int meet_again(uffd_pager *pager, struct uffd_supervised *client, struct uffd_handshake *handshake) {
  const struct uffd_client *who = &client->who;
  bool same = who->regions_count == handshake->regions_count && !uffd_stage_is_leaving(client->stage) &&
              memcmp(who->regions, handshake->regions, who->regions_count * sizeof(*who->regions)) == 0;
  if (!same) {
    return fail(EEXIST, "This userfaultfd is client %" PRIu64 "'s already, with other regions: hand it over once.",
                who->id);
  }
  client->connection = handshake->connection;
  if (UFFD_OWNER_IS_NAMED(&handshake->owner)) learn_process(pager, client, handshake);
  return 1;
}

/* The regions must be the image's, and the image must be what it was. */
static int check_image(uffd_pager *pager, const struct uffd_handshake *handshake, const struct uffd_image *image) {
  if (image == NULL && pager->opts.resolver == NULL) {
    return fail(ESTALE, "The image of new clients is being opened: come again.");
  }
  if (image == NULL) return 0;
  pager->look_ns = 0;
  uffd_images_look(pager, uffd_now());
  if (image->state != UFFD_BACKING_INTACT) {
    return fail(ESTALE, "The image %s is being changed: the pager needs another image for new clients.",
                image->backing.name);
  }
  if (handshake->task != 0) return 0; /* its regions are the image's own */
  if (handshake->token != 0 && handshake->regions[0].page_size != BASE_PAGE) {
    return fail(EINVAL, "The memory is a mapping of shared pages, which have %" PRIu64 " bytes, and not %" PRIu64 ".",
                BASE_PAGE, handshake->regions[0].page_size);
  }
  if (handshake->part) {
    return uffd_regions_within(handshake->regions, handshake->regions_count, image->backing.length);
  }
  return uffd_regions_cover(handshake->regions, handshake->regions_count, image->backing.length);
}

int uffd_client_may_come(uffd_pager *pager, const struct uffd_handshake *handshake) {
  return find_same(pager, handshake->object_fd) != NULL ? 1 : check_room(pager, handshake);
}

int uffd_client_come(uffd_pager *pager, struct uffd_handshake *handshake, struct uffd_image *image, uint64_t *id) {
  struct uffd_supervised *known = find_same(pager, handshake->object_fd);
  if (known != NULL) {
    *id = known->who.id;
    return meet_again(pager, known, handshake);
  }
  int result = check_room(pager, handshake);
  if (result == 0 && handshake->token != 0) result = uffd_image_of_token(pager, handshake->token, &image);
  if (result == 0) result = check_image(pager, handshake, image);
  if (result < 0) return result;
  if (handshake->task != 0) {
    result = uffd_dumped_take(image != NULL ? &image->backing : NULL, handshake);
    if (result <= 0) return result;
  }
  struct uffd_supervised *client = make(pager, image);
  if (client == NULL) return fail(ENOMEM, "No memory for a client.");
  client->who = (struct uffd_client){
      .id = client->who.id,
      .pid = handshake->pid,
      .uid = handshake->uid,
      .gid = handshake->gid,
      .regions_count = handshake->regions_count,
      .regions = handshake->regions,
      .fds_count = handshake->fds_count,
      .label = handshake->label,
      .socket = handshake->socket,
  };
  client->pidfd = handshake->pidfd;
  handshake->pidfd = -1;
  client->asker = (struct uffd_asker){handshake->asker, handshake->uid};
  result = uffd_book_create(&client->who, pager->opts.record != NULL, &client->book);
  if (result == 0) result = uffd_share_check_book(pager, &client->asker, client->book.length);
  if (result == 0) result = poll_exit(pager, client);
  if (result == 0) {
    client->later = handshake->later;
    client->restored = handshake->task != 0;
    client->book.head->later = handshake->later; /* NOLINT(clang-analyzer-core.NullDereference): it was made */
    client->book.head->asker = handshake->asker;
    client->book.head->shared = handshake->token != 0;
  }
  if (result != 0) {
    handshake->pidfd = client->pidfd;
    client->pidfd = -1;
    free_client(pager, client);
    return result;
  }
  client->connection = handshake->connection;
  client->object_fd = handshake->object_fd;
  handshake->object_fd = -1;
  for (uint32_t i = 0; i < handshake->fds_count; i++) {
    client->fds[i] = handshake->fds[i];
    handshake->fds[i] = -1;
  }
  link_in(pager, client);
  *id = client->who.id;
  return 0;
}

int uffd_client_fork(uffd_pager *pager, const struct uffd_supervised *parent, int object_fd, int book_fd) {
  if (pager->forks_count >= pager->opts.max_clients) {
    return fail(EBUSY, "There is no room for another forked child: max_clients is %" PRIu32 ".",
                pager->opts.max_clients);
  }
  int room = uffd_share_check(pager, &parent->asker, 0, true);
  if (room == 0) room = uffd_share_check_book(pager, &parent->asker, parent->book.length);
  if (room == 0) room = check_fds(pager, 0);
  if (room < 0) return room;
  struct uffd_supervised *client = make(pager, parent->image);
  if (client == NULL) return fail(ENOMEM, "No memory for a forked client.");
  int result = uffd_book_open(book_fd, &client->book);
  if (result < 0) {
    free_client(pager, client);
    return result;
  }
  struct uffd_book_head *head = client->book.head;
  client->asker = parent->asker;
  client->who.of = parent->who.id;
  client->who.uid = parent->who.uid;
  client->who.gid = parent->who.gid;
  client->who.regions_count = head->regions_count;
  head->id = client->who.id;
  head->of = client->who.of;
  head->asker = client->asker.pid;
  client->later = parent->later; /* the notice may have come since the worker made the child's book */
  head->later = parent->book.head->later;
  client->forked_ticks = uffd_family_clock();
  client->kin_tries = KIN_TRIES;
  client->object_fd = object_fd;
  (void)poll_exit(pager, client); /* without a pidfd this cannot fail */
  link_in(pager, client);
  return 0;
}

static void take_remains(struct uffd_supervised *client, struct uffd_remains *remains) {
  const struct uffd_book_head *head = client->book.head;
  client->who = (struct uffd_client){
      .id = head->id,
      .of = head->of,
      .pid = head->pid,
      .uid = head->uid,
      .gid = head->gid,
      .regions_count = head->regions_count,
      .fds_count = remains->fds_count,
  };
  client->object_fd = remains->object_fd;
  client->pidfd = remains->pidfd;
  memcpy(client->fds, remains->fds, sizeof(client->fds));
  remains->object_fd = remains->pidfd = -1;
  memset(remains->fds, -1, sizeof(remains->fds));
}

int uffd_client_adopt(uffd_pager *pager, struct uffd_remains *remains) {
  struct uffd_book book;
  if (remains->object_fd < 0 || remains->book_fd < 0) return fail(EINVAL, "Not all of it was kept.");
  int result = uffd_book_open(remains->book_fd, &book);
  if (result < 0) return result;
  remains->book_fd = -1;
  struct uffd_image *image = uffd_image_find(pager, book.head->image);
  struct uffd_supervised *client = NULL;
  if (book.head->image != 0 && image == NULL) {
    result = fail(ESTALE, "Its image was not kept.");
  } else if ((client = make(pager, image)) == NULL) {
    result = fail(ENOMEM, "No memory for a client.");
  }
  if (result < 0) {
    uffd_book_close(&book);
    return result;
  }
  client->book = book;
  take_remains(client, remains);
  client->asker = (struct uffd_asker){book.head->asker, book.head->uid};
  client->later = book.head->later != 0;
  client->stage = UFFD_STAGE_ADOPTED;
  client->recall_ns = client->since_ns;
  client->give_up_ns = client->since_ns + RECALL_NS;
  if (poll_exit(pager, client) < 0) uffd_close_fds(&client->pidfd, 1);
  atomic_fetch_add_explicit(&book.head->epoch, 1, memory_order_acq_rel);
  add(pager, client);
  uffd_report(pager, UFFD_REPORT_ADOPTED, 0, client, NULL, "It was served under a supervisor that has ended.");
  return 0;
}

/* Its former worker looks ten times a second whether it is to let go. */
static void recall(struct uffd_supervised *client, uint64_t now) {
  struct uffd_figures figures;
  int32_t holder = uffd_book_holder(&client->book);
  client->recall_ns = now + ASK_NS;
  if (holder > 0 && now < client->give_up_ns) return;
  if (holder > 0) { /* it hangs; only a worker can have the lock, as the book is ours */
    int pidfd = (int)syscall(SYS_pidfd_open, holder, 0);
    if (pidfd >= 0 && uffd_book_holder(&client->book) == holder)
      (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    uffd_close_fds(&pidfd, 1);
    return;
  }
  if (uffd_book_figures(&client->book, &figures)) uffd_figures_follow(&client->former, &figures);
  client->former.stats.queue = 0;
  uffd_book_reset(&client->book);
  uffd_stage_enter(&client->stage, UFFD_STAGE_QUEUED);
}

struct uffd_supervised *uffd_client_find(const uffd_pager *pager, uint64_t id) {
  struct uffd_supervised *client = pager->clients;
  while (client != NULL && client->who.id != id) {
    client = client->next;
  }
  return client;
}

void uffd_client_leave(struct uffd_supervised *client, uint32_t end) {
  if (uffd_stage_is_leaving(client->stage)) return;
  client->end = end;
  switch (client->stage) {
  case UFFD_STAGE_ADOPTED: /* its former worker notices by itself */
  case UFFD_STAGE_QUEUED:  /* nobody has been told of it */
  case UFFD_STAGE_FROZEN:
    client->worker = client->heir = NULL;
    uffd_stage_enter(&client->stage, UFFD_STAGE_LEFT);
    break;
  case UFFD_STAGE_YIELDING: /* its worker lets go of it already */
    uffd_stage_enter(&client->stage, UFFD_STAGE_LEAVING_HEIR);
    break;
  case UFFD_STAGE_YIELDING_BACK:
    client->heir = NULL;
    uffd_stage_enter(&client->stage, UFFD_STAGE_LEFT);
    break;
  case UFFD_STAGE_HEIR_MAKING:
  case UFFD_STAGE_HEIR_HELD:
    uffd_stage_enter(&client->stage, UFFD_STAGE_LEAVING);
    break;
  default:
    client->heir = NULL; /* it has not been told */
    uffd_stage_enter(&client->stage, UFFD_STAGE_LEAVING);
    break;
  }
}

/*
 * The end of a connection does not mean that the client needs no pager: Firecracker before 1.12 hangs up right after
 * its handshake. The client leaves when it says so, or when it is dead.
 */
void uffd_clients_hang_up(uffd_pager *pager, uint64_t connection, bool bye) {
  bool told = false;
  for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->connection != connection) continue;
    client->connection = 0;
    if (client->restored && client->book.head->later != 0 && !told) {
      uffd_report(pager, UFFD_REPORT_ERROR, EPIPE, client, NULL,
                  "The restore hung up before all was restored: its tasks are served as long as they are there.");
      told = true;
    }
    if (client->restored) client->book.head->later = 0;
    client->probe_ns = uffd_now();
    client->probe_step = PROBE_MIN_NS;
    if (bye) uffd_client_leave(client, UFFD_END_DONE);
  }
}

/* Of the connection, or forked from one that is. */
static bool descends(const uffd_pager *pager, const struct uffd_supervised *client, uint64_t connection, uint64_t id) {
  for (const struct uffd_supervised *of = client; of != NULL; of = uffd_client_find(pager, of->who.of)) {
    if (of->connection == connection) return id == 0 || of->who.id == id;
  }
  return false;
}

int uffd_clients_notice(uffd_pager *pager, uint64_t connection, enum uffd_notice notice, uint64_t *id) {
  uint64_t last = 0, wanted = *id;
  for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    bool own = client->connection == connection && (wanted == 0 || client->who.id == wanted);
    if (own) last = max_u64(last, client->who.id);
    if (notice == UFFD_NOTICE_FILL && descends(pager, client, connection, wanted)) client->book.head->later = 0;
    if (notice == UFFD_NOTICE_DONE && own) uffd_client_leave(client, UFFD_END_DONE);
  }
  *id = last;
  if (last != 0) return 0;
  if (wanted == 0) return fail(ENOENT, "The connection has no clients.");
  return fail(ENOENT, "The connection has no client %" PRIu64 ".", wanted);
}

static bool is_taken(const uffd_pager *pager, int32_t pid) {
  const struct uffd_supervised *client = pager->clients;
  while (client != NULL && client->who.pid != pid) {
    client = client->next;
  }
  return client != NULL;
}

/* Only a process that is certain: a wrong one might be killed later. */
static void found(uffd_pager *pager, const struct uffd_look *look, const struct uffd_seen *seen) {
  struct uffd_supervised *client = uffd_client_find(pager, look->owner);
  uint32_t count = 0, chosen = 0;
  for (uint32_t i = 0; i < seen->count; i++) {
    if (seen->fds[i] < 0 || is_taken(pager, seen->pids[i])) continue;
    chosen = i;
    count++;
  }
  if (client == NULL || client->pidfd >= 0 || count != 1 || seen->count == UFFD_LOOK_FOUND) return;
  client->who.pid = seen->pids[chosen];
  client->pidfd = seen->fds[chosen];
  seen->fds[chosen] = -1;
  client->kin_tries = 0;
  client->book.head->pid = client->who.pid;
  uffd_keep_process(pager, client);
  if (poll_exit(pager, client) < 0) uffd_close_fds(&client->pidfd, 1);
}

static void find_process(uffd_pager *pager, struct uffd_supervised *client) {
  const struct uffd_supervised *parent = uffd_client_find(pager, client->who.of);
  client->kin_tries--;
  if (parent == NULL || parent->who.pid <= 0) return;
  struct uffd_look look = {.kind = UFFD_LOOK_CHILD,
                           .fd = -1,
                           .pid = parent->who.pid,
                           .count = 1,
                           .owner = client->who.id,
                           .ticks = client->forked_ticks};
  look.regions[0] = client->who.regions[0];
  (void)uffd_looker_ask(pager, &look, found);
}

/*
 * Its memory is gone. A process that exits gives up its memory first, its descriptors next, and is dead at last:
 * whether it exits or has executed another program is known a moment later. UFFD_END_NONE: not known yet.
 */
static uint32_t find_end(struct uffd_supervised *client, uint64_t now, uint64_t patience) {
  if (client->killed) return UFFD_END_KILLED;
  if (client->exited || (client->pidfd >= 0 && uffd_ready(client->pidfd, POLLIN) != 0)) return UFFD_END_EXITED;
  if (client->pidfd < 0) return UFFD_END_UNMAPPED;
  if (client->gone_ns == 0) client->gone_ns = now;
  return now - client->gone_ns < patience ? UFFD_END_NONE : UFFD_END_UNMAPPED;
}

static void ask_unmapped(uffd_pager *pager, struct uffd_supervised *client);

/* All of it is unmapped. Whoever unmaps its memory and exits is dead in a moment: that is its end then. */
static void end_unmapped(struct uffd_supervised *client) {
  uint64_t now = uffd_now();
  uint32_t end = find_end(client, now, LEAVING_NS);
  client->unmapped_regions = 0;
  if (end != UFFD_END_NONE) uffd_client_leave(client, end);
  if (end == UFFD_END_NONE) client->probe_ns = now + EXITING_NS;
}

/* A part that is there is enough to go on; in a while all of it is looked at again. */
static void looked_for_parts(uffd_pager *pager, const struct uffd_look *look, const struct uffd_seen *seen) {
  struct uffd_supervised *client = uffd_client_find(pager, look->owner);
  if (client == NULL) return;
  client->asked = false;
  client->unmapped_bytes += seen->result > 0 ? seen->bytes : 0;
  if (client->unmapped_bytes == client->who.regions[client->unmapped_regions].length) {
    client->unmapped_bytes = 0;
    client->unmapped_regions++;
  } else if (seen->result <= 0) {
    client->was_there = client->was_there || seen->result == 0;
    client->gone_ns = 0;
    client->unmapped_regions = 0;
    client->unmapped_bytes = 0;
    return;
  }
  /* One that has never had a fault may register its memory only after it has handed it over. */
  bool was_there = client->was_there || atomic_load(&client->book.head->answered) != 0;
  if (client->unmapped_regions == client->who.regions_count && !was_there) {
    client->unmapped_regions = 0;
  } else if (client->unmapped_regions == client->who.regions_count) {
    end_unmapped(client);
  } else {
    ask_unmapped(pager, client);
  }
}

static void ask_unmapped(uffd_pager *pager, struct uffd_supervised *client) {
  struct uffd_look look = {
      .kind = UFFD_LOOK_UNMAPPED, .fd = client->object_fd, .count = 1, .owner = client->who.id, .pidfd = -1};
  look.regions[0] = client->who.regions[client->unmapped_regions];
  look.regions[0].address += client->unmapped_bytes;
  look.regions[0].length -= client->unmapped_bytes;
  client->asked = uffd_looker_ask(pager, &look, looked_for_parts);
}

/*
 * Its process lives, and may have unmapped its memory without a word: its loop has heard of that where there are
 * events. Where there are none, it is looked for once it has hung up: until then it can say goodbye.
 */
static void look_for_parts(uffd_pager *pager, struct uffd_supervised *client) {
  if (client->restored && client->book.head->later != 0) return; /* it is not all registered yet */
  if (uffd_book_unmapped(&client->book)) {
    end_unmapped(client);
  } else if (client->connection == 0) {
    ask_unmapped(pager, client);
  }
}

/* The looker says whether its memory is gone. */
static void looked(uffd_pager *pager, const struct uffd_look *look, const struct uffd_seen *seen) {
  struct uffd_supervised *client = uffd_client_find(pager, look->owner);
  uint64_t now = uffd_now();
  if (client == NULL) return;
  client->asked = false;
  if (seen->result == -ETIMEDOUT) client->probe_step = PROBE_STUCK_NS; /* each look may hold up others for a second */
  if (seen->result == 1) {
    uint32_t end = find_end(client, now, EXITING_NS);
    client->probe_ns = end != UFFD_END_NONE ? 0 : now + PROBE_MIN_NS;
    if (end != UFFD_END_NONE) uffd_client_leave(client, end);
    return;
  }
  if (seen->result == 0 && !uffd_stage_is_leaving(client->stage)) look_for_parts(pager, client);
  if (client->kin_tries != 0) find_process(pager, client);
  if (client->probe_ns != UINT64_MAX) return; /* something has happened since it was asked */
  client->probe_ns = now + client->probe_step;
  client->probe_step = seen->result < 0 ? PROBE_MIN_NS : min_u64(2 * client->probe_step, PROBE_MAX_NS);
}

static void probe(uffd_pager *pager, struct uffd_supervised *client, uint64_t now) {
  struct uffd_look look = {.kind = UFFD_LOOK_GONE, .fd = client->object_fd, .count = 1, .owner = client->who.id};
  look.regions[0] = client->who.regions[0];
  client->asked = uffd_looker_ask(pager, &look, looked);
  client->probe_ns = client->asked ? UINT64_MAX : now + PROBE_MAX_NS;
}

static bool ask_to_kill(uffd_pager *pager, const struct uffd_supervised *client, uffd_seen_fn *seen) {
  const struct uffd_client *who = &client->who;
  struct uffd_look look = {.kind = UFFD_LOOK_KILL, .fd = client->pidfd, .pid = who->pid, .owner = who->id};
  look.count = (uint32_t)min_u64(who->regions_count, UFFD_LOOK_REGIONS);
  memcpy(look.regions, who->regions, look.count * sizeof(*look.regions));
  return client->pidfd >= 0 && uffd_looker_ask(pager, &look, seen);
}

static void was_killed(uffd_pager *pager, const struct uffd_look *look, const struct uffd_seen *seen) {
  struct uffd_supervised *client = uffd_client_find(pager, look->owner);
  if (client == NULL) return;
  if (seen->result == 1) client->killed = true;
  if (seen->result < 0 && client->kill_tries++ < KILL_TRIES && ask_to_kill(pager, client, was_killed)) return;
  if (seen->result == 1) return;
  uffd_report(pager, UFFD_REPORT_ERROR, ESRCH, client, NULL,
              "It is not killed: the process that has its memory is not known.");
}

/* Whoever hands over another process's memory is not killed for it. */
bool uffd_client_kill(uffd_pager *pager, struct uffd_supervised *client) {
  return ask_to_kill(pager, client, was_killed);
}

static void tell_frozen(uffd_pager *pager, struct uffd_supervised *client, const char *what) {
  uffd_report(pager, UFFD_REPORT_FROZEN, client->given_up, client, NULL, "%s It is %s.", client->why, what);
}

static void was_given_up(uffd_pager *pager, const struct uffd_look *look, const struct uffd_seen *seen) {
  struct uffd_supervised *client = uffd_client_find(pager, look->owner);
  if (client == NULL) return;
  if (seen->result < 0 && client->kill_tries++ < KILL_TRIES && ask_to_kill(pager, client, was_given_up)) return;
  client->killed = client->killed || seen->result == 1;
  tell_frozen(pager, client, seen->result == 1 ? "killed" : "frozen: the process that has its memory is not known");
}

void uffd_client_give_up(uffd_pager *pager, struct uffd_supervised *client, int error, const char *why) {
  if (client->stage == UFFD_STAGE_FROZEN || uffd_stage_is_leaving(client->stage)) return;
  if (client->stage == UFFD_STAGE_ADOPTED) return; /* it is served */
  client->worker = client->heir = NULL;
  uffd_stage_enter(&client->stage, UFFD_STAGE_FROZEN);
  client->given_up = error;
  snprintf(client->why, sizeof(client->why), "%s", why);
  bool kills = pager->opts.on_crash == UFFD_PAGER_KILL;
  if (kills && ask_to_kill(pager, client, was_given_up)) return; /* its answer is told */
  tell_frozen(pager, client, kills ? "frozen: the process that has its memory is not known" : "frozen");
}

bool uffd_clients_of(const uffd_pager *pager, uint64_t connection) {
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->connection == connection) return true;
  }
  return false;
}

static void finish(uffd_pager *pager, struct uffd_supervised *client) {
  static const char *const sentences[] = {
      [UFFD_END_NONE] = "",
      [UFFD_END_DONE] = "It has said that it needs no pager any more.",
      [UFFD_END_EXITED] = "Its process is dead.",
      [UFFD_END_KILLED] = "It was killed.",
      [UFFD_END_UNMAPPED] = "Its memory is no more.",
      [UFFD_END_COMPLETE] = "All its memory is there.",
  };
  pager->clients_count--;
  pager->forks_count -= client->who.of != 0;
  pager->fds_extra -= client->who.fds_count;
  pager->clients_ended++;
  uffd_sum_keep(pager, client);
  uffd_keep_drop_client(pager, client);
  uffd_report(pager, client->end == UFFD_END_COMPLETE ? UFFD_REPORT_COMPLETE : UFFD_REPORT_GONE, 0, client, NULL, "%s",
              sentences[client->end]);
  struct uffd_image *image = client->image;
  close_client(pager, client);
  if (!uffd_record_start(pager, client, release_client)) release_client(client);
  uffd_image_drop(pager, image);
}

/* When to report that no worker has begun to serve it. */
static uint64_t begin_due(const struct uffd_supervised *client) {
  bool begins = client->stage != UFFD_STAGE_ADOPTED && client->stage <= UFFD_STAGE_PREPARING;
  return begins ? client->late_ns : UINT64_MAX;
}

static void check(uffd_pager *pager, struct uffd_supervised *client, uint64_t now) {
  bool leaving = uffd_stage_is_leaving(client->stage);
  if (client->probe_ns != 0 && client->probe_ns <= now && !client->asked && !leaving) probe(pager, client, now);
  if (client->stage == UFFD_STAGE_ADOPTED && client->recall_ns <= now) recall(client, now);
  if (begin_due(client) >= now) return;
  client->late_ns = UINT64_MAX; /* once */
  uffd_report(pager, UFFD_REPORT_LATE, 0, client, NULL, "No worker has begun to serve it for %u s.",
              (unsigned)(UFFD_BEGIN_NS / 1000000000));
}

void uffd_clients_check(uffd_pager *pager, uint64_t now) {
  struct uffd_supervised **at = &pager->clients;
  while (*at != NULL) {
    struct uffd_supervised *client = *at;
    check(pager, client, now);
    if (client->stage == UFFD_STAGE_LEFT && client->worker == NULL && client->heir == NULL) {
      *at = client->next;
      finish(pager, client);
    } else {
      at = &client->next;
    }
  }
}

uint64_t uffd_clients_due(const uffd_pager *pager) {
  uint64_t due = UINT64_MAX, now = uffd_now();
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->probe_ns != 0 && !client->asked && !uffd_stage_is_leaving(client->stage))
      due = min_u64(due, client->probe_ns);
    due = min_u64(due, begin_due(client));
    if (client->stage == UFFD_STAGE_ADOPTED) due = min_u64(due, client->recall_ns);
    if (client->stage == UFFD_STAGE_QUEUED && client->retry_ns > now) due = min_u64(due, client->retry_ns);
  }
  return due;
}

/* Perhaps a worker serves it on; perhaps ours is the last copy. */
void uffd_clients_leave(uffd_pager *pager) {
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    const struct uffd_look look = {.kind = UFFD_LOOK_HOLD, .fd = client->object_fd, .owner = client->who.id};
    (void)uffd_looker_ask(pager, &look, NULL);
  }
}

void uffd_clients_forget(uffd_pager *pager) {
  while (pager->clients != NULL) {
    struct uffd_supervised *client = pager->clients;
    pager->clients = client->next;
    free_client(pager, client);
  }
}
