/*
 * What a dead supervisor has left, by the names that keep.c gave it. The names are of our own making, but the
 * descriptors may be of an older or newer version: everything is checked.
 */
#include "serve/supervisor/adopt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/given.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/refused.h"
#include "serve/supervisor/report.h"

/* A descriptor that was kept. */
struct relic {
  int fd; /* -1: taken */
  char what[16], part[16];
  uint64_t number;
};

struct relics {
  struct relic *list;
  size_t count, room;
};

/* "client7.object" */
static bool parse(const char *name, struct relic *relic) {
  return sscanf(name, "%15[a-z]%" SCNu64 ".%15[a-z0-9]", relic->what, &relic->number, relic->part) == 3;
}

static bool is_ours(const struct relic *relic) {
  return strcmp(relic->what, "client") == 0 || strcmp(relic->what, "image") == 0 || strcmp(relic->what, "refused") == 0;
}

static int collect(uffd_pager *pager, struct relics *relics) {
  relics->room = pager->given_count;
  if (relics->room == 0) return 0;
  relics->list = uffd_alloc(relics->room * sizeof(*relics->list));
  if (relics->list == NULL) return fail(ENOMEM, "No memory for what another supervisor has left.");
  for (size_t i = 0; i < pager->given_count; i++) {
    struct uffd_given *given = &pager->given[i];
    struct relic relic = {.fd = given->fd};
    if (!parse(given->name, &relic) || !is_ours(&relic)) continue;
    given->fd = -1;
    relics->list[relics->count++] = relic;
  }
  return 0;
}

/* Its descriptor, which is the caller's then; -1: there is none. */
static int take(const struct relics *relics, const char *what, uint64_t number, const char *part) {
  for (size_t i = 0; i < relics->count; i++) {
    struct relic *relic = &relics->list[i];
    if (relic->fd < 0 || relic->number != number || strcmp(relic->what, what) != 0 || strcmp(relic->part, part) != 0)
      continue;
    int fd = relic->fd;
    relic->fd = -1;
    return fd;
  }
  return -1;
}

/* The smallest number above the last one of which there is this part; 0: none. */
static uint64_t next_of(const struct relics *relics, const char *what, const char *part, uint64_t last) {
  uint64_t next = UINT64_MAX;
  for (size_t i = 0; i < relics->count; i++) {
    const struct relic *relic = &relics->list[i];
    bool fits = relic->fd >= 0 && strcmp(relic->what, what) == 0 && strcmp(relic->part, part) == 0;
    if (fits && relic->number > last) next = min_u64(next, relic->number);
  }
  return next != UINT64_MAX ? next : 0;
}

/* The descriptors of an image, in the order of its message: see uffd_backing_write(). Their count. */
static uint32_t take_image(const struct relics *relics, uint64_t number, int *fds) {
  uint32_t count = 0;
  char part[16];
  fds[count++] = take(relics, "image", number, "list");
  fds[count++] = take(relics, "image", number, "file");
  fds[count] = take(relics, "image", number, "index");
  if (fds[count] >= 0) count++;
  for (uint32_t i = 1; count + 3 < UFFD_MESSAGE_FDS; i++) {
    snprintf(part, sizeof(part), "file%u", i);
    fds[count] = take(relics, "image", number, part);
    if (fds[count] < 0) break;
    count++;
    snprintf(part, sizeof(part), "index%u", i);
    fds[count] = take(relics, "image", number, part);
    if (fds[count] >= 0) count++;
  }
  fds[count] = take(relics, "image", number, "replay");
  if (fds[count] >= 0) count++;
  fds[count] = take(relics, "image", number, "shared");
  return fds[count] >= 0 ? count + 1 : count;
}

static void adopt_image(uffd_pager *pager, const struct relics *relics, uint64_t number) {
  struct uffd_message message = {0};
  int fds[UFFD_MESSAGE_FDS], paper = take(relics, "image", number, "paper");
  memset(fds, -1, sizeof(fds));
  uint32_t count = take_image(relics, number, fds);
  bool read = paper >= 0 && pread(paper, &message, sizeof(message), 0) == (ssize_t)sizeof(message);
  uffd_close_fds(&paper, 1);
  message.number = number;
  message.fds_count = count;
  int result = read ? uffd_image_adopt(pager, &message, fds) : fail(EPROTO, "Nothing is known of it.");
  if (result < 0) {
    uffd_report(pager, UFFD_REPORT_ERROR, -result, NULL, NULL,
                "Image %" PRIu64 " of a supervisor that has ended cannot be taken over: %s", number, uffd_errmsg());
  }
  uffd_close_fds(fds, UFFD_MESSAGE_FDS);
}

static void adopt_client(uffd_pager *pager, const struct relics *relics, uint64_t id) {
  struct uffd_remains remains = {.id = id,
                                 .object_fd = take(relics, "client", id, "object"),
                                 .book_fd = take(relics, "client", id, "book"),
                                 .pidfd = take(relics, "client", id, "process")};
  for (uint32_t i = 0; i < UFFD_HANDSHAKE_FDS; i++) {
    char part[16];
    snprintf(part, sizeof(part), "fd%u", i);
    remains.fds[i] = take(relics, "client", id, part);
    if (remains.fds[i] >= 0) remains.fds_count = i + 1;
  }
  int result = uffd_client_adopt(pager, &remains);
  if (result < 0) {
    uffd_report(pager, UFFD_REPORT_ERROR, -result, NULL, NULL,
                "Client %" PRIu64
                " of a supervisor that has ended cannot be taken over: %s Its userfaultfd is held: it "
                "sleeps at its next missing page.",
                id, uffd_errmsg());
    uffd_refused_hold(pager, remains.object_fd);
    remains.object_fd = -1;
  }
  uffd_close_fds(&remains.object_fd, 1);
  uffd_close_fds(&remains.book_fd, 1);
  uffd_close_fds(&remains.pidfd, 1);
  uffd_close_fds(remains.fds, UFFD_HANDSHAKE_FDS);
}

int uffd_adopt_all(uffd_pager *pager) {
  struct relics relics = {NULL, 0, 0};
  uint64_t number = 0;
  if (pager->keep.fd < 0) return 0;
  int result = collect(pager, &relics);
  if (result < 0) return result;
  uffd_keep_count(pager, relics.count);
  while ((number = next_of(&relics, "image", "file", number)) != 0) {
    adopt_image(pager, &relics, number);
  }
  while ((number = next_of(&relics, "client", "object", number)) != 0) {
    adopt_client(pager, &relics, number);
  }
  while ((number = next_of(&relics, "refused", "object", number)) != 0) {
    uffd_refused_adopt(pager, number, take(&relics, "refused", number, "object"));
  }
  for (size_t i = 0; i < relics.count; i++) {
    uffd_close_fds(&relics.list[i].fd, 1); /* parts of what was dropped just when the supervisor died */
  }
  uffd_release(relics.list, relics.room * sizeof(*relics.list));
  return 0;
}
