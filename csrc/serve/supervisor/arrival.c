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

struct uffd_arrival {
  struct uffd_arrival *next;
  struct uffd_handshake handshake;
  uffd_arrived_fn *arrived; /* NULL: it is over, its helper still works */
  void *owner;
  uint64_t number; /* by which the service manager keeps its userfaultfd meanwhile */
  bool started;
};

bool uffd_arrivals_wanted(const uffd_pager *pager) {
  return uffd_options_choose(&pager->opts);
}

struct uffd_arrival *uffd_arrival_begin(uffd_pager *pager, struct uffd_handshake *handshake, uffd_arrived_fn *arrived,
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
  arrival->number = ++pager->last_refused; /* if this process dies now, the next one holds it: never zeros */
  uffd_keep_refused(pager, arrival->number, arrival->handshake.object_fd);
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
  uffd_keep_drop_refused(pager, arrival->number); /* last: it is kept as a client, or as refused, by now */
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
  unlink_arrival(pager, arrival);
  if (arrival->arrived != NULL) {
    int result = take_in(pager, arrival, message, fds, &id);
    struct uffd_sentence why = uffd_keep_sentence();
    uffd_images_drop_unused(pager); /* of a client that was refused after all */
    uffd_restore_sentence(&why);
    tell(pager, arrival, result, id);
  }
  DELETE(arrival);
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
  while (arrival != NULL && arrival->started) {
    arrival = arrival->next;
  }
  return arrival;
}

void uffd_arrivals_step(uffd_pager *pager) {
  struct uffd_arrival *arrival;
  while (pager->opening_count < HELPERS_MAX && (arrival = find_waiting(pager)) != NULL) {
    int result = start(pager, arrival);
    if (result == 0) {
      arrival->started = true;
      pager->opening_count++;
      continue;
    }
    unlink_arrival(pager, arrival);
    tell(pager, arrival, result, 0);
    DELETE(arrival);
  }
}

void uffd_arrivals_refuse(uffd_pager *pager) {
  struct uffd_arrival *next;
  for (struct uffd_arrival *arrival = pager->arrivals; arrival != NULL; arrival = next) {
    next = arrival->next;
    if (arrival->arrived != NULL) tell(pager, arrival, fail(ESHUTDOWN, "The pager takes no new clients: it ends."), 0);
    if (arrival->started) continue; /* its helper's end frees it */
    unlink_arrival(pager, arrival);
    DELETE(arrival);
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
