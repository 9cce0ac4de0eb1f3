/*
 * A backing: an image that the supervisor has opened once, a file or a chain of layers. The descriptors of its files,
 * their stamps and identities travel to the workers, so that a file that is put in the place of one later cannot be
 * taken for it.
 */
#ifndef UFFD_SERVE_BACKING_H
#define UFFD_SERVE_BACKING_H

#include "resolver/checked.h"
#include "serve/paper/channel.h"

struct uffd_criu;

/* A file of it; of a dump, its directory. */
struct uffd_backing_file {
  int fd;
  int sidecar_fd; /* of its index; -1: none */
  struct uffd_stamp stamp;
  uint32_t leased;      /* 1: who opens it for writing waits until the lease is given back: fcntl(2), F_SETLEASE */
  uint32_t sealed;      /* 1: it cannot be written: fcntl(2), F_SEAL_WRITE */
  uint32_t indexed;     /* 1: it has a sidecar */
  uint32_t remote;      /* 1: it lies elsewhere, and fd is a sealed file that holds its URI, which may have secrets */
  unsigned char id[32]; /* of a layer with an index; else zeros */
  char path[256];
};

struct uffd_backing {
  uint64_t number; /* 1, 2, ... in the order of opening */
  uint64_t length, identity;
  uint32_t count;   /* of its files */
  uint32_t layered; /* 1: libuffd-image reads it; 0: one file, which is the contents themselves, or a dump */
  struct uffd_backing_file *files; /* the lowest layer first */
  int list_fd;                     /* files, for other processes */
  int replay_fd;                   /* of the working set that is replayed; -1: none */
  int shared_fd;          /* memfd of the pages that clients share: see uffd_common_create(); -1: they share none */
  uint64_t token;         /* of shared_fd, by which a client that comes with memory of it names it; 0: none */
  struct uffd_criu *dump; /* of CRIU, read on this side; NULL: it is none */
  char name[256];
};

enum uffd_backing_state {
  UFFD_BACKING_INTACT,
  UFFD_BACKING_WANTED, /* somebody waits to open it for writing; its contents are still there */
  UFFD_BACKING_CHANGED
};

/*
 * Opens an image. paths: up to NULL, the lowest layer first; at least one. A single directory is a dump of CRIU.
 * Errors: those of uffd_resolver_file(), uffd_image_open(), uffd_criu_open() and uffd_image_identity(); -ENOSYS layers,
 * and uffd was built without images; -ESTALE it was changed meanwhile.
 */
int uffd_backing_open(const char *const *paths, struct uffd_backing *backing);
/* System calls, one or two a file. Any thread. */
enum uffd_backing_state uffd_backing_look(const struct uffd_backing *backing);
enum uffd_backing_state uffd_backing_look_at(const struct uffd_backing_file *file);
/* Nobody can change it without our being told first. */
bool uffd_backing_is_safe(const struct uffd_backing_file *file);
/* Are both the same files, unchanged since? */
bool uffd_backing_same(const struct uffd_backing *backing, const struct uffd_backing *other);
/* Clients may share its pages from now on. */
int uffd_backing_share(struct uffd_backing *backing);
uint64_t uffd_backing_shared_length(const struct uffd_backing *backing); /* bytes, whole pages */
void uffd_backing_yield(struct uffd_backing *backing); /* gives back the leases: who waits to write goes on */
void uffd_backing_close(struct uffd_backing *backing);

/* The message that hands it to a worker, UFFD_SAY_IMAGE, with its descriptors (UFFD_MESSAGE_FDS fit); their count. */
uint32_t uffd_backing_write(const struct uffd_backing *backing, struct uffd_message *message, int *fds);
/* The same on the other side; takes the descriptors. -EMFILE one is missing; -EPROTO; -ENOMEM. */
int uffd_backing_read(const struct uffd_message *message, int *fds, struct uffd_backing *backing);

#endif
