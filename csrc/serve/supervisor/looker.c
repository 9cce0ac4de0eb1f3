/*
 * The looker: its process, and what it was asked and has not answered yet.
 */
#include "serve/supervisor/looker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/door/owner.h"
#include "serve/paper/alive.h"
#include "serve/paper/channel.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/family.h"
#include "serve/supervisor/pager.h"

#define PATIENCE_NS    UINT64_C(1000000000) /* for one answer */
#define RETRY_NS       UINT64_C(100000000)  /* when no process can be had */
#define STUCK_MAX      32u                  /* lookers that are left alone; then the next one is waited for */
#define LEAVE_MS       1000
#define UNMAPPED_PAGES UINT64_C(65536) /* that one look looks at: some 50 ms */

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* What is asked. */
struct uffd_question {
  struct uffd_question *next;
  struct uffd_look look;
  uffd_seen_fn *seen;
};

struct uffd_looker {
  struct uffd_looker *next;
  struct uffd_question *question; /* what it does now; NULL: nothing */
  uint64_t since_ns;              /* that it does it */
  struct uffd_poll exit, said;
  int channel, pidfd;
  bool holds; /* it does not end with the supervisor */
};

_Static_assert(sizeof(struct uffd_look) <= UFFD_MESSAGE_TEXT, "a look fits into a message");

/* ---- in the looker */

static int poison(const struct uffd_look *look, int fd) {
  uffd_object *object;
  if (uffd_adopt(fd, &object) < 0) return 0;
  for (uint32_t i = 0; i < look->count; i++) {
    const struct uffd_client_region *region = &look->regions[i];
    for (uint64_t at = 0; at < region->length;) {
      uint64_t done = 0;
      int result = uffd_poison(object, region->address + at, region->length - at, 0, &done);
      if (result < 0 && result != -EEXIST && result != -EAGAIN) break;
      at += done != 0 ? done : region->page_size;
    }
  }
  return 1; /* the object ends with the descriptor */
}

static int kill_owner(const struct uffd_look *look, int pidfd) {
  if (!uffd_family_owns(look->pid, look->regions, look->count)) return 0;
  return syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0;
}

/* Without events of moved mappings: a moved one would not be found where it was. */
static bool stays(int object_fd) {
  uffd_object *object = NULL;
  int fd = fcntl(object_fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0 || uffd_adopt(fd, &object) < 0) {
    uffd_close_fds(&fd, 1);
    return false;
  }
  bool stays = (uffd_features(object) & UFFD_FEAT_EVENT_REMAP) == 0;
  uffd_close(object);
  return stays;
}

static uint64_t count_unmapped(const struct uffd_look *look, int fd) {
  const struct uffd_client_region *region = &look->regions[0];
  uint64_t bytes = 0, most = min_u64(region->length, UNMAPPED_PAGES * region->page_size);
  if (!stays(fd)) return 0;
  while (bytes < most && uffd_page_unregistered(fd, region->address + bytes, region->page_size)) {
    bytes += region->page_size;
  }
  return bytes;
}

static void find_owner(const struct uffd_look *look, int fd, int pidfd, struct uffd_message *answer, int *found) {
  int pid = uffd_owner_find(&look->named, look->pid, fd, &pidfd);
  *found = look->named.by_pidfd ? -1 : pidfd; /* the supervisor has the pidfd that came */
  if (pid < 0) {
    answer->error = -pid;
    snprintf(answer->text, sizeof(answer->text), "%s", uffd_errmsg());
    return;
  }
  answer->number = 1;
  answer->fds_count = *found >= 0;
  memcpy(answer->text, &pid, sizeof(pid));
}

