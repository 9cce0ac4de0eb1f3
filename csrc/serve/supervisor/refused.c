/*
 * Those that were refused: their userfaultfds, kept until their memory is gone.
 */
#include "serve/supervisor/refused.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/alive.h"
#include "serve/paper/closer.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/looker.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/share.h"

#define KEPT_MAX     256u                /* beyond it the oldest is poisoned and let go of */
#define CHECK_MIN_NS UINT64_C(100000000) /* the first pause between two checks; doubles up to */
#define CHECK_MAX_NS UINT64_C(1000000000)

struct uffd_refused {
  struct uffd_refused *next; /* an older one */
  uint64_t number;           /* by which the service manager keeps it */
  bool asked;                /* the looker, and it has not answered */
  bool told;                 /* it knows that it was refused, and has its own userfaultfd */
  struct uffd_handshake handshake;
};

static void free_refused(uffd_pager *pager, struct uffd_refused **at) {
  struct uffd_refused *refused = *at;
  *at = refused->next;
  pager->refused_kept--;
  uffd_looker_close(pager, &refused->handshake.object_fd);
  uffd_handshake_release(&refused->handshake);
  DELETE(refused);
}

/* NULL: nothing can be registered with it, it has not done its UFFDIO_API handshake. */
static uffd_object *adopt(const struct uffd_handshake *handshake) {
  uffd_object *object = NULL;
  int fd = fcntl(handshake->object_fd, F_DUPFD_CLOEXEC, 0);
  if (fd >= 0 && uffd_adopt(fd, &object) < 0) close(fd);
  return object;
}

/* Linux 6.6. An older kernel makes zeros of what is missing when the last userfaultfd is closed: it is held. */
static bool can_poison(void) {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  return !BROKEN("refused-poison") && uffd_probe(&probe) == 0 && (probe.features & UFFD_FEAT_POISON) != 0;
}

/* What is missing becomes an error instead of zeros. Pages that are there stay. */
static void poison(uffd_pager *pager, const struct uffd_handshake *handshake) {
  for (uint32_t i = 0; i < handshake->regions_count; i += UFFD_LOOK_REGIONS) {
    struct uffd_look look = {.kind = UFFD_LOOK_POISON, .fd = handshake->object_fd};
    look.count = (uint32_t)min_u64(handshake->regions_count - i, UFFD_LOOK_REGIONS);
    memcpy(look.regions, handshake->regions + i, look.count * sizeof(*look.regions));
    (void)uffd_looker_ask(pager, &look, NULL);
  }
}

static void hold_on(uffd_pager *pager, const struct uffd_handshake *handshake) {
  const struct uffd_look look = {.kind = UFFD_LOOK_HOLD, .fd = handshake->object_fd};
  (void)uffd_looker_ask(pager, &look, NULL);
}

/* How many of the process are kept; 0: of all. And the oldest of them. */
static uint32_t count_kept(uffd_pager *pager, int32_t process, struct uffd_refused ***oldest) {
  uint32_t count = 0;
  *oldest = NULL;
  for (struct uffd_refused **at = &pager->refused_list; *at != NULL; at = &(*at)->next) {
    if (process != 0 && (*at)->handshake.asker != process) continue;
    count++;
    *oldest = at;
  }
  return count;
}

/* Who is refused again and again loses its own, not those of others. */
static void make_room(uffd_pager *pager, int32_t process) {
  struct uffd_refused **oldest = NULL;
  if (process != 0 && count_kept(pager, process, &oldest) < uffd_share_of_process(pager, KEPT_MAX)) oldest = NULL;
  if (oldest == NULL && count_kept(pager, 0, &oldest) < KEPT_MAX) return;
  if (oldest == NULL || !can_poison()) return; /* check_fds() of client.c counts them */
  poison(pager, &(*oldest)->handshake);
  uffd_keep_drop_refused(pager, (*oldest)->number);
  free_refused(pager, oldest);
}

static bool kill_owner(uffd_pager *pager, const struct uffd_handshake *handshake) {
  struct uffd_look look = {.kind = UFFD_LOOK_KILL, .fd = handshake->pidfd, .pid = handshake->pid};
  if (handshake->pidfd < 0 || handshake->regions_count == 0) return false;
  look.count = (uint32_t)min_u64(handshake->regions_count, UFFD_LOOK_REGIONS);
  memcpy(look.regions, handshake->regions, look.count * sizeof(*look.regions));
  return uffd_looker_ask(pager, &look, NULL);
}

