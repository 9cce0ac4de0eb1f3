/*
 * The front doors: found among what the service manager has given, or kept for us, or opened at their paths.
 */
#include "serve/supervisor/entrance.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "serve/door/door_criu.h"
#include "serve/door/door_firecracker.h"
#include "serve/supervisor/given.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/pager.h"

struct uffd_entrance {
  struct uffd_entrance *next;
  struct uffd_door *door;
  struct uffd_poll poll;
  char kept[UFFD_KEEP_NAME]; /* as what the service manager keeps it; "": it does not */
};

/* A door as the options have it: its path, mode and user. */
static struct uffd_pager_door spec_of(const uffd_pager *pager, size_t index) {
  const struct uffd_pager_opts *opts = &pager->opts;
  struct uffd_pager_door spec = {.path = opts->socket, .uid = UFFD_DOOR_UID};
  if (opts->socket == NULL || index > 0) spec = opts->doors[opts->socket != NULL ? index - 1 : index];
  if (spec.mode == 0) spec.mode = opts->socket_mode;
  if (spec.uid == UFFD_DOOR_UID) spec.uid = opts->uid;
  return spec;
}

static size_t count_specs(const uffd_pager *pager) {
  return pager->opts.doors_count + (pager->opts.socket != NULL);
}

static struct uffd_door_opts door_opts(uffd_pager *pager, const struct uffd_pager_door *spec) {
  const struct uffd_pager_opts *opts = &pager->opts;
  return (struct uffd_door_opts){
      .path = spec->path,
      .fd = -1,
      .mode = spec->mode,
      .uid = spec->uid,
      .connections = &pager->connections,
      .connection = {.kind = opts->door == UFFD_DOOR_CRIU ? &uffd_door_criu : &uffd_door_firecracker,
                     .limits = {opts->max_bytes, opts->max_regions, 0},
                     .handshake_ms = opts->handshake_ms},
  };
}

static int open_one(uffd_pager *pager, const struct uffd_door_opts *opts, const char *kept,
                    void (*accept)(uffd_pager *pager, void *door)) {
  struct uffd_entrance *entrance = NEW(struct uffd_entrance);
  if (entrance == NULL) return fail(ENOMEM, "No memory for a front door.");
  int result = uffd_door_open(opts, &entrance->door);
  if (result < 0) {
    DELETE(entrance);
    return result;
  }
  snprintf(entrance->kept, sizeof(entrance->kept), "%s", kept);
  entrance->poll = (struct uffd_poll){.ready = accept, .owner = entrance->door, .outside = true};
  entrance->next = pager->entrances;
  pager->entrances = entrance;
  return uffd_poll_add(pager, uffd_door_fd(entrance->door), &entrance->poll);
}

/* A socket unit of systemd, with FileDescriptorName=door or without a name: its mode is the unit's, its user ours. */
static int open_given(uffd_pager *pager, int fd, void (*accept)(uffd_pager *pager, void *door)) {
  struct uffd_pager_door none = {.uid = pager->opts.uid};
  for (size_t i = 0; i < count_specs(pager); i++) {
    struct uffd_pager_door spec = spec_of(pager, i);
    if (uffd_listener_is_at(fd, spec.path)) none.uid = spec.uid;
  }
  struct uffd_door_opts opts = door_opts(pager, &none);
  opts.fd = fd;
  opts.given = true;
  return open_one(pager, &opts, "", accept);
}

/* One that a dead supervisor has listened at, at this path: who connected meanwhile waits in its queue. */
static int take_kept(uffd_pager *pager, const char *path, char *kept) {
  for (size_t i = 0; i < pager->given_count; i++) {
    const struct uffd_given *given = &pager->given[i];
    if (given->fd < 0 || !uffd_given_is_kept_door(given->name) || !uffd_listener_is_at(given->fd, path)) continue;
    snprintf(kept, UFFD_KEEP_NAME, "%s", given->name);
    return uffd_given_take(pager, kept);
  }
  return -1;
}

static int open_at_path(uffd_pager *pager, size_t index, void (*accept)(uffd_pager *pager, void *door)) {
  struct uffd_pager_door spec = spec_of(pager, index);
  struct uffd_door_opts opts = door_opts(pager, &spec);
  char kept[UFFD_KEEP_NAME];
  opts.fd = take_kept(pager, spec.path, kept);
  opts.given = opts.owned = opts.fd >= 0;
  if (opts.given) return open_one(pager, &opts, kept, accept);
  snprintf(kept, sizeof(kept), "door%" PRIu64 ".socket", ++pager->doors_opened);
  int result = open_one(pager, &opts, kept, accept);
  if (result == 0) uffd_keep_socket(pager, kept, uffd_door_fd(pager->entrances->door));
  return result;
}

/* Doors that the options do not name any more are not kept; the numbers of the others are used already. */
static void drop_others(uffd_pager *pager) {
  for (size_t i = 0; i < pager->given_count; i++) {
    struct uffd_given *given = &pager->given[i];
    uint64_t number = 0;
    if (given->fd < 0 || !uffd_given_is_kept_door(given->name)) continue;
    bool named = false;
    for (size_t k = 0; k < count_specs(pager) && !named; k++) {
      named = uffd_listener_is_at(given->fd, spec_of(pager, k).path);
    }
    if (sscanf(given->name, "door%" SCNu64, &number) == 1) pager->doors_opened = max_u64(pager->doors_opened, number);
    if (named) continue;
    uffd_keep_drop_socket(pager, given->name);
    uffd_close_fds(&given->fd, 1);
  }
}

int uffd_entrances_open(uffd_pager *pager, void (*accept)(uffd_pager *pager, void *door)) {
  int fd, result = 0;
  while (result == 0 && (fd = uffd_given_take(pager, "door")) >= 0) {
    result = open_given(pager, fd, accept);
  }
  if (result == 0 && pager->entrances == NULL && (fd = uffd_given_take_unnamed(pager)) >= 0) {
    result = open_given(pager, fd, accept);
  }
  if (result < 0 || pager->entrances != NULL) return result;
  drop_others(pager);
  if (count_specs(pager) == 0) {
    return fail(EINVAL, "socket: a pager needs the path of its front door, or a socket of the service manager.");
  }
  for (size_t i = 0; i < count_specs(pager) && result == 0; i++) {
    result = open_at_path(pager, i, accept);
  }
  return result;
}

void uffd_entrances_change(uffd_pager *pager) {
  const struct uffd_pager_opts *opts = &pager->opts;
  const struct uffd_door_limits limits = {opts->max_bytes, opts->max_regions, 0};
  for (struct uffd_entrance *entrance = pager->entrances; entrance != NULL; entrance = entrance->next) {
    uffd_door_limit(entrance->door, &limits, opts->handshake_ms);
  }
}

void uffd_entrances_shut(uffd_pager *pager) {
  while (pager->entrances != NULL) {
    struct uffd_entrance *entrance = pager->entrances;
    pager->entrances = entrance->next;
    uffd_poll_drop(pager, uffd_door_fd(entrance->door));
    if (entrance->kept[0] != '\0') uffd_keep_drop_socket(pager, entrance->kept);
    uffd_door_close(entrance->door);
    DELETE(entrance);
  }
}