static void look_here(const struct uffd_look *look, int fd, int other, struct uffd_message *answer, int *fds) {
  int32_t pids[UFFD_LOOK_FOUND];
  switch (look->kind) {
  case UFFD_LOOK_GONE:
    answer->number = uffd_memory_gone(fd, look->regions[0].address);
    break;
  case UFFD_LOOK_KILL:
    answer->number = (uint64_t)kill_owner(look, fd);
    break;
  case UFFD_LOOK_CHILD:
    answer->fds_count =
        uffd_family_children(look->pid, look->ticks, look->regions[0].address, UFFD_LOOK_FOUND, pids, fds);
    memcpy(answer->text, pids, sizeof(pids));
    break;
  case UFFD_LOOK_UNMAPPED:
    answer->number = count_unmapped(look, fd);
    break;
  case UFFD_LOOK_OWNER:
    find_owner(look, fd, other, answer, fds);
    break;
  case UFFD_LOOK_POISON:
    answer->number = (uint64_t)poison(look, fd);
    break;
  default:
    break;
  }
}

/* The supervisor has ended. Missing pages must not become zeros: this process is there as long as their memory is. */
_Noreturn static void hold_on(void) {
  (void)prctl(PR_SET_NAME, "uffd-hold");
  uffd_hold_objects();
  _exit(0);
}

/* What a terminal or a service manager sends to all processes is meant for the supervisor. */
static void ignore_signals(void) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGUSR1, SIGUSR2};
  for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++) {
    (void)signal(signals[i], SIG_IGN);
  }
}

_Noreturn static void be_looker(int channel) {
  struct uffd_message question, answer;
  struct uffd_look look;
  int fds[UFFD_MESSAGE_FDS], found[UFFD_MESSAGE_FDS];
  struct pollfd said = {.fd = channel, .events = POLLIN};
  ignore_signals();
  for (;;) {
    int result = uffd_channel_receive(channel, &question, fds);
    if (result == -EAGAIN) (void)poll(&said, 1, -1);
    if (result == -EAGAIN) continue;
    if (result != 1) hold_on();
    memcpy(&look, question.text, sizeof(look));
    BARRIER("looking", &look);
    answer = (struct uffd_message){.number = 0};
    look_here(&look, fds[0], fds[1], &answer, found);
    if (look.kind == UFFD_LOOK_HOLD) fds[0] = -1; /* it stays open */
    uffd_close_fds(fds, UFFD_MESSAGE_FDS);
    if (uffd_channel_send(channel, &answer, found, answer.fds_count, true) < 0) hold_on();
    uffd_close_fds(found, answer.fds_count);
  }
}

/* ---- in the supervisor */

/* A process may exit, and its pidfd's number be another's, before it is asked about; an object is closed by us alone.
 */
static bool owns_fd(const struct uffd_look *look) {
  return look->kind == UFFD_LOOK_CLOSE || look->kind == UFFD_LOOK_KILL;
}

static void free_question(struct uffd_question *question) {
  if (owns_fd(&question->look)) uffd_close_fds(&question->look.fd, 1);
  DELETE(question);
}

static void answer(uffd_pager *pager, struct uffd_question *question, const struct uffd_seen *seen) {
  if (question->seen != NULL) question->seen(pager, &question->look, seen);
  free_question(question);
}

static void not_known(uffd_pager *pager, struct uffd_question *question, bool stuck) {
  const struct uffd_seen seen = {.result = stuck ? -ETIMEDOUT : -ECHILD,
                                 .why = stuck ? "Looking at the client's process took over a second."
                                              : "Whoever looked at the client's process has died: come again."};
  answer(pager, question, &seen);
}

static void free_looker(uffd_pager *pager, struct uffd_looker *looker) {
  if (looker->channel >= 0) uffd_poll_drop(pager, looker->channel);
  if (looker->pidfd >= 0) uffd_poll_drop(pager, looker->pidfd);
  uffd_close_fds(&looker->channel, 1);
  uffd_close_fds(&looker->pidfd, 1);
  DELETE(looker);
}

static void go_on(uffd_pager *pager);

/* Takes its answers; true: there may be more. */
static bool hear(uffd_pager *pager, struct uffd_looker *looker) {
  struct uffd_message message;
  int fds[UFFD_MESSAGE_FDS], result;
  while ((result = uffd_channel_receive(looker->channel, &message, fds)) == 1) {
    struct uffd_question *question = looker->question;
    bool failed = message.error != 0;
    struct uffd_seen seen = {.result = failed ? -message.error : message.number != 0,
                             .why = message.text,
                             .bytes = message.number,
                             .count = message.fds_count,
                             .fds = fds};
    if (!failed) memcpy(seen.pids, message.text, sizeof(seen.pids));
    looker->question = NULL;
    if (question != NULL) answer(pager, question, &seen);
    uffd_close_fds(fds, UFFD_MESSAGE_FDS);
  }
  return result == -EAGAIN;
}

