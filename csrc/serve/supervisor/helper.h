/*
 * Helpers: processes that do for the supervisor what may have to wait for a disk. Each does one thing, and its answer
 * is a message like those of workers.
 */
#ifndef UFFD_SERVE_HELPER_H
#define UFFD_SERVE_HELPER_H

#include "serve/paper/channel.h"
#include "uffd_pager.h"

struct uffd_helper_work {
  /*
   * In the helper, which has the supervisor's memory as it is now, and of its descriptors only keep_fd (-1: none).
   * Returns 0, or -errno with a sentence; message and fds (their count in message->fds_count) are its answer.
   */
  int (*run)(void *ctx, struct uffd_message *message, int *fds);
  /* In the supervisor. message->error is not 0: it has failed, and why. Descriptors that are kept become -1. */
  void (*done)(uffd_pager *pager, void *ctx, const struct uffd_message *message, int *fds);
  void (*forget)(void *ctx); /* frees ctx; NULL: nothing to free */
  void *ctx;
  int keep_fd;
  uint64_t timeout_ns; /* after which it is killed and has failed; 0: none */
};

/* -errno with a sentence: it could not be started, and ctx is the caller's. */
int uffd_helper_start(uffd_pager *pager, const struct uffd_helper_work *work);
void uffd_helpers_check(uffd_pager *pager, uint64_t now); /* kills those whose time is over */
uint64_t uffd_helpers_due(const uffd_pager *pager);       /* when the next one's is; UINT64_MAX: never */
/* Those without a time limit are left alone, others are killed. */
void uffd_helpers_forget(uffd_pager *pager);

#endif
