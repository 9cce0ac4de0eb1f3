/*
 * Finds the process of a forked child in /proc.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/family.h"
#include "serve/supervisor/pager.h"

#define SLACK_TICKS 100 /* one second: on a busy machine we hear of the fork late */

uint64_t uffd_family_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK);
  return (uint64_t)now.tv_sec * ticks + (uint64_t)now.tv_nsec * ticks / 1000000000;
}

static FILE *open_of(int32_t pid, const char *what) {
  char path[320];
  snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
  return fopen(path, "re");
}

/* The start time, field 22 of stat. Field 2, the name, may hold any character; it ends with the last parenthesis. */
static uint64_t start_of(int32_t pid) {
  char line[1024];
  FILE *file = open_of(pid, "stat");
  if (file == NULL) return 0;
  bool got = fgets(line, sizeof(line), file) != NULL;
  (void)fclose(file);
  char *at = got ? strrchr(line, ')') : NULL;
  for (int field = 2; at != NULL && field < 22; field++) {
    at = strchr(at + 1, ' ');
  }
  return at != NULL ? strtoull(at, NULL, 10) : 0;
}

static bool has_memory(int32_t pid, uint64_t address) {
  char line[4352];
  bool found = false;
  FILE *file = open_of(pid, "maps");
  if (file == NULL) return false;
  while (!found && fgets(line, sizeof(line), file) != NULL) {
    char *rest;
    uint64_t start = strtoull(line, &rest, 16);
    if (*rest == '-') found = start <= address && address < strtoull(rest + 1, NULL, 16);
  }
  (void)fclose(file);
  return found;
}

/* In smaps, whose VmFlags tell: um, uw, ui are the modes of a userfaultfd. */
static bool is_registered(FILE *smaps, uint64_t address) {
  char line[4352];
  bool inside = false;
  rewind(smaps);
  while (fgets(line, sizeof(line), smaps) != NULL) {
    char *rest;
    uint64_t start = strtoull(line, &rest, 16);
    if (*rest == '-') inside = start <= address && address < strtoull(rest + 1, NULL, 16);
    if (!inside || strncmp(line, "VmFlags:", 8) != 0) continue;
    return strstr(line, " um") != NULL || strstr(line, " uw") != NULL || strstr(line, " ui") != NULL;
  }
  return false;
}

bool uffd_family_owns(int32_t pid, const struct uffd_client_region *regions, uint32_t count) {
  FILE *smaps = pid > 0 ? open_of(pid, "smaps") : NULL;
  bool owns = smaps != NULL && count != 0;
  for (uint32_t i = 0; owns && i < count && i < 8; i++) {
    owns = is_registered(smaps, regions[i].address);
  }
  if (smaps != NULL) (void)fclose(smaps);
  return owns;
}

struct search {
  uint64_t forked_ticks, address;
  uint32_t most, count;
  int32_t *pids;
  int *pidfds;
};

/* The pidfd comes first: the pid may be another's when it is opened, but the memory is looked at afterwards. */
static void look(struct search *search, int32_t pid) {
  if (pid <= 0 || search->count == search->most) return;
  if (start_of(pid) + SLACK_TICKS < search->forked_ticks) return;
  int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (pidfd < 0 || !has_memory(pid, search->address)) {
    uffd_close_fds(&pidfd, 1);
    return;
  }
  search->pids[search->count] = pid;
  search->pidfds[search->count++] = pidfd;
}

/* /proc lists children under the thread that forked them. */
static void look_at_children(struct search *search, int32_t parent, const char *thread) {
  char what[300], word[32];
  snprintf(what, sizeof(what), "task/%s/children", thread);
  FILE *file = open_of(parent, what);
  if (file == NULL) return;
  while (fscanf(file, "%31s", word) == 1) {
    look(search, (int32_t)strtol(word, NULL, 10));
  }
  (void)fclose(file);
}

uint32_t uffd_family_children(int32_t parent, uint64_t forked_ticks, uint64_t address, uint32_t most, int32_t *pids,
                              int *pidfds) {
  struct search search = {.forked_ticks = forked_ticks, .address = address, .most = most};
  search.pids = pids;
  search.pidfds = pidfds;
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/task", parent);
  DIR *threads = parent > 0 ? opendir(path) : NULL;
  if (threads == NULL) return 0;
  for (struct dirent *thread = readdir(threads); thread != NULL; thread = readdir(threads)) {
    if (thread->d_name[0] != '.') look_at_children(&search, parent, thread->d_name);
  }
  (void)closedir(threads);
  return search.count;
}
