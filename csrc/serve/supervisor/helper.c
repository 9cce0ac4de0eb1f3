/*
 * Helper processes: forked, heard once, reaped.
 */
#include "serve/supervisor/helper.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct uffd_helper {
  struct uffd_helper *next;
  struct uffd_helper_work work;
  struct uffd_poll exit;
  int channel, pidfd;
  uint64_t deadline_ns; /* UINT64_MAX: none, or it has passed */
  bool told;            /* the work has failed already: only its process is waited for */
};

_Noreturn static void work_here(const struct uffd_helper_work *work, int channel) {
  struct uffd_message message = {0};
  int fds[UFFD_MESSAGE_FDS];
  uffd_close_all_but(channel, work->keep_fd >= 3 ? work->keep_fd : channel);
  if (work->timeout_ns != 0) (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody would notice that it hangs */
  int result = work->run(work->ctx, &message, fds);
  if (result < 0) {
    message = (struct uffd_message){.error = -result};
    snprintf(message.text, sizeof(message.text), "%s", uffd_errmsg());
  }
  _exit(uffd_channel_send(channel, &message, fds, message.fds_count, true) < 0 ? 1 : 0);
}

static void free_helper(struct uffd_helper *helper) {
  uffd_close_fds(&helper->channel, 1);
  uffd_close_fds(&helper->pidfd, 1);
  DELETE(helper);
}

static void tell(uffd_pager *pager, struct uffd_helper *helper, const struct uffd_message *message, int *fds) {
  helper->told = true;
  helper->work.done(pager, helper->work.ctx, message, fds);
  if (helper->work.forget != NULL) helper->work.forget(helper->work.ctx);
  uffd_close_fds(fds, UFFD_MESSAGE_FDS);
}

/* It has ended: its answer lies in the channel. */
static void ended(uffd_pager *pager, void *owner) {
  struct uffd_helper *helper = owner, **at = &pager->helpers;
  struct uffd_message message;
  siginfo_t status;
  int fds[UFFD_MESSAGE_FDS];
  memset(fds, -1, sizeof(fds));
  if (helper->told) {
    message.kind = 0;
  } else if (uffd_channel_receive(helper->channel, &message, fds) != 1) {
    memset(fds, -1, sizeof(fds));
    message = (struct uffd_message){.error = ECHILD, .text = "The process that was to do it has died."};
  }
  uffd_poll_drop(pager, helper->pidfd);
  (void)waitid((idtype_t)P_PIDFD, (id_t)helper->pidfd, &status, WEXITED | WNOHANG);
  while (*at != helper) {
    at = &(*at)->next;
  }
  *at = helper->next;
  if (!helper->told) tell(pager, helper, &message, fds);
  free_helper(helper);
}

/* A process that waits for a disk may not die of it: its work has failed all the same. */
void uffd_helpers_check(uffd_pager *pager, uint64_t now) {
  for (struct uffd_helper *helper = pager->helpers; helper != NULL; helper = helper->next) {
    if (helper->deadline_ns > now) continue;
    struct uffd_message message = {.error = ETIMEDOUT};
    int fds[UFFD_MESSAGE_FDS];
    memset(fds, -1, sizeof(fds));
    snprintf(message.text, sizeof(message.text), "It was not done within %" PRIu64 " ms, and is given up.",
             helper->work.timeout_ns / 1000000);
    helper->deadline_ns = UINT64_MAX;
    (void)syscall(SYS_pidfd_send_signal, helper->pidfd, SIGKILL, NULL, 0);
    tell(pager, helper, &message, fds);
  }
}

uint64_t uffd_helpers_due(const uffd_pager *pager) {
  uint64_t due = UINT64_MAX;
  for (const struct uffd_helper *helper = pager->helpers; helper != NULL; helper = helper->next) {
    due = min_u64(due, helper->deadline_ns);
  }
  return due;
}

static int poll_helper(uffd_pager *pager, struct uffd_helper *helper, int pid) {
  helper->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (helper->pidfd < 0) return fail(errno, "No descriptor for a helper's process: %s.", strerror(errno));
  return uffd_poll_add(pager, helper->pidfd, &helper->exit);
}

int uffd_helper_start(uffd_pager *pager, const struct uffd_helper_work *work) {
  int ends[2];
  struct uffd_helper *helper = NEW(struct uffd_helper);
  if (helper == NULL) return fail(ENOMEM, "No memory for a helper.");
  *helper = (struct uffd_helper){.work = *work, .channel = -1, .pidfd = -1, .deadline_ns = UINT64_MAX};
  if (work->timeout_ns != 0) helper->deadline_ns = uffd_now() + work->timeout_ns;
  helper->exit = (struct uffd_poll){.ready = ended, .owner = helper};
  int result = uffd_channel_open(ends);
  if (result == 0) {
    int pid = (int)fork();
    if (pid == 0) work_here(work, ends[1]);
    helper->channel = ends[0];
    close(ends[1]);
    result = pid < 0 ? fail(errno, "No process for a helper: %s.", strerror(errno)) : poll_helper(pager, helper, pid);
  }
  if (result < 0) {
    free_helper(helper);
    return result;
  }
  helper->next = pager->helpers;
  pager->helpers = helper;
  return 0;
}

void uffd_helpers_forget(uffd_pager *pager) {
  while (pager->helpers != NULL) {
    struct uffd_helper *helper = pager->helpers;
    pager->helpers = helper->next;
    if (!helper->told && helper->work.forget != NULL) helper->work.forget(helper->work.ctx);
    bool stops = helper->work.timeout_ns != 0 && pager->pid == getpid(); /* nobody needs its answer any more */
    if (stops) (void)syscall(SYS_pidfd_send_signal, helper->pidfd, SIGKILL, NULL, 0);
    free_helper(helper);
  }
}
