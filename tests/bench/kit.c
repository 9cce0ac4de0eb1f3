/*
 * nbdkit beside the benchmark, and the bare client of it.
 */
#include "kit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void become(const struct kit *kit, char *const *arguments) {
  char *list[24] = {"nbdkit", "-f", "-r", "-U", (char *)(uintptr_t)kit->socket, "-P", (char *)(uintptr_t)kit->pid_file};
  for (size_t i = 7; *arguments != NULL; i++) {
    list[i] = *arguments++;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
  dup2(quiet, 2);
  execvp("nbdkit", list);
  _exit(127);
}

/* keep: a descriptor that it has too; -1: none. */
static bool start(struct kit *kit, char *const *arguments, int keep) {
  const struct timespec while_it_starts = {0, 1000000};
  struct stat status;
  temporary_path(kit->socket, sizeof(kit->socket), "nbd");
  snprintf(kit->pid_file, sizeof(kit->pid_file), "%s.pid", kit->socket);
  kit->pid = fork();
  if (kit->pid < 0) die("fork: %m");
  if (kit->pid == 0) {
    if (keep >= 0) fcntl(keep, F_SETFD, 0);
    become(kit, arguments);
  }
  while (stat(kit->pid_file, &status) != 0 || status.st_size == 0) {
    if (waitpid(kit->pid, NULL, WNOHANG) == kit->pid) return false;
    nanosleep(&while_it_starts, NULL);
  }
  return true;
}

/* The image's file has no name any more: it is the export that is called by its descriptor's number. */
bool kit_start(struct kit *kit, const struct image *image, unsigned delay_ms) {
  char delay[32];
  char *const arguments[] = {"--filter=delay", "file", "dir=/proc/self/fd", delay, NULL};
  snprintf(delay, sizeof(delay), "rdelay=%ums", delay_ms);
  bool started = start(kit, arguments, image->fd);
  snprintf(kit->uri, sizeof(kit->uri), "nbd+unix:///%d?socket=%s", image->fd, kit->socket);
  return started;
}

bool kit_start_curl(struct kit *kit, const char *url) {
  char at[128];
  char *const arguments[] = {"curl", at, NULL};
  snprintf(at, sizeof(at), "url=%s", url);
  bool started = start(kit, arguments, -1);
  snprintf(kit->uri, sizeof(kit->uri), "nbd+unix:///?socket=%s", kit->socket);
  return started;
}

void kit_end(struct kit *kit) {
  kill(kit->pid, SIGKILL);
  waitpid(kit->pid, NULL, 0);
  unlink(kit->socket);
  unlink(kit->pid_file);
}

#ifndef UFFD_WITH_NBD

uint64_t kit_read_all(const struct kit *kit, uint64_t length, uint64_t request, unsigned most) {
  (void)kit, (void)length, (void)request, (void)most;
  return 0;
}

#else

#include <libnbd.h>

static int landed(void *ctx, int *error) { /* NOLINT(readability-non-const-parameter): libnbd's */
  if (*error != 0) die("nbdkit: %s", strerror(*error));
  --*(unsigned *)ctx;
  return 1;
}

uint64_t kit_read_all(const struct kit *kit, uint64_t length, uint64_t request, unsigned most) {
  unsigned under_way = 0;
  struct nbd_handle *nbd = nbd_create();
  char *buffer = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (nbd == NULL || buffer == MAP_FAILED) die("no memory");
  nbd_set_pread_initialize(nbd, false);
  if (nbd_connect_uri(nbd, kit->uri) != 0) die("%s", nbd_get_error());
  uint64_t begin = now_ns();
  for (uint64_t at = 0; at < length || under_way > 0;) {
    nbd_completion_callback callback = {.callback = landed, .user_data = &under_way};
    for (; at < length && under_way < most; at += request) {
      under_way++;
      if (nbd_aio_pread(nbd, buffer + at, request, at, callback, 0) < 0) die("%s", nbd_get_error());
    }
    if (nbd_poll(nbd, -1) < 0) die("%s", nbd_get_error());
  }
  uint64_t taken = now_ns() - begin;
  nbd_close(nbd);
  munmap(buffer, length);
  return taken;
}

#endif
