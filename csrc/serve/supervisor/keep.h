/*
 * What must outlast the supervisor: copies of its descriptors in the store of the service manager, by the protocol of
 * sd_notify(3). The manager is systemd, or the keeper of this library; the next supervisor gets them back: see adopt.h.
 */
#ifndef UFFD_SERVE_KEEP_H
#define UFFD_SERVE_KEEP_H

#include "serve/supervisor/client.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/poll.h"

#define UFFD_KEEP_NAME 64u /* bytes of the name of a descriptor that is kept */

struct uffd_errand;

struct uffd_keep {
  int fd;                      /* connected to the manager; -1: nothing is kept */
  struct uffd_errand *errands; /* that did not fit yet, the oldest first */
  uint64_t put_off, caught_up; /* errands so far, and those of them that have been sent */
  uint64_t retry_ns;           /* when to try them again */
  struct uffd_poll room;       /* the manager takes messages again */
  uint64_t stored, limit;      /* descriptors; limit 0: not known */
  bool reported;               /* that the manager cannot be had */
};

/* Connects to the manager if the options say so. -EINVAL there is none; those of socket(2) and connect(2). */
int uffd_keep_open(uffd_pager *pager);
void uffd_keep_close(uffd_pager *pager);

/* All of these queue what the manager does not take at once. A client is told that it is served when all is taken that
 * was given before: uffd_keep_taken(). */
void uffd_keep_client(uffd_pager *pager, const struct uffd_supervised *client);
void uffd_keep_process(uffd_pager *pager, const struct uffd_supervised *client); /* its pidfd was found later */
void uffd_keep_image(uffd_pager *pager, const struct uffd_image *image);
void uffd_keep_refused(uffd_pager *pager, uint64_t number, int object_fd);
void uffd_keep_drop_client(uffd_pager *pager, const struct uffd_supervised *client);
void uffd_keep_drop_image(uffd_pager *pager, const struct uffd_image *image);
void uffd_keep_drop_refused(uffd_pager *pager, uint64_t number);
void uffd_keep_socket(uffd_pager *pager, const char *name, int fd);
void uffd_keep_drop_socket(uffd_pager *pager, const char *name);
/* What was adopted is in the store already. */
void uffd_keep_count(uffd_pager *pager, uint64_t stored);

/* What was given so far has this number; does the manager have all that was given up to it? */
uint64_t uffd_keep_given(const uffd_pager *pager);
bool uffd_keep_taken(const uffd_pager *pager, uint64_t number);
/* The manager has taken nothing for so long that clients are told before it does. */
void uffd_keep_complain(uffd_pager *pager, uint32_t waited_ms);

void uffd_keep_push(uffd_pager *pager, uint64_t now); /* tries what did not fit */
uint64_t uffd_keep_due(const uffd_pager *pager);      /* when to try again; UINT64_MAX: never */

#endif
