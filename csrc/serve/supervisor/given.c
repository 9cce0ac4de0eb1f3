/*
 * Descriptors that this process was started with.
 */
#include "serve/supervisor/given.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */

static size_t count_given(void) {
  const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
  if (pid == NULL || count == NULL || strtol(pid, NULL, 10) != getpid()) return 0;
  long fds = strtol(count, NULL, 10);
  return fds > 0 && fds < 1 << 20 ? (size_t)fds : 0;
}

static void name_them(struct uffd_given *given, size_t count, const char *names) {
  for (size_t i = 0; i < count; i++) {
    size_t length = names != NULL ? strcspn(names, ":") : 0;
    given[i].fd = FIRST_FD + (int)i;
    (void)fcntl(given[i].fd, F_SETFD, FD_CLOEXEC);
    if (length != 0) snprintf(given[i].name, sizeof(given[i].name), "%.*s", (int)length, names);
    names = names != NULL && names[length] == ':' ? names + length + 1 : NULL;
  }
}

int uffd_given_open(uffd_pager *pager) {
  size_t count = count_given();
  if (count == 0) return 0;
  pager->given = uffd_alloc(count * sizeof(*pager->given));
  if (pager->given == NULL) return fail(ENOMEM, "No memory for what the service manager has given.");
  pager->given_count = count;
  name_them(pager->given, count, getenv("LISTEN_FDNAMES"));
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
  unsetenv("LISTEN_FDNAMES");
  return 0;
}

int uffd_given_take(uffd_pager *pager, const char *name) {
  for (size_t i = 0; i < pager->given_count; i++) {
    struct uffd_given *given = &pager->given[i];
    if (given->fd < 0 || strcmp(given->name, name) != 0) continue;
    int fd = given->fd;
    given->fd = -1;
    return fd;
  }
  return -1;
}

/* "door.socket", "door2.socket" */
bool uffd_given_is_kept_door(const char *name) {
  if (strncmp(name, "door", 4) != 0) return false;
  return strcmp(name + 4 + strspn(name + 4, "0123456789"), ".socket") == 0;
}

int uffd_given_take_unnamed(uffd_pager *pager) {
  struct uffd_given *only = NULL;
  for (size_t i = 0; i < pager->given_count; i++) {
    struct uffd_given *given = &pager->given[i];
    const char *end = strrchr(given->name, '.');
    bool plain = given->name[0] == '\0' || strcmp(given->name, "unknown") == 0 ||
                 (end != NULL && strcmp(end, ".socket") == 0 && !uffd_given_is_kept_door(given->name));
    if (given->fd < 0 || !plain) continue;
    if (only != NULL) return -1;
    only = given;
  }
  if (only == NULL) return -1;
  int fd = only->fd;
  only->fd = -1;
  return fd;
}

void uffd_given_close(uffd_pager *pager) {
  for (size_t i = 0; i < pager->given_count; i++) {
    if (pager->given[i].fd >= 0) close(pager->given[i].fd);
  }
  uffd_release(pager->given, pager->given_count * sizeof(*pager->given));
  pager->given = NULL;
  pager->given_count = 0;
}