/* It is dead: what it has not answered is not known. */
static void ended(uffd_pager *pager, void *owner) {
  struct uffd_looker *looker = owner, **at = &pager->stuck_lookers;
  siginfo_t status;
  if (looker->channel >= 0) (void)hear(pager, looker);
  (void)waitid((idtype_t)P_PIDFD, (id_t)looker->pidfd, &status, WEXITED | WNOHANG);
  bool stuck = looker != pager->looker;
  if (!stuck) {
    pager->looker = NULL;
  } else {
    while (*at != looker) {
      at = &(*at)->next;
    }
    *at = looker->next;
    pager->stuck_count--;
  }
  struct uffd_question *question = looker->question;
  free_looker(pager, looker);
  if (question != NULL) not_known(pager, question, stuck);
  go_on(pager);
}

static void said(uffd_pager *pager, void *owner) {
  struct uffd_looker *looker = owner;
  if (hear(pager, looker)) {
    go_on(pager);
    return;
  }
  uffd_poll_drop(pager, looker->channel); /* it dies */
  uffd_close_fds(&looker->channel, 1);
}

static int start(uffd_pager *pager) {
  int ends[2];
  struct uffd_looker *looker = NEW(struct uffd_looker);
  if (looker == NULL) return fail(ENOMEM, "No memory for a looker.");
  *looker = (struct uffd_looker){.channel = -1, .pidfd = -1};
  looker->exit = (struct uffd_poll){.ready = ended, .owner = looker};
  looker->said = (struct uffd_poll){.ready = said, .owner = looker};
  int result = uffd_channel_open(ends);
  if (result < 0) {
    DELETE(looker);
    return result;
  }
  looker->channel = ends[0];
  int pid = (int)fork();
  if (pid == 0) {
    close(ends[0]);
    for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
      munmap(client->book.head, client->book.length); /* it would keep them */
    }
    uffd_close_all_but(ends[1], ends[1]);
    be_looker(ends[1]);
  }
  close(ends[1]);
  if (pid > 0) looker->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  result = looker->pidfd < 0 ? -errno : uffd_poll_add(pager, looker->pidfd, &looker->exit);
  if (result == 0) result = uffd_poll_add(pager, looker->channel, &looker->said);
  if (result < 0) { /* it ends when its channel does */
    free_looker(pager, looker);
    return result;
  }
  pager->looker = looker;
  return 0;
}

static void ask_next(uffd_pager *pager, struct uffd_looker *looker) {
  struct uffd_question *question = pager->questions;
  struct uffd_message message = {.number = 0};
  int fds[] = {question->look.fd, question->look.pidfd};
  bool has_pidfd = question->look.kind == UFFD_LOOK_OWNER && fds[1] >= 0;
  memcpy(message.text, &question->look, sizeof(question->look));
  looker->since_ns = uffd_now();
  if (uffd_channel_send(looker->channel, &message, fds, (uint32_t)(fds[0] >= 0) + has_pidfd, false) < 0) return;
  if (owns_fd(&question->look)) uffd_close_fds(&question->look.fd, 1);
  looker->question = question;
  pager->questions = question->next;
  if (question->look.kind == UFFD_LOOK_HOLD) looker->holds = true;
}

static void go_on(uffd_pager *pager) {
  if (pager->questions == NULL || uffd_now() < pager->looker_retry_ns) return;
  if (pager->looker == NULL && start(pager) < 0) pager->looker_retry_ns = uffd_now() + RETRY_NS;
  struct uffd_looker *looker = pager->looker;
  if (looker != NULL && looker->question == NULL && looker->channel >= 0) ask_next(pager, looker);
}

void uffd_looker_open(uffd_pager *pager) {
  (void)start(pager);
}

