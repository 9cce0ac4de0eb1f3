/*
 * Where the faulting thread runs, from /proc/PID/task/TID/stat, which is kept open: a look is one pread.
 */
#include "loop/engine/placed/faulter.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOKS_A_SCAN 16u
#define FIELD_STATE  3 /* proc_pid_stat(5) */
#define FIELD_MINFLT 10
#define FIELD_MAJFLT 12
#define FIELD_CPU    39

struct stat_line {
  char state;
  uint64_t faults;
  int cpu;
};

static bool read_stat(int fd, struct stat_line *line) {
  char text[1024];
  ssize_t length = pread(fd, text, sizeof(text) - 1, 0);
  if (length <= 0) return false; /* the thread is gone */
  text[length] = '\0';
  const char *at = strrchr(text, ')'); /* the name before it may hold anything */
  for (int field = 2; at != NULL && field < FIELD_CPU;) {
    at = strchr(at, ' ');
    if (at == NULL) break;
    at++;
    field++;
    if (field == FIELD_STATE) line->state = *at;
    if (field == FIELD_MINFLT) line->faults = strtoull(at, NULL, 10);
    if (field == FIELD_MAJFLT) line->faults += strtoull(at, NULL, 10);
    if (field == FIELD_CPU) line->cpu = atoi(at); /* NOLINT(cert-err34-c): the kernel wrote it */
  }
  return at != NULL;
}

static int open_stat(uint32_t pid, uint32_t tid) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/%u/task/%u/stat", pid, tid);
  return open(path, O_RDONLY | O_CLOEXEC);
}

void uffd_faulter_init(struct uffd_faulter *faulter) {
  memset(faulter, 0, sizeof(*faulter));
  faulter->fd = -1;
}

void uffd_faulter_close(struct uffd_faulter *faulter) {
  if (faulter->fd >= 0) close(faulter->fd);
  faulter->fd = -1;
}

/* The thread is not told */

struct dirent64 { /* of getdents64(2): readdir(3) would allocate */
  uint64_t inode;
  int64_t next;
  unsigned short length;
  unsigned char type;
  char name[];
};

/* The faults of a task since the last scan. */
static uint64_t count_new_faults(struct uffd_faulter *faulter, uint32_t pid, uint32_t tid) {
  struct stat_line line = {0};
  int fd = open_stat(pid, tid);
  bool known = fd >= 0 && read_stat(fd, &line);
  if (fd >= 0) close(fd);
  if (!known) return 0;
  uint32_t slot = tid % UFFD_FAULTER_TASKS;
  uint64_t before = faulter->tasks[slot].tid == tid ? faulter->tasks[slot].faults : line.faults;
  faulter->tasks[slot].tid = tid;
  faulter->tasks[slot].faults = line.faults;
  return line.faults - before;
}

/* The task of pid that has faulted most since the last scan; 0: none has. */
static uint32_t find_busiest(struct uffd_faulter *faulter, uint32_t pid) {
  char path[32];
  char entries[2048] __attribute__((aligned(8)));
  snprintf(path, sizeof(path), "/proc/%u/task", pid);
  int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return 0;
  uint32_t busiest = 0, left = UFFD_FAULTER_TASKS;
  uint64_t most = 0;
  long length = syscall(SYS_getdents64, folder, entries, sizeof(entries));
  for (long at = 0; at < length && left != 0;) {
    const struct dirent64 *entry = (const struct dirent64 *)(entries + at);
    uint32_t tid = (uint32_t)strtoul(entry->name, NULL, 10);
    at += entry->length;
    if (tid == 0) continue; /* "." */
    left--;
    uint64_t faults = count_new_faults(faulter, pid, tid);
    if (faults > most) {
      most = faults;
      busiest = tid;
    }
  }
  close(folder);
  return busiest;
}

/* Looking */

static void look_at(struct uffd_faulter *faulter, uint32_t pid, uint32_t tid) {
  if (faulter->fd >= 0 && faulter->pid == pid && faulter->tid == tid) return;
  uffd_faulter_close(faulter);
  faulter->pid = pid;
  faulter->tid = tid;
  if (tid != 0) faulter->fd = open_stat(pid != 0 ? pid : tid, tid);
}

static void look_at_busiest(struct uffd_faulter *faulter, uint32_t pid) {
  if (faulter->fd >= 0 && faulter->pid == pid && faulter->looks-- != 0) return;
  faulter->looks = LOOKS_A_SCAN;
  uint32_t tid = find_busiest(faulter, pid);
  if (tid != 0 || faulter->pid != pid) look_at(faulter, pid, tid);
}

int uffd_faulter_cpu(struct uffd_faulter *faulter, uint32_t pid, uint32_t tid) {
  struct stat_line line = {0};
  /* whose numbers are of another namespace is not asked for them at every look */
  bool guessed = faulter->guessed && faulter->pid == pid && faulter->fd >= 0 && faulter->looks != 0;
  if (tid != 0 && !guessed) look_at(faulter, pid, tid);
  faulter->guessed = tid != 0 && pid != 0 && (guessed || faulter->fd < 0);
  if (tid == 0 || faulter->guessed) look_at_busiest(faulter, pid != 0 ? pid : (uint32_t)getpid());
  if (faulter->fd < 0) return -1;
  if (read_stat(faulter->fd, &line)) return line.cpu;
  uffd_faulter_close(faulter);
  return -1;
}

bool uffd_task_is_runnable(uint32_t tid) {
  struct stat_line line = {0};
  int fd = open_stat(tid, tid);
  bool known = fd >= 0 && read_stat(fd, &line);
  if (fd >= 0) close(fd);
  return !known || line.state == 'R';
}
