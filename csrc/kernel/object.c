/*
 * The life of an object: it is made, entered and left by calls, and closed. Closing lets no new call in, makes the
 * calls inside return, and closes the descriptor last, so that no call uses a newer file with the same number.
 */
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kernel/object.h"

#define CLOSING 0x80000000u

void uffd_object_init(struct uffd_object *object) {
  object->fd = -1;
  object->wake_fd = -1;
  object->process = uffd_process();
  pthread_mutex_init(&object->reading, NULL);
  pthread_mutex_init(&object->registering, NULL);
}

struct uffd_object *uffd_object_new(void) {
  struct uffd_object *object = NEW(struct uffd_object);
  if (object != NULL) {
    uffd_object_init(object);
  } else {
    fail(ENOMEM, "No memory for a userfaultfd object.");
  }
  return object;
}

void uffd_object_free(struct uffd_object *object) {
  int wake_fd = atomic_load(&object->wake_fd);
  if (object->fd >= 0) close(object->fd);
  if (wake_fd >= 0) close(wake_fd);
  uffd_leave_nursery(object->nursery);
  uffd_spans_unmap(&object->spans);
  pthread_mutex_destroy(&object->reading);
  pthread_mutex_destroy(&object->registering);
  if (object->home != NULL) {
    uffd_leave_nursery(object->home);
  } else {
    DELETE(object);
  }
}

static int check_process(const struct uffd_object *object) {
  if (object == NULL) return fail(EBADF, "There is no userfaultfd object: the handle is NULL.");
  if (object->process == uffd_process()) return 0;
  return fail(EOWNERDEAD, "This handle belongs to the process that made it: a forked child opens its own.");
}

int uffd_enter(struct uffd_object *object) {
  int rc = check_process(object);
  if (rc < 0) return rc;
  if ((atomic_fetch_add(&object->users, 1) & CLOSING) == 0) return 0;
  uffd_leave(object);
  return fail(EBADF, "The userfaultfd object is closed.");
}

void uffd_leave(struct uffd_object *object) {
  /* uffd_close() may free the object as soon as the count is 0: after that the futex's address is not read. */
  _Atomic uint32_t *users = &object->users;
  if (atomic_fetch_sub(users, 1) == (CLOSING | 1))
    syscall(SYS_futex, users, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

bool uffd_is_closing(const struct uffd_object *object) {
  return (atomic_load(&object->users) & CLOSING) != 0;
}

int uffd_wake_fd(struct uffd_object *object) {
  int present = atomic_load(&object->wake_fd);
  if (present >= 0) return present;
  int made = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (made < 0) return fail(errno, "No descriptor to wait with: %s.", strerror(errno));
  if (atomic_compare_exchange_strong(&object->wake_fd, &present, made)) return made;
  close(made);
  return present;
}

static void wait_for_users(struct uffd_object *object) {
  int wake_fd = atomic_load(&object->wake_fd);
  if (wake_fd >= 0) eventfd_write(wake_fd, 1); /* stays readable, so that every waiting reader returns */
  uint32_t users;
  while ((users = atomic_load(&object->users)) != CLOSING)
    syscall(SYS_futex, &object->users, FUTEX_WAIT_PRIVATE, users, NULL, NULL, 0);
}

void uffd_close(uffd_object *object) {
  if (object == NULL) return;
  if (object->process == uffd_process()) {
    atomic_fetch_or(&object->users, CLOSING);
    /*
     * Unregisters explicitly. Closing the descriptor does it only for the last copy, and a forked child has one (also
     * of the objects of its elder siblings), and so has a call on this object that sleeps on a fault of its own range
     * (a COPY whose source is missing).
     */
    uffd_hold_cancel();
    uffd_drop_spans(object);
    wait_for_users(object);
    uffd_drop_spans(object);
    uffd_object_free(object);
    uffd_let_cancel();
    return;
  }
  uffd_object_free(object);
}

int uffd_fd(const uffd_object *object) {
  int rc = check_process(object);
  if (rc < 0) return rc;
  return uffd_is_closing(object) ? fail(EBADF, "The userfaultfd object is closed.") : object->fd;
}

uint64_t uffd_features(const uffd_object *object) {
  return check_process(object) < 0 ? 0 : object->features;
}

uint64_t uffd_available(const uffd_object *object) {
  return check_process(object) < 0 ? 0 : object->available;
}

int uffd_route(const uffd_object *object) {
  int rc = check_process(object);
  return rc < 0 ? rc : (int)object->route;
}

int uffd_user_mode_only(const uffd_object *object) {
  int rc = check_process(object);
  return rc < 0 ? rc : object->user_mode_only;
}
