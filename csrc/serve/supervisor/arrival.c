/*
 * Arrivals, in the order in which they came. Only so many helpers work at a time: whoever comes with many clients at
 * once is not made a crowd of processes of.
 */
#include "serve/supervisor/arrival.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/template.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/helper.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/looker.h"
#include "serve/supervisor/options.h"
#include "serve/supervisor/pager.h"

#define HELPERS_MAX 8u
#define PATH_BYTES  4096u

enum stage {
  STAGE_OWNER,   /* the looker looks whose memory it is */
  STAGE_IMAGE,   /* no helper has begun yet */
  STAGE_OPENING, /* a helper opens its image */
  STAGE_KEEPING  /* it is a client; what is kept of it is on its way to the service manager */
};

struct uffd_arrival {
  struct uffd_arrival *next;
  struct uffd_handshake handshake;
  uffd_arrived_fn *arrived; /* NULL: it is over, its helper still works */
  void *owner;
  uint64_t number; /* by which the service manager keeps its userfaultfd meanwhile; 0: it does not */
  enum stage stage;
  /* while it is KEEPING */
  int result;
  uint64_t id, given; /* see uffd_keep_given() */
  uint64_t give_up_ns;
};

static bool has_image(const uffd_pager *pager) {
  return uffd_options_choose(&pager->opts);
}

bool uffd_arrival_needed(const uffd_pager *pager, const struct uffd_handshake *handshake) {
  return has_image(pager) || UFFD_OWNER_IS_NAMED(&handshake->owner);
}

static struct uffd_arrival *link_in(uffd_pager *pager, struct uffd_handshake *handshake, uffd_arrived_fn *arrived,
                                    void *owner) {
  struct uffd_arrival *arrival = NEW(struct uffd_arrival), **at = &pager->arrivals;
  if (arrival == NULL) {
    fail(ENOMEM, "No memory for a client.");
    return NULL;
  }
  *arrival = (struct uffd_arrival){.handshake = *handshake, .arrived = arrived, .owner = owner};
  *handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
  while (*at != NULL) {
    at = &(*at)->next;
  }
  *at = arrival;
  return arrival;
}

static void unlink_arrival(uffd_pager *pager, struct uffd_arrival *arrival) {
  struct uffd_arrival **at = &pager->arrivals;
  while (*at != arrival) {
    at = &(*at)->next;
  }
  *at = arrival->next;
}

static void release(uffd_pager *pager, struct uffd_arrival *arrival) {
  uffd_looker_close(pager, &arrival->handshake.object_fd);
  uffd_handshake_release(&arrival->handshake);
}

/* Tells whoever brought it, and lets go of what is left of it. */
static void tell(uffd_pager *pager, struct uffd_arrival *arrival, int result, uint64_t id) {
  uffd_arrived_fn *arrived = arrival->arrived;
  arrival->arrived = NULL;
  arrived(pager, arrival->owner, result, &arrival->handshake, id);
  release(pager, arrival);
  if (arrival->number != 0) uffd_keep_drop_refused(pager, arrival->number); /* it is kept as what it is by now */
}

static void end(uffd_pager *pager, struct uffd_arrival *arrival, int result, uint64_t id) {
  unlink_arrival(pager, arrival);
  tell(pager, arrival, result, id);
  DELETE(arrival);
}

/* It is a client, or it is refused. Only who waits for an answer waits for the service manager. */
static void settle(uffd_pager *pager, struct uffd_arrival *arrival, int result, uint64_t id) {
  arrival->given = uffd_keep_given(pager);
  if (result < 0 || !arrival->handshake.wants_answer || uffd_keep_taken(pager, arrival->given)) {
    end(pager, arrival, result, id);
    return;
  }
  arrival->stage = STAGE_KEEPING;
  arrival->result = result;
  arrival->id = id;
  arrival->give_up_ns = uffd_now() + UINT64_C(1000000) * pager->opts.hang_ms;
}

