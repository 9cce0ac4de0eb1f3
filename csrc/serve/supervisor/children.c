/*
 * Forked children between their announcement and their book.
 */
#include "serve/supervisor/children.h"

#include "base/base.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/looker.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/refused.h"
#include "serve/supervisor/report.h"

struct uffd_announced {
  struct uffd_announced *next; /* a later one */
  uint64_t worker;             /* its number */
  uint64_t number, parent;     /* as the worker says */
  uint32_t index;              /* of its message in the parent's ledger */
  int object_fd;               /* -1: it did not arrive */
  uint64_t kept;               /* number by which the service manager has it until it is a client */
};

static bool is_known(const uffd_pager *pager, int object_fd) {
  const struct uffd_announced *child = pager->announced;
  while (child != NULL && !(object_fd >= 0 && uffd_same_file(child->object_fd, object_fd))) {
    child = child->next;
  }
  return child != NULL || (object_fd >= 0 && uffd_client_has(pager, object_fd));
}

void uffd_children_announced(uffd_pager *pager, const struct uffd_worker *worker, const struct uffd_message *message,
                             int *fds) {
  /* Its worker has announced it, and was killed before it wrote so. */
  if (message->number >= UFFD_GUARD_NUMBERS && is_known(pager, fds[0])) return;
  struct uffd_announced **at = &pager->announced, *child = NEW(struct uffd_announced);
  if (child == NULL) return; /* its worker keeps it: its book finds nothing here */
  *child = (struct uffd_announced){.worker = worker->number,
                                   .number = message->number,
                                   .parent = message->client,
                                   .index = message->flags,
                                   .object_fd = fds[0]};
  fds[0] = -1;
  child->kept = ++pager->last_refused;
  uffd_keep_refused(pager, child->kept, child->object_fd);
  while (*at != NULL) {
    at = &(*at)->next;
  }
  *at = child;
}

/* Its descriptor; -1: it was not announced, or has not arrived. */
static int take(uffd_pager *pager, const struct uffd_worker *worker, uint64_t number, uint64_t *kept) {
  struct uffd_announced **at = &pager->announced;
  while (*at != NULL && ((*at)->worker != worker->number || (*at)->number != number)) {
    at = &(*at)->next;
  }
  struct uffd_announced *child = *at;
  if (child == NULL) return -1;
  int fd = child->object_fd;
  *kept = child->kept;
  *at = child->next;
  DELETE(child);
  return fd;
}

/* It sleeps at its missing pages: its userfaultfd is kept. */
static void keep(uffd_pager *pager, int object_fd) {
  struct uffd_handshake handshake = UFFD_HANDSHAKE_INIT;
  handshake.object_fd = object_fd;
  (void)uffd_refused_keep(pager, &handshake, false);
  uffd_looker_close(pager, &handshake.object_fd);
  uffd_handshake_release(&handshake);
}

/* Takes the descriptors. */
static void take_in(uffd_pager *pager, const struct uffd_supervised *parent, int object_fd, int book_fd) {
  int result = uffd_client_fork(pager, parent, object_fd, book_fd);
  if (result == 0) return;
  uffd_report(pager, UFFD_REPORT_ERROR, -result, parent, NULL, "A forked child of it is not served: %s", uffd_errmsg());
  keep(pager, object_fd);
  uffd_close_fds(&book_fd, 1);
}

/* The worker keeps its copies of the descriptors until it has our answer. */
void uffd_children_booked(uffd_pager *pager, const struct uffd_supervised *parent, struct uffd_worker *worker,
                          const struct uffd_message *message, int *fds) {
  struct uffd_message answer = {.kind = UFFD_SAY_ADOPTED, .number = message->number};
  uint64_t kept = 0;
  int object_fd = take(pager, worker, message->number, &kept);
  if (message->error != 0) { /* the worker serves it; if that dies, the child sleeps */
    if (object_fd >= 0) keep(pager, object_fd);
    if (kept != 0) uffd_keep_drop_refused(pager, kept);
    return;
  }
  if (parent != NULL && object_fd >= 0 && fds[0] >= 0) {
    take_in(pager, parent, object_fd, fds[0]);
    fds[0] = -1;
  } else {
    answer.error = EMFILE;
    uffd_report(pager, UFFD_REPORT_ERROR, EMFILE, parent, worker,
                "Its worker keeps a forked child of it: no descriptors are left to take it in, raise the limit "
                "(ulimit -n).");
    uffd_close_fds(&object_fd, 1); /* the worker has it */
  }
  if (kept != 0) uffd_keep_drop_refused(pager, kept); /* it is kept as a client */
  uffd_worker_owe(pager, worker, &answer);
}

/* What the worker would have written into the book. */
static int make_book(const struct uffd_supervised *parent, uint32_t index, struct uffd_book *book) {
  int result = uffd_book_fork(&parent->book, book);
  if (result < 0) return result;
  const struct uffd_book_head *head = parent->book.head;
  result = uffd_ledger_fork(uffd_book_ledger(&parent->book), head->ledger_length, index, uffd_book_ledger(book));
  if (result < 0) uffd_book_close(book);
  return result;
}

static void inherit(uffd_pager *pager, struct uffd_announced *child) {
  const struct uffd_supervised *parent = uffd_client_find(pager, child->parent);
  struct uffd_book book = UFFD_BOOK_INIT;
  if (child->object_fd < 0) return;
  int result = parent != NULL ? make_book(parent, child->index, &book) : fail(ESRCH, "Its parent is gone.");
  if (result == 0) {
    int book_fd = book.fd;
    book.fd = -1;
    take_in(pager, parent, child->object_fd, book_fd);
  } else {
    uffd_report(pager, UFFD_REPORT_ERROR, -result, parent, NULL, "A forked child of it is not served: %s",
                uffd_errmsg());
    keep(pager, child->object_fd);
  }
  child->object_fd = -1;
  uffd_keep_drop_refused(pager, child->kept);
  uffd_book_close(&book);
}

void uffd_children_leave(uffd_pager *pager) {
  for (struct uffd_announced *child = pager->announced; child != NULL; child = child->next) {
    if (child->object_fd >= 0) keep(pager, child->object_fd);
    child->object_fd = -1;
  }
}

void uffd_children_inherit(uffd_pager *pager, const struct uffd_worker *worker) {
  struct uffd_announced **at = &pager->announced;
  while (*at != NULL) {
    struct uffd_announced *child = *at;
    if (child->worker != worker->number) {
      at = &child->next;
      continue;
    }
    *at = child->next;
    inherit(pager, child);
    uffd_close_fds(&child->object_fd, 1);
    DELETE(child);
  }
}

void uffd_children_forget(uffd_pager *pager) {
  while (pager->announced != NULL) {
    struct uffd_announced *child = pager->announced;
    pager->announced = child->next;
    uffd_close_fds(&child->object_fd, 1);
    DELETE(child);
  }
}
