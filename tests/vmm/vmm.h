/*
 * A stand-in for a virtual-machine monitor. It does with plain system calls what Firecracker does when it restores a
 * snapshot, so it shares no code with what it tests. Threads touch its memory, pages are taken away (a balloon), and
 * every byte is compared with the image.
 */
#ifndef UFFD_TESTS_VMM_H
#define UFFD_TESTS_VMM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VMM_REGIONS_MAX 1024
#define VMM_FDS_MAX     32
#define VMM_PIECES_MAX  16

struct vmm_region {
  unsigned char *at; /* NULL: it is only in the list that is sent */
  uint64_t address;  /* what is sent */
  uint64_t length;
  uint64_t offset;
};

struct vmm {
  uint64_t page_size;
  struct vmm_region regions[VMM_REGIONS_MAX];
  unsigned count;
  int uffd;                       /* -1: none yet */
  int socket;                     /* -1: none yet */
  _Atomic unsigned char *removed; /* of each page of the image: 0, 1 while it is removed, 2 afterwards */
};

/* Maps regions of so many pages with gaps between them; in the image they follow each other. 0, or -errno. */
int vmm_map(struct vmm *vmm, uint64_t page_size, const uint64_t *pages, unsigned count);
/*
 * Makes the userfaultfd, O_CLOEXEC and O_NONBLOCK, and registers all regions. features: the kernel's UFFD_FEATURE_*;
 * modes: its UFFDIO_REGISTER_MODE_*. 0, or -errno.
 */
int vmm_register(struct vmm *vmm, uint64_t features, uint64_t modes);
void vmm_unmap(struct vmm *vmm); /* closes everything */
uint64_t vmm_length(const struct vmm *vmm);

/* The handshake */

enum {
  VMM_PAGE_SIZE = 1,     /* the key page_size */
  VMM_PAGE_SIZE_KIB = 2, /* the key page_size_kib */
  VMM_EXTRA_KEYS = 4     /* keys that nobody knows, of every type */
};

struct vmm_message {
  unsigned keys;      /* VMM_PAGE_SIZE, ... */
  unsigned pieces;    /* sends; 0: 1 */
  unsigned fd_piece;  /* the descriptors go with this piece, from 0 */
  unsigned extra_fds; /* memfds behind the userfaultfd */
  bool no_fd;         /* sends none */
  int instead;        /* sent instead of the userfaultfd; 0: not */
  const char *text;   /* sent instead of the list; NULL: the list */
};

/* The list as Firecracker writes it: its length. */
size_t vmm_list(const struct vmm *vmm, unsigned keys, char *text, size_t size);
int vmm_connect(const char *path);                                                         /* a socket, or -errno */
int vmm_send(int socket, const char *text, size_t length, const int *fds, unsigned count); /* 0, or -errno */
/* Sends the list, or what the message says, over vmm->socket; NULL: as Firecracker 1.12 does. 0, or -errno. */
int vmm_hand_over(struct vmm *vmm, const struct vmm_message *message);

/* What the guest does */

struct vmm_work {
  const unsigned char *image;
  uint64_t image_length;
  unsigned threads; /* that touch every page, each in an order of its own; 0: 1 */
  bool in_order;    /* by address instead */
  unsigned one_of;  /* touch only one page in so many, chosen by the seed; 0, 1: all */
  unsigned seed;
  uint64_t removes; /* calls of madvise(MADV_DONTNEED) meanwhile, by a thread of its own, of 1 to 64 pages each */
  bool write;       /* every fourth page is written before it is read, and keeps that; not together with removes */
};

/* Does it, and compares every byte: the number of wrong pages. The first one is named on stderr. */
uint64_t vmm_work(struct vmm *vmm, const struct vmm_work *work);
/* Compares one page: 1 it holds the image's bytes, 2 zeros, 0 something else. */
int vmm_page(const struct vmm *vmm, const struct vmm_work *work, uint64_t offset);
/* Drops pages, by their offset in the image, with madvise(MADV_DONTNEED). */
void vmm_remove(struct vmm *vmm, uint64_t offset, uint64_t length);
/* The address of a byte by its offset in the image. */
unsigned char *vmm_at(const struct vmm *vmm, uint64_t offset);

/* Makes and maps a file of so many bytes for vmm_work: no byte is 0, and all pages differ. NULL: errno. */
const unsigned char *vmm_make_image(const char *path, uint64_t length);
const unsigned char *vmm_open_image(const char *path, uint64_t *length);

#endif