static void link_in(uffd_pager *pager, struct uffd_refused *refused) {
  refused->next = pager->refused_list;
  pager->refused_list = refused;
  pager->refused_kept++;
  pager->refused_step = CHECK_MIN_NS;
  pager->refused_ns = uffd_now() + CHECK_MIN_NS;
}

void uffd_refused_hold(uffd_pager *pager, int object_fd) {
  struct uffd_handshake handshake = UFFD_HANDSHAKE_INIT;
  handshake.object_fd = object_fd;
  (void)uffd_refused_keep(pager, &handshake, false);
  uffd_looker_close(pager, &handshake.object_fd);
  uffd_handshake_release(&handshake);
}

void uffd_refused_adopt(uffd_pager *pager, uint64_t number, int object_fd) {
  struct uffd_refused *refused = object_fd >= 0 ? NEW(struct uffd_refused) : NULL;
  if (refused == NULL) return; /* the service manager has it too */
  *refused = (struct uffd_refused){.number = number, .handshake = UFFD_HANDSHAKE_INIT};
  refused->handshake.object_fd = object_fd;
  pager->last_refused = max_u64(pager->last_refused, number);
  link_in(pager, refused);
}

const char *uffd_refused_keep(uffd_pager *pager, struct uffd_handshake *handshake, bool told) {
  uffd_object *object = handshake->object_fd >= 0 ? adopt(handshake) : NULL;
  if (object == NULL) return "";
  uffd_close(object);
  bool killed = !told && pager->opts.on_crash == UFFD_PAGER_KILL && kill_owner(pager, handshake);
  if (uffd_client_has(pager, handshake->object_fd)) { /* handed over once more: it is served on, and never poisoned */
    uffd_looker_close(pager, &handshake->object_fd);
    return killed ? " It is killed if the memory is its own." : "";
  }
  make_room(pager, handshake->asker);
  struct uffd_refused *refused = NEW(struct uffd_refused);
  if (refused == NULL) {
    if (!can_poison()) {
      handshake->object_fd = -1; /* never closed */
      return " It sleeps at its next missing page: nobody answers.";
    }
    poison(pager, handshake);
    uffd_looker_close(pager, &handshake->object_fd);
    return " Its missing pages are poisoned.";
  }
  refused->handshake = *handshake;
  *handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
  uffd_close_foreign(refused->handshake.fds, refused->handshake.fds_count);
  refused->told = told;
  refused->number = ++pager->last_refused;
  link_in(pager, refused);
  uffd_keep_refused(pager, refused->number, refused->handshake.object_fd);
  return killed ? " It is killed if the memory is its own, and sleeps at its next missing page if not."
         : told ? ""
                : " It sleeps at its next missing page: nobody answers.";
}

/* The looker says whether its memory is gone. */
static void looked(uffd_pager *pager, const struct uffd_look *look, const struct uffd_seen *seen) {
  struct uffd_refused **at = &pager->refused_list;
  while (*at != NULL && (*at)->number != look->owner) {
    at = &(*at)->next;
  }
  if (*at == NULL) return;
  (*at)->asked = false;
  if (seen->result != 1) return;
  uffd_keep_drop_refused(pager, (*at)->number);
  free_refused(pager, at);
}

void uffd_refused_check(uffd_pager *pager, uint64_t now) {
  if (pager->refused_list == NULL || now < pager->refused_ns) return;
  for (struct uffd_refused *refused = pager->refused_list; refused != NULL; refused = refused->next) {
    struct uffd_look look = {
        .kind = UFFD_LOOK_GONE, .fd = refused->handshake.object_fd, .count = 1, .owner = refused->number};
    look.regions[0].address = UFFD_ANY_ADDRESS;
    if (!refused->asked) refused->asked = uffd_looker_ask(pager, &look, looked);
  }
  pager->refused_step = min_u64(2 * pager->refused_step, CHECK_MAX_NS);
  pager->refused_ns = now + pager->refused_step;
}

uint64_t uffd_refused_due(const uffd_pager *pager) {
  return pager->refused_list != NULL ? pager->refused_ns : UINT64_MAX;
}

void uffd_refused_leave(uffd_pager *pager) {
  bool poisons = can_poison();
  for (const struct uffd_refused *refused = pager->refused_list; refused != NULL; refused = refused->next) {
    const struct uffd_handshake *handshake = &refused->handshake;
    if (refused->told) continue;
    if (poisons && handshake->regions_count != 0) {
      poison(pager, handshake);
    } else {
      hold_on(pager, handshake);
    }
  }
}

void uffd_refused_forget(uffd_pager *pager) {
  while (pager->refused_list != NULL) {
    free_refused(pager, &pager->refused_list);
  }
}
