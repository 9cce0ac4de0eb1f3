/*
 * Tasks of a dump. The process is looked for among the descendants of the one that restores: it has the pid of the dump
 * in its own pid namespace, and the userfaultfd that it has just sent.
 */
#include "serve/supervisor/dumped.h"

#include <dirent.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "resolver/criu.h"
#include "serve/paper/backing.h"
#include "serve/paper/book.h"

#define SEEN_MAX 4096u /* processes that are looked at for one task */

static int take_regions(const struct uffd_criu *dump, const struct uffd_criu_task *task,
                        struct uffd_handshake *handshake) {
  size_t count;
  const struct uffd_criu_region *of = uffd_criu_regions(dump, &count) + task->first_region;
  struct uffd_client_region *regions = uffd_alloc(task->count * sizeof(*regions));
  if (regions == NULL) return fail(ENOMEM, "No memory for %u regions.", task->count);
  for (uint32_t i = 0; i < task->count; i++) {
    regions[i] = (struct uffd_client_region){
        .address = of[i].address, .length = of[i].length, .offset = of[i].offset, .page_size = BASE_PAGE};
  }
  handshake->regions = regions;
  handshake->regions_count = task->count;
  return 0;
}

/* ---- its process */

struct search {
  int32_t task;
  int object_fd;
  int32_t found;
  uint32_t seen;
};

/* The last number of NSpid: the pid in the innermost namespace. */
static bool has_pid(int32_t pid, int32_t task) {
  char path[64], line[256];
  bool same = false;
  snprintf(path, sizeof(path), "/proc/%d/status", pid);
  FILE *status = fopen(path, "re");
  while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
    if (strncmp(line, "NSpid:", 6) != 0) continue;
    const char *last = strrchr(line, '\t');
    same = last != NULL && strtol(last + 1, NULL, 10) == task;
    break;
  }
  if (status != NULL) (void)fclose(status);
  return same;
}

/* It keeps its userfaultfd until its last mapping is registered. */
static bool has_object(int32_t pid, int object_fd) {
  char path[300], target[32];
  bool same = false;
  snprintf(path, sizeof(path), "/proc/%d/fd", pid);
  DIR *fds = opendir(path);
  for (struct dirent *entry; fds != NULL && !same && (entry = readdir(fds)) != NULL;) {
    snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, entry->d_name);
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    if (length <= 0) continue;
    target[length] = '\0';
    if (strcmp(target, "anon_inode:[userfaultfd]") != 0) continue;
    long other = strtol(entry->d_name, NULL, 10);
    same = syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, object_fd, other) == 0;
  }
  if (fds != NULL) (void)closedir(fds);
  return same;
}

static void look_below(struct search *search, int32_t parent);

static void look(struct search *search, int32_t pid) {
  if (search->found != 0 || pid <= 0 || search->seen++ > SEEN_MAX) return;
  if (has_pid(pid, search->task) && has_object(pid, search->object_fd)) {
    search->found = pid;
    return;
  }
  look_below(search, pid);
}

/* The kernel lists children under the thread that forked them. */
static void look_at_children(struct search *search, int32_t parent, const char *thread) {
  char path[300], word[32];
  snprintf(path, sizeof(path), "/proc/%d/task/%s/children", parent, thread);
  FILE *children = fopen(path, "re");
  while (children != NULL && search->found == 0 && fscanf(children, "%31s", word) == 1) {
    look(search, (int32_t)strtol(word, NULL, 10));
  }
  if (children != NULL) (void)fclose(children);
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the tree of processes, and SEEN_MAX */
static void look_below(struct search *search, int32_t parent) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/task", parent);
  DIR *threads = opendir(path);
  for (struct dirent *thread; threads != NULL && search->found == 0 && (thread = readdir(threads)) != NULL;) {
    if (thread->d_name[0] != '.') look_at_children(search, parent, thread->d_name);
  }
  if (threads != NULL) (void)closedir(threads);
}

/* Where it is not found, its end is noticed by its memory alone, and it cannot be killed. */
static void find_process(struct uffd_handshake *handshake) {
  struct search search = {.task = handshake->task, .object_fd = handshake->object_fd};
  look(&search, handshake->pid);
  uffd_close_fds(&handshake->pidfd, 1);
  handshake->pid = 0;
  if (search.found == 0) return;
  handshake->pidfd = (int)syscall(SYS_pidfd_open, search.found, 0);
  /* Has the pid still belonged to the task when the pidfd was opened? */
  if (handshake->pidfd >= 0 && has_object(search.found, handshake->object_fd)) {
    handshake->pid = search.found;
  } else {
    uffd_close_fds(&handshake->pidfd, 1);
  }
}

int uffd_dumped_take(const struct uffd_backing *backing, struct uffd_handshake *handshake) {
  if (backing == NULL || backing->dump == NULL) return fail(EINVAL, "The pager's image is no dump of CRIU.");
  const struct uffd_criu_task *task = uffd_criu_find(backing->dump, handshake->task);
  if (task == NULL) {
    return fail(ENOENT,
                "The restore sends task %" PRId32 ", which the dump in %s does not have: it restores another dump.",
                handshake->task, backing->name);
  }
  if (task->count == 0) return 0;
  if (task->count > UFFD_REGIONS_MAX) {
    return fail(E2BIG, "Task %" PRId32 " has %u lazy mappings, and %u are the most that are served.", task->pid,
                task->count, UFFD_REGIONS_MAX);
  }
  int result = take_regions(backing->dump, task, handshake);
  if (result < 0) return result;
  find_process(handshake);
  return 1;
}
