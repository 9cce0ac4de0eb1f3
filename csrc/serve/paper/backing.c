/*
 * Backing files: opened once, leased where the kernel allows it, looked at otherwise.
 */
#include "serve/paper/backing.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "uffd_pager.h"

#define TICK_NS 20000000 /* the kernel's file times have steps of up to 10 ms */

/* What travels in the message's text. */
struct packed {
  uint64_t length, identity;
  struct uffd_stamp stamp;
  uint32_t leased, sealed;
  char name[256];
};
_Static_assert(sizeof(struct packed) < UFFD_MESSAGE_TEXT, "a backing file fits into a message");

/* The signal that tells of a writer is one that is ignored by default: the lease is looked at instead. */
static bool take_lease(int fd) {
  return fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0;
}

static bool is_sealed(int fd) {
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_WRITE) != 0 && (seals & F_SEAL_SHRINK) != 0 && (seals & F_SEAL_GROW) != 0;
}

/* A change in the same step of the clock would leave the times as they are: let the step pass. */
static void let_times_settle(int fd) {
  struct stat status;
  struct timespec now, step = {.tv_nsec = TICK_NS};
  clock_gettime(CLOCK_REALTIME, &now);
  if (fstat(fd, &status) != 0) return;
  int64_t age = (now.tv_sec - status.st_ctim.tv_sec) * INT64_C(1000000000) + now.tv_nsec - status.st_ctim.tv_nsec;
  if (age < TICK_NS) (void)nanosleep(&step, NULL);
}

static int examine(struct uffd_backing *backing) {
  uffd_resolver *resolver;
  int result = uffd_resolver_file_fd(backing->fd, NULL, &resolver); /* refuses what workers could not serve */
  if (result < 0) return result;
  uffd_resolver_close(resolver);
  backing->sealed = is_sealed(backing->fd);
  backing->leased = !backing->sealed && take_lease(backing->fd);
  if (!uffd_backing_is_safe(backing)) let_times_settle(backing->fd);
  result = uffd_stamp_take(backing->fd, &backing->stamp);
  return result < 0 ? result : uffd_image_identity(backing->fd, &backing->length, &backing->identity);
}

int uffd_backing_open(const char *path, struct uffd_backing *backing) {
  *backing = (struct uffd_backing){.fd = -1, .replay_fd = -1};
  snprintf(backing->name, sizeof(backing->name), "%s", path);
  backing->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe must not wait for its other end */
  if (backing->fd < 0) return fail(errno, "%s: %s.", path, strerror(errno));
  int result = examine(backing);
  if (result == 0) return 0;
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_backing_close(backing);
  return fail(-result, "%s: %s", path, why.text);
}

bool uffd_backing_is_safe(const struct uffd_backing *backing) {
  return backing->leased || backing->sealed;
}

enum uffd_backing_state uffd_backing_look(const struct uffd_backing *backing) {
  if (backing->sealed || (backing->leased && fcntl(backing->fd, F_GETLEASE) == F_RDLCK)) return UFFD_BACKING_INTACT;
  if (!uffd_stamp_holds(backing->fd, &backing->stamp)) return UFFD_BACKING_CHANGED;
  return backing->leased ? UFFD_BACKING_WANTED : UFFD_BACKING_INTACT;
}

void uffd_backing_yield(struct uffd_backing *backing) {
  if (backing->leased) (void)fcntl(backing->fd, F_SETLEASE, F_UNLCK);
}

void uffd_backing_close(struct uffd_backing *backing) {
  uffd_close_fds(&backing->fd, 1);
  uffd_close_fds(&backing->replay_fd, 1);
}

uint32_t uffd_backing_write(const struct uffd_backing *backing, struct uffd_message *message, int *fds) {
  struct packed packed = {.length = backing->length,
                          .identity = backing->identity,
                          .stamp = backing->stamp,
                          .leased = backing->leased,
                          .sealed = backing->sealed};
  memcpy(packed.name, backing->name, sizeof(packed.name));
  *message = (struct uffd_message){.kind = UFFD_SAY_IMAGE, .number = backing->number};
  memcpy(message->text, &packed, sizeof(packed));
  fds[0] = backing->fd;
  fds[1] = backing->replay_fd;
  return backing->replay_fd >= 0 ? 2 : 1;
}

int uffd_backing_read(const struct uffd_message *message, int *fds, struct uffd_backing *backing) {
  struct packed packed;
  *backing = (struct uffd_backing){.number = message->number, .fd = -1, .replay_fd = -1};
  if (message->fds_count < 1 || message->fds_count > 2) return fail(EPROTO, "An image came without its descriptor.");
  for (uint32_t i = 0; i < message->fds_count; i++) {
    if (fds[i] < 0) return fail(EMFILE, "A worker has no descriptors left for an image: raise its limit (ulimit -n).");
  }
  memcpy(&packed, message->text, sizeof(packed));
  backing->length = packed.length;
  backing->identity = packed.identity;
  backing->stamp = packed.stamp;
  backing->leased = packed.leased != 0;
  backing->sealed = packed.sealed != 0;
  memcpy(backing->name, packed.name, sizeof(backing->name));
  backing->name[sizeof(backing->name) - 1] = '\0';
  backing->fd = fds[0];
  fds[0] = -1;
  if (message->fds_count == 2) {
    backing->replay_fd = fds[1];
    fds[1] = -1;
  }
  return 0;
}
