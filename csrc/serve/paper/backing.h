/*
 * A backing file: an image that the supervisor has opened once. Its descriptor, length, identity and stamp travel to
 * the workers, so that a file that is put in its place later cannot be taken for it.
 */
#ifndef UFFD_SERVE_BACKING_H
#define UFFD_SERVE_BACKING_H

#include "resolver/checked.h"
#include "serve/paper/channel.h"

struct uffd_backing {
  uint64_t number; /* 1, 2, ... in the order of opening */
  uint64_t length, identity;
  struct uffd_stamp stamp;
  bool leased; /* who opens it for writing waits until the lease is given back: fcntl(2), F_SETLEASE */
  bool sealed; /* it cannot be written: fcntl(2), F_SEAL_WRITE */
  int fd;
  int replay_fd; /* of the working set that is replayed; -1: none */
  char name[256];
};

enum uffd_backing_state {
  UFFD_BACKING_INTACT,
  UFFD_BACKING_WANTED, /* somebody waits to open it for writing; its contents are still there */
  UFFD_BACKING_CHANGED
};

/* Opens an image. Errors: those of uffd_resolver_file() and uffd_image_identity(). */
int uffd_backing_open(const char *path, struct uffd_backing *backing);
enum uffd_backing_state uffd_backing_look(const struct uffd_backing *backing); /* a system call. Any thread */
bool uffd_backing_is_safe(const struct uffd_backing *backing); /* nobody can change it without our being told first */
void uffd_backing_yield(struct uffd_backing *backing);         /* gives back the lease: who waits to write goes on */
void uffd_backing_close(struct uffd_backing *backing);

/* The message that hands it to a worker, UFFD_SAY_IMAGE, with its descriptors; their count. */
uint32_t uffd_backing_write(const struct uffd_backing *backing, struct uffd_message *message, int *fds);
/* The same on the other side; takes the descriptors. -EMFILE one is missing; -EPROTO. */
int uffd_backing_read(const struct uffd_message *message, int *fds, struct uffd_backing *backing);

#endif
