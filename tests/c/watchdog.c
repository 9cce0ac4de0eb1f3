/*
 * What the kernel says of the threads of a process group: /proc/PID/task/TID/schedstat (CONFIG_SCHED_INFO; without it
 * all time counts).
 */
#define _GNU_SOURCE
#include "watchdog.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

#define SEEN_MAX 4096u

static pid_t watched;
static uint64_t looked_ns;
static struct {
  uint32_t tid;
  uint64_t ran, waited; /* ns, so far */
} seen[SEEN_MAX];       /* threads, by their number; two that meet in one place count as new ones, again and again */

static bool read_text(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd >= 0 ? read(fd, text, size - 1) : -1;
  if (fd >= 0) close(fd);
  text[length > 0 ? length : 0] = '\0';
  return length > 0;
}

static bool is_watched(const char *pid) {
  char path[300], text[512];
  snprintf(path, sizeof(path), "/proc/%s/stat", pid);
  if (!read_text(path, text, sizeof(text))) return false;
  const char *end = strrchr(text, ')'); /* the name before it may hold anything */
  int group;
  return end != NULL && sscanf(end, ") %*c %*d %d", &group) == 1 && group == watched;
}

/* Calls visit with the directory of each thread of the group. */
static void each_thread(void (*visit)(const char *directory, uint32_t tid, void *ctx), void *ctx) {
  DIR *processes = opendir("/proc");
  for (struct dirent *process; processes != NULL && (process = readdir(processes)) != NULL;) {
    char path[300];
    if (process->d_name[0] < '0' || process->d_name[0] > '9' || !is_watched(process->d_name)) continue;
    snprintf(path, sizeof(path), "/proc/%s/task", process->d_name);
    DIR *threads = opendir(path);
    for (struct dirent *thread; threads != NULL && (thread = readdir(threads)) != NULL;) {
      char directory[600];
      if (thread->d_name[0] == '.') continue;
      snprintf(directory, sizeof(directory), "%s/%s", path, thread->d_name);
      visit(directory, (uint32_t)strtoul(thread->d_name, NULL, 10), ctx);
    }
    if (threads != NULL) closedir(threads);
  }
  if (processes != NULL) closedir(processes);
}

struct sums {
  uint64_t ran, waited;
};

static void add_up(const char *directory, uint32_t tid, void *ctx) {
  struct sums *sums = ctx;
  char path[640], text[128];
  unsigned long long ran, waited;
  snprintf(path, sizeof(path), "%s/schedstat", directory);
  if (!read_text(path, text, sizeof(text)) || sscanf(text, "%llu %llu", &ran, &waited) != 2) return;
  uint32_t place = tid % SEEN_MAX;
  bool known = seen[place].tid == tid && seen[place].ran <= ran && seen[place].waited <= waited;
  sums->ran += ran - (known ? seen[place].ran : 0);
  sums->waited += waited - (known ? seen[place].waited : 0);
  seen[place].tid = tid;
  seen[place].ran = ran;
  seen[place].waited = waited;
}

void watchdog_begin(pid_t group) {
  watched = group;
  looked_ns = uffd_now();
  memset(seen, 0, sizeof(seen));
}

int64_t watchdog_look(void) {
  struct sums sums = {0};
  uint64_t now = uffd_now(), passed = now - looked_ns;
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  each_thread(add_up, &sums);
  looked_ns = now;
  uint64_t wanted = passed > sums.waited ? passed - sums.waited : 0;
  uint64_t had = sums.ran / (uint64_t)(processors > 0 ? processors : 1);
  return (int64_t)(min_u64(max_u64(wanted, had), passed) / 1000000);
}

static void tell(const char *directory, uint32_t tid, void *ctx) {
  char path[640], text[512], place[128];
  snprintf(path, sizeof(path), "%s/stat", directory);
  if (!read_text(path, text, sizeof(text))) return;
  snprintf(path, sizeof(path), "%s/wchan", directory);
  read_text(path, place, sizeof(place));
  char *name = strchr(text, '('), *end = strrchr(text, ')');
  if (name == NULL || end == NULL) return;
  fprintf(ctx, "  thread %u %.*s: state %c, %s\n", tid, (int)(end + 1 - name), name, end[2],
          place[0] > '9' ? place : "no place told");
}

void watchdog_tell(FILE *file) {
  each_thread(tell, file);
}