int uffd_arrival_hold(uffd_pager *pager, struct uffd_handshake *handshake, int result, uint64_t id,
                      uffd_arrived_fn *arrived, void *owner) {
  struct uffd_arrival *arrival = link_in(pager, handshake, arrived, owner);
  if (arrival == NULL) return -ENOMEM;
  settle(pager, arrival, result, id);
  return 0;
}

/* ---- whose memory it is */

static struct uffd_arrival *find(const uffd_pager *pager, uint64_t number, enum stage stage) {
  struct uffd_arrival *arrival = pager->arrivals;
  while (arrival != NULL && (arrival->number != number || arrival->stage != stage)) {
    arrival = arrival->next;
  }
  return arrival;
}

static void take_owner(struct uffd_handshake *handshake, const struct uffd_seen *seen) {
  uffd_close_fds(&handshake->pidfd, 1);
  handshake->pid = seen->pids[0];
  if (handshake->owner.by_pidfd) {
    handshake->pidfd = handshake->fds[0];
    handshake->fds_count--;
    memmove(handshake->fds, handshake->fds + 1, handshake->fds_count * sizeof(int));
  } else {
    handshake->pidfd = seen->fds[0];
    seen->fds[0] = -1;
  }
}

static void enter(uffd_pager *pager, struct uffd_arrival *arrival) {
  uint64_t id = 0;
  int result = has_image(pager) ? uffd_client_may_come(pager, &arrival->handshake) : 1;
  if (result >= 0 && has_image(pager)) {
    arrival->stage = STAGE_IMAGE;
    return;
  }
  if (result >= 0) result = uffd_client_come(pager, &arrival->handshake, pager->current, &id);
  settle(pager, arrival, result, id);
}

static void owner_found(uffd_pager *pager, const struct uffd_look *look, const struct uffd_seen *seen) {
  struct uffd_arrival *arrival = find(pager, look->owner, STAGE_OWNER);
  if (arrival == NULL) return;
  if (seen->result < 0) {
    int error = seen->result == -ECHILD ? EAGAIN : -seen->result;
    end(pager, arrival, fail(error, "%s", seen->why), 0);
    return;
  }
  take_owner(&arrival->handshake, seen);
  enter(pager, arrival);
}

static int ask_owner(uffd_pager *pager, struct uffd_arrival *arrival) {
  const struct uffd_handshake *handshake = &arrival->handshake;
  struct uffd_look look = {.kind = UFFD_LOOK_OWNER,
                           .fd = handshake->object_fd,
                           .pid = handshake->pid,
                           .pidfd = -1,
                           .owner = arrival->number,
                           .named = handshake->owner};
  if (handshake->owner.by_pidfd && handshake->fds_count != 0) look.pidfd = handshake->fds[0];
  return uffd_looker_ask(pager, &look, owner_found) ? 0 : fail(ENOMEM, "No memory for a client.");
}

int uffd_arrival_begin(uffd_pager *pager, struct uffd_handshake *handshake, uffd_arrived_fn *arrived, void *owner) {
  struct uffd_arrival *arrival = link_in(pager, handshake, arrived, owner);
  if (arrival == NULL) return -ENOMEM;
  arrival->number = ++pager->last_refused; /* if this process dies now, the next one holds it: never zeros */
  uffd_keep_refused(pager, arrival->number, arrival->handshake.object_fd);
  if (!UFFD_OWNER_IS_NAMED(&arrival->handshake.owner)) {
    enter(pager, arrival);
    return 0;
  }
  arrival->stage = STAGE_OWNER;
  int result = ask_owner(pager, arrival);
  if (result < 0) end(pager, arrival, result, 0);
  return 0;
}

/* ---- in the helper */

static struct uffd_client describe(const struct uffd_handshake *handshake) {
  return (struct uffd_client){.pid = handshake->pid,
                              .uid = handshake->uid,
                              .gid = handshake->gid,
                              .regions_count = handshake->regions_count,
                              .regions = handshake->regions,
                              .label = handshake->label,
                              .socket = handshake->socket};
}

