/*
 * Those that were refused: their userfaultfds, kept until their memory is gone.
 */
#include "serve/supervisor/refused.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/alive.h"
#include "serve/paper/closer.h"
#include "serve/supervisor/family.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/pager.h"

#define KEPT_MAX     256u                /* beyond it the oldest is poisoned and let go of */
#define CHECK_MIN_NS UINT64_C(100000000) /* the first pause between two checks; doubles up to */
#define CHECK_MAX_NS UINT64_C(1000000000)
#define ANY_ADDRESS  (UINT64_C(1) << 30) /* the kernel looks at the address space first */

struct uffd_refused {
  struct uffd_refused *next; /* an older one */
  uint64_t number;           /* by which the service manager keeps it */
  struct uffd_handshake handshake;
};

static void free_refused(uffd_pager *pager, struct uffd_refused **at) {
  struct uffd_refused *refused = *at;
  *at = refused->next;
  pager->refused_kept--;
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

/* What is missing becomes an error instead of zeros (Linux 6.6). Pages that are there stay. */
static void poison(const struct uffd_handshake *handshake) {
  uffd_object *object = adopt(handshake);
  if (object == NULL) return;
  for (uint32_t i = 0; i < handshake->regions_count; i++) {
    const struct uffd_client_region *region = &handshake->regions[i];
    for (uint64_t at = 0; at < region->length;) {
      uint64_t done = 0;
      int result = uffd_poison(object, region->address + at, region->length - at, 0, &done);
      if (result < 0 && result != -EEXIST && result != -EAGAIN) break;
      at += done != 0 ? done : region->page_size;
    }
  }
  uffd_close(object);
}

static void make_room(uffd_pager *pager) {
  if (pager->refused_kept < KEPT_MAX) return;
  struct uffd_refused **at = &pager->refused_list;
  while ((*at)->next != NULL) {
    at = &(*at)->next;
  }
  poison(&(*at)->handshake);
  uffd_keep_drop_refused(pager, (*at)->number);
  free_refused(pager, at);
}

static bool kill_owner(const struct uffd_handshake *handshake) {
  if (handshake->pidfd < 0 || handshake->regions_count == 0) return false;
  if (!uffd_family_owns(handshake->pid, handshake->regions, handshake->regions_count)) return false;
  return syscall(SYS_pidfd_send_signal, handshake->pidfd, SIGKILL, NULL, 0) == 0;
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
  (void)uffd_refused_keep(pager, &handshake, true);
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
  bool killed = !told && pager->opts.on_crash == UFFD_PAGER_KILL && kill_owner(handshake);
  make_room(pager);
  struct uffd_refused *refused = NEW(struct uffd_refused);
  if (refused == NULL) {
    poison(handshake);
    return " Its missing pages are poisoned.";
  }
  refused->handshake = *handshake;
  *handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
  uffd_close_foreign(refused->handshake.fds, refused->handshake.fds_count);
  refused->number = ++pager->last_refused;
  link_in(pager, refused);
  uffd_keep_refused(pager, refused->number, refused->handshake.object_fd);
  return killed ? " It is killed." : told ? "" : " It sleeps at its next missing page: nobody answers.";
}

void uffd_refused_check(uffd_pager *pager, uint64_t now) {
  if (pager->refused_list == NULL || now < pager->refused_ns) return;
  struct uffd_refused **at = &pager->refused_list;
  while (*at != NULL) {
    if (uffd_memory_gone((*at)->handshake.object_fd, ANY_ADDRESS)) {
      uffd_keep_drop_refused(pager, (*at)->number);
      free_refused(pager, at);
    } else {
      at = &(*at)->next;
    }
  }
  pager->refused_step = min_u64(2 * pager->refused_step, CHECK_MAX_NS);
  pager->refused_ns = now + pager->refused_step;
}

uint64_t uffd_refused_due(const uffd_pager *pager) {
  return pager->refused_list != NULL ? pager->refused_ns : UINT64_MAX;
}

void uffd_refused_forget(uffd_pager *pager) {
  while (pager->refused_list != NULL) {
    free_refused(pager, &pager->refused_list);
  }
}
