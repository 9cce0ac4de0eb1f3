/*
 * Opening an object: the order in which the ways are tried.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "kernel/create.h"
#include "kernel/names.h"
#include "kernel/object.h"

#define KNOWN_FLAGS (UFFD_OPEN_BLOCKING | UFFD_OPEN_USER_MODE_ONLY | UFFD_OPEN_NO_USER_MODE_ONLY)

static int check_opts(const struct uffd_open_opts *opts) {
  if ((opts->flags & ~(uint32_t)KNOWN_FLAGS) != 0)
    return fail(EINVAL, "Unknown flags %#x: uffd_open() takes UFFD_OPEN_* only.", opts->flags);
  if ((opts->flags & UFFD_OPEN_USER_MODE_ONLY) != 0 && (opts->flags & UFFD_OPEN_NO_USER_MODE_ONLY) != 0)
    return fail(EINVAL, "UFFD_OPEN_USER_MODE_ONLY and UFFD_OPEN_NO_USER_MODE_ONLY exclude each other: choose one.");
  if (opts->route > UFFD_ROUTE_DEVICE)
    return fail(EINVAL, "Unknown route %u: use UFFD_ROUTE_AUTO, _SYSCALL or _DEVICE.", opts->route);
  return 0;
}

/* The sentence for a descriptor that could not be made. */
static int explain_creation(const struct uffd_open_opts *opts, int error, bool user_mode_only) {
  switch (error) {
  case EMFILE:
    return fail(EMFILE, "No file descriptor is free in this process: close some, or raise \"ulimit -n\".");
  case ENFILE:
    return fail(ENFILE, "No file descriptor is free in the whole system: raise the sysctl fs.file-max.");
  case ENOMEM:
    return fail(ENOMEM, "The kernel has no memory for a userfaultfd.");
  case EINVAL:
    if (user_mode_only) return fail(EINVAL, "This kernel does not know USER_MODE_ONLY: it needs 5.11 or newer.");
    return fail(EINVAL, "This kernel refuses the flags of a userfaultfd.");
  default:
    break;
  }
  struct uffd_probe facts = {.size = sizeof(facts)};
  char why[640];
  uffd_survey(&facts);
  uffd_explain_refusal(&facts, opts->route, why, sizeof(why));
  return fail(error, "%s", why);
}

/* Tries the ways in order until one is not refused. The first refusal is reported. */
static int create(const struct uffd_open_opts *opts, struct uffd_object *object) {
  static const uint32_t routes[] = {UFFD_ROUTE_SYSCALL, UFFD_ROUTE_DEVICE};
  int refusal = 0;
  int flags = O_CLOEXEC | (object->blocking ? 0 : O_NONBLOCK);
  for (int user_mode_only = 0; user_mode_only <= 1; user_mode_only++) {
    if (user_mode_only == 0 && (opts->flags & UFFD_OPEN_USER_MODE_ONLY) != 0) continue;
    if (user_mode_only == 1 && (opts->flags & UFFD_OPEN_NO_USER_MODE_ONLY) != 0) continue;
    for (size_t i = 0; i < 2; i++) {
      if (opts->route != UFFD_ROUTE_AUTO && opts->route != routes[i]) continue;
      int fd = uffd_create_fd(routes[i], flags | (user_mode_only ? RAW_USER_MODE_ONLY : 0));
      if (fd >= 0) {
        object->fd = fd;
        object->route = routes[i];
        object->user_mode_only = user_mode_only;
        return 0;
      }
      if (!uffd_is_refusal(-fd)) return explain_creation(opts, -fd, user_mode_only);
      if (refusal == 0) refusal = -fd;
    }
  }
  return explain_creation(opts, refusal, false);
}

static int explain_handshake(int error, uint64_t wanted, uint64_t available) {
  uint64_t lacking = wanted & ~available;
  char names[384];
  uffd_list_features(lacking != 0 ? lacking : wanted, names, sizeof(names));
  if (error == EPERM && (wanted & UFFD_FEAT_EVENT_FORK) != 0)
    return fail(EPERM,
                "The feature event_fork needs CAP_SYS_PTRACE in the initial user namespace, whatever the sysctl says: "
                "run with the capability, or ask for the feature as optional.");
  if (error == EINVAL && lacking != 0)
    return fail(EINVAL, "This kernel lacks: %s. Ask for it as optional, or use a newer kernel.", names);
  return fail(error, "The kernel refuses the handshake with the features %s: %s.", names, strerror(error));
}

static int shake_hands(const struct uffd_open_opts *opts, struct uffd_object *object) {
  object->available = uffd_kernel_features();
  uint64_t wanted = opts->features | (opts->optional & object->available);
  uint64_t offered = 0;
  int rc = uffd_handshake(object->fd, wanted, &offered);
  if (rc == -EPERM && (wanted & ~opts->features & UFFD_FEAT_EVENT_FORK) != 0) {
    wanted &= ~UFFD_FEAT_EVENT_FORK;
    rc = uffd_handshake(object->fd, wanted, &offered);
  }
  if (rc < 0) return explain_handshake(-rc, wanted, object->available);
  object->available = offered;
  object->features = wanted;
  /* The kernel sets this bit by itself. */
  if ((wanted & UFFD_FEAT_WP_ASYNC) != 0) object->features |= UFFD_FEAT_WP_UNPOPULATED & offered;
  return 0;
}

int uffd_open(const struct uffd_open_opts *opts, uffd_object **object) {
  struct uffd_open_opts taken = UFFD_OPEN_OPTS_INIT;
  int rc = uffd_take_opts(&taken, sizeof(taken), opts, "uffd_open_opts");
  if (rc == 0) rc = check_opts(&taken);
  if (rc < 0) return rc;
  struct uffd_object *made = uffd_object_new();
  if (made == NULL) return -ENOMEM;
  made->blocking = (taken.flags & UFFD_OPEN_BLOCKING) != 0;
  rc = create(&taken, made);
  if (rc == 0) rc = shake_hands(&taken, made);
  if (rc < 0) {
    uffd_object_free(made);
    return rc;
  }
  *object = made;
  return 0;
}