struct errand {
  const uffd_pager *pager;
  struct uffd_arrival *arrival;
};

/* The layers of its image, up to NULL; they live as long as this process. */
static int expand_all(const struct uffd_pager_opts *opts, const struct uffd_client *client, const char ***paths) {
  const char *const one[] = {opts->image, NULL}, *const *templates = opts->images != NULL ? opts->images : one;
  size_t count = 0;
  while (templates[count] != NULL) {
    count++;
  }
  *paths = uffd_alloc((count + 1) * sizeof(**paths));
  for (size_t i = 0; i < count; i++) {
    char *path = *paths != NULL ? uffd_alloc(PATH_BYTES) : NULL;
    if (path == NULL) return fail(ENOMEM, "No memory for a path.");
    int result = uffd_client_path(templates[i], client, path, PATH_BYTES);
    if (result < 0) return result;
    (*paths)[i] = path;
  }
  return 0;
}

/* 0: the paths of its image. 1: it gets the pager's own. */
static int choose(const struct uffd_pager_opts *opts, const struct uffd_client *client, const char ***paths) {
  if (opts->choose == NULL) return expand_all(opts, client, paths);
  char *path = uffd_alloc(PATH_BYTES);
  *paths = uffd_alloc(2 * sizeof(**paths));
  if (path == NULL || *paths == NULL) return fail(ENOMEM, "No memory for a path.");
  (*paths)[0] = path;
  int result = opts->choose(opts->choose_ctx, client, path, PATH_BYTES);
  if (result == 1 && uffd_options_template(opts)) return expand_all(opts, client, paths);
  if (result > 1) return fail(EINVAL, "choose: it returned %d, which is neither 0, 1 nor an error.", result);
  return result == 0 && path[0] == '\0' ? fail(EINVAL, "choose: it named no image.") : result;
}

/* The working set of a template need not be there: a client that is the first of its image has none yet. */
static int find_replay(const uffd_pager *pager, const struct uffd_client *client, char *path) {
  if (pager->opts.replay == NULL) return 1;
  if (!uffd_is_template(pager->opts.replay)) {
    snprintf(path, PATH_BYTES, "%s", pager->opts.replay);
    return 0;
  }
  int result = uffd_client_path(pager->opts.replay, client, path, PATH_BYTES);
  return result == 0 && access(path, F_OK) != 0 && errno == ENOENT ? 1 : result;
}

static int open_here(void *ctx, struct uffd_message *message, int *fds) {
  const struct errand *errand = ctx;
  struct uffd_client client = describe(&errand->arrival->handshake);
  const char **paths = NULL;
  char replay[PATH_BYTES];
  int result = choose(&errand->pager->opts, &client, &paths);
  if (result == 1) return 0; /* no descriptor: the pager's own */
  int set = result == 0 ? find_replay(errand->pager, &client, replay) : result;
  if (set < 0) return set;
  struct uffd_backing backing;
  result = uffd_image_load(paths, set == 0 ? replay : NULL, &backing);
  if (result == 0) message->fds_count = uffd_backing_write(&backing, message, fds);
  return result;
}

/* ---- in the supervisor */

static int take_in(uffd_pager *pager, struct uffd_arrival *arrival, const struct uffd_message *message, int *fds,
                   uint64_t *id) {
  struct uffd_image *image = pager->current;
  if (message->error != 0) return fail(message->error, "%s", message->text);
  if (message->fds_count == 0 && image == NULL && pager->opts.resolver == NULL) {
    return fail(EINVAL, "choose: it gave the pager's own image, and the pager has none.");
  }
  int result = message->fds_count != 0 ? uffd_image_take(pager, message, fds, &image) : 0;
  return result < 0 ? result : uffd_client_come(pager, &arrival->handshake, image, id);
}

