/*
 * libuffd-preload.so, which "uffd-lua run" puts before the libraries of a program that knows nothing of userfaultfd. It
 * watches the program's calls of mmap, registers the mappings that the user named, and hands them to a pager in
 * Firecracker's format. This room is alone: libc only, and nothing of the other rooms but the kernel's numbers.
 *
 * mmap may be called in a signal handler, and in the child of a fork in a program with threads. So nothing here
 * allocates, uses stdio or waits for a lock of libc. The one lock of this library is held with signals blocked, by a
 * thread that cannot be cancelled; a forked child has it afresh.
 *
 *   say.c       messages on stderr, and text without stdio
 *   match.c     the mappings that the user named
 *   mapping.c   what a mapping is, and why it cannot be served
 *   handover.c  the userfaultfd, registering, and the pager's socket
 *   wrap.c      the functions that the program calls instead of libc's
 */
#ifndef UFFD_PRELOAD_H
#define UFFD_PRELOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define UFFD_MATCHES_MAX 16
#define UFFD_NAME_MAX    256

/* Exit codes, as uffd-lua has them. */
#define UFFD_PRELOAD_FAILED  1
#define UFFD_PRELOAD_LACKING 77

/* Text: %s a string, %u a uint64_t, %x the same in hexadecimal, %e an int that is an errno */

size_t uffd_preload_format(char *text, size_t size, const char *format, ...);
void uffd_preload_say(const char *format, ...);
_Noreturn void uffd_preload_die(int code, const char *format, ...);

/* A mapping */

struct uffd_mapping {
  uint64_t address, length; /* bytes, whole pages */
  uint64_t page_size;
  uint64_t file_offset, device, inode; /* of what is mapped; 0 for anonymous memory */
  int prot, flags, fd;
  char name[UFFD_NAME_MAX]; /* of the memfd, the path of the file, or "" */
};

/* Fills in the name and the page size; NULL, or why a pager cannot serve it. */
const char *uffd_mapping_describe(struct uffd_mapping *mapping);
/* Does the file of one begin where that of the other has bytes? */
bool uffd_mapping_overlaps(const struct uffd_mapping *one, const struct uffd_mapping *other);
/* After it is mapped: NULL, or why its pages cannot come from a pager. */
const char *uffd_mapping_check(const struct uffd_mapping *mapping);

/* What the user named */

struct uffd_match {
  /* set once */
  uint64_t size;      /* bytes; 0: any */
  uint64_t low, high; /* the mapping lies within; both 0: anywhere */
  uint64_t offset;    /* where its memory begins in the image */
  bool has_offset;    /* else behind the match before this one */
  uint32_t order;     /* of the mappings that fit, the one to take, from 1; 0: the first that nobody else took */
  char name[UFFD_NAME_MAX];
  /* changes, under the lock */
  uint32_t seen; /* mappings that fit */
  bool taken;
  bool moved; /* or unmapped in part: its address is no longer known */
  struct uffd_mapping mapping;
};

/* Reads UFFD_PRELOAD_MEMORY. */
unsigned uffd_matches_read(const char *text, struct uffd_match *matches);
/* True if the match may name this mapping. Before it is mapped, its address is not compared. */
bool uffd_match_fits(const struct uffd_match *match, const struct uffd_mapping *mapping, bool mapped);

/* Handing over */

/* Makes the userfaultfd; it stays open, so that missing pages never turn into zeros. Does not return on failure. */
int uffd_preload_open(bool *forks);
void uffd_preload_register(int object, const struct uffd_mapping *mapping);
/* Is it still registered, by this object? */
bool uffd_preload_is_registered(int object, const struct uffd_mapping *mapping);
void uffd_preload_unregister(int object, const struct uffd_mapping *mapping);
/* Connects to the pager. The socket stays open, and shows the pager that this process lives. */
int uffd_preload_connect(const char *path);
/* Sends all matches and the userfaultfd. Does not return on failure, and when the pager refuses and says so in time. */
void uffd_preload_send(int object, int socket, const struct uffd_match *matches, unsigned count, bool answered);

#endif