bool uffd_looker_ask(uffd_pager *pager, const struct uffd_look *look, uffd_seen_fn *seen) {
  struct uffd_question *question = NEW(struct uffd_question), **at = &pager->questions;
  if (question == NULL) return false;
  *question = (struct uffd_question){.look = *look, .seen = seen};
  if (look->kind == UFFD_LOOK_KILL) question->look.fd = fcntl(look->fd, F_DUPFD_CLOEXEC, 0);
  while (*at != NULL) {
    at = &(*at)->next;
  }
  *at = question;
  return true; /* it is asked at the end of this step: whoever asks may be freeing things just now */
}

/* What was to be asked about the object is not worth an answer any more. */
static void take_back(uffd_pager *pager, int object_fd) {
  struct uffd_question **at = &pager->questions;
  while (*at != NULL) {
    struct uffd_question *question = *at;
    bool about = question->look.fd == object_fd && !owns_fd(&question->look);
    if (!about || question->look.kind == UFFD_LOOK_POISON || question->look.kind == UFFD_LOOK_HOLD) {
      at = &question->next;
      continue;
    }
    *at = question->next;
    DELETE(question);
  }
}

void uffd_looker_close(uffd_pager *pager, int *object_fd) {
  if (*object_fd < 0) return;
  take_back(pager, *object_fd);
  const struct uffd_look look = {.kind = UFFD_LOOK_CLOSE, .fd = *object_fd};
  if (pager->pid != getpid() || !uffd_looker_ask(pager, &look, NULL)) uffd_close_fds(object_fd, 1);
  *object_fd = -1;
}

void uffd_looker_check(uffd_pager *pager, uint64_t now) {
  struct uffd_looker *looker = pager->looker;
  if (looker != NULL && looker->question != NULL && now - looker->since_ns > PATIENCE_NS &&
      pager->stuck_count < STUCK_MAX) {
    (void)syscall(SYS_pidfd_send_signal, looker->pidfd, SIGKILL, NULL, 0); /* when it comes back */
    looker->next = pager->stuck_lookers;
    pager->stuck_lookers = looker;
    pager->stuck_count++;
    pager->looker = NULL;
  }
  go_on(pager);
}

uint64_t uffd_looker_due(const uffd_pager *pager) {
  const struct uffd_looker *looker = pager->looker;
  if (looker != NULL && looker->question != NULL) return looker->since_ns + PATIENCE_NS;
  if (pager->questions == NULL) return UINT64_MAX;
  return looker == NULL ? pager->looker_retry_ns : looker->since_ns + RETRY_NS;
}

static void leave(struct uffd_looker *looker, int patience_ms) {
  siginfo_t status;
  struct pollfd end = {.fd = looker->pidfd, .events = POLLIN};
  uffd_close_fds(&looker->channel, 1);
  if (poll(&end, 1, patience_ms) == 1) {
    (void)waitid((idtype_t)P_PIDFD, (id_t)looker->pidfd, &status, WEXITED | WNOHANG);
  }
}

bool uffd_looker_idle(const uffd_pager *pager) {
  return pager->questions == NULL && (pager->looker == NULL || pager->looker->question == NULL);
}

void uffd_looker_leave(uffd_pager *pager) {
  if (pager->looker != NULL) leave(pager->looker, pager->looker->holds ? 0 : LEAVE_MS);
  for (struct uffd_looker *looker = pager->stuck_lookers; looker != NULL; looker = looker->next) {
    leave(looker, 0);
  }
}

static void forget_looker(struct uffd_looker *looker) {
  if (looker->question != NULL) free_question(looker->question);
  uffd_close_fds(&looker->channel, 1);
  uffd_close_fds(&looker->pidfd, 1);
  DELETE(looker);
}

void uffd_looker_forget(uffd_pager *pager) {
  while (pager->questions != NULL) {
    struct uffd_question *question = pager->questions;
    pager->questions = question->next;
    free_question(question);
  }
  while (pager->stuck_lookers != NULL) {
    struct uffd_looker *looker = pager->stuck_lookers;
    pager->stuck_lookers = looker->next;
    forget_looker(looker);
  }
  if (pager->looker != NULL) forget_looker(pager->looker);
  pager->looker = NULL;
}