static void opened(uffd_pager *pager, void *ctx, const struct uffd_message *message, int *fds) {
  struct uffd_arrival *arrival = ((struct errand *)ctx)->arrival;
  uint64_t id = 0;
  pager->opening_count--;
  if (arrival->arrived == NULL) {
    unlink_arrival(pager, arrival);
    DELETE(arrival);
    return;
  }
  int result = take_in(pager, arrival, message, fds, &id);
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_images_drop_unused(pager); /* of a client that was refused after all */
  uffd_restore_sentence(&why);
  settle(pager, arrival, result, id);
}

static void forget_errand(void *ctx) {
  struct errand *errand = ctx;
  DELETE(errand);
}

static int start(uffd_pager *pager, struct uffd_arrival *arrival) {
  struct errand *errand = NEW(struct errand);
  if (errand == NULL) return fail(ENOMEM, "No memory for a helper.");
  *errand = (struct errand){pager, arrival};
  const struct uffd_helper_work work = {open_here, opened, forget_errand,
                                        errand,    -1,     UINT64_C(1000000) * pager->opts.hang_ms};
  int result = uffd_helper_start(pager, &work);
  if (result < 0) DELETE(errand);
  return result;
}

static struct uffd_arrival *find_waiting(const uffd_pager *pager) {
  struct uffd_arrival *arrival = pager->arrivals;
  while (arrival != NULL && arrival->stage != STAGE_IMAGE) {
    arrival = arrival->next;
  }
  return arrival;
}

static void open_images(uffd_pager *pager) {
  struct uffd_arrival *arrival;
  while (pager->opening_count < HELPERS_MAX && (arrival = find_waiting(pager)) != NULL) {
    int result = start(pager, arrival);
    if (result == 0) {
      arrival->stage = STAGE_OPENING;
      pager->opening_count++;
    } else {
      end(pager, arrival, result, 0);
    }
  }
}

static void tell_kept(uffd_pager *pager, uint64_t now) {
  struct uffd_arrival *next;
  for (struct uffd_arrival *arrival = pager->arrivals; arrival != NULL; arrival = next) {
    next = arrival->next;
    if (arrival->stage != STAGE_KEEPING) continue;
    bool late = arrival->give_up_ns <= now;
    if (!late && !uffd_keep_taken(pager, arrival->given)) continue;
    if (late) uffd_keep_complain(pager, pager->opts.hang_ms);
    end(pager, arrival, arrival->result, arrival->id);
  }
}

void uffd_arrivals_step(uffd_pager *pager) {
  tell_kept(pager, uffd_now());
  open_images(pager);
}

uint64_t uffd_arrivals_due(const uffd_pager *pager) {
  uint64_t due = UINT64_MAX;
  for (const struct uffd_arrival *arrival = pager->arrivals; arrival != NULL; arrival = arrival->next) {
    if (arrival->stage == STAGE_KEEPING) due = min_u64(due, arrival->give_up_ns);
  }
  return due;
}

static void refuse(uffd_pager *pager, struct uffd_arrival *arrival) {
  int result = arrival->result;
  if (arrival->stage != STAGE_KEEPING) result = fail(ESHUTDOWN, "The pager takes no new clients: it ends.");
  if (arrival->stage != STAGE_OPENING) {
    end(pager, arrival, result, arrival->id);
  } else if (arrival->arrived != NULL) {
    tell(pager, arrival, result, 0); /* its helper's end frees it */
  }
}

void uffd_arrivals_refuse(uffd_pager *pager) {
  struct uffd_arrival *next;
  for (struct uffd_arrival *arrival = pager->arrivals; arrival != NULL; arrival = next) {
    next = arrival->next;
    refuse(pager, arrival);
  }
}

bool uffd_arrivals_none(const uffd_pager *pager) {
  const struct uffd_arrival *arrival = pager->arrivals;
  while (arrival != NULL && arrival->arrived == NULL) {
    arrival = arrival->next;
  }
  return arrival == NULL;
}

void uffd_arrivals_forget(uffd_pager *pager) {
  while (pager->arrivals != NULL) {
    struct uffd_arrival *arrival = pager->arrivals;
    pager->arrivals = arrival->next;
    release(pager, arrival);
    DELETE(arrival);
  }
}
