/*
 * victim FOLDER MIB MODE: a program that is dumped and restored. It fills MIB of anonymous memory with a pattern,
 * writes READY and its pid to FOLDER/log, and waits for FOLDER/go. Then it checks every page, and writes how many were
 * wrong. MODE is the way: walk, in random order, with the times (seconds since 1970) of the first page, of 1000 and of
 * all; threads, the same by 4 threads; tree, by 20 processes, each with memory of its own, beside a zombie; events,
 * while it forks, drops, moves, grows and unmaps. The process that is started only stays until all of these are dead,
 * so that their pids are free again.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE    UINT64_C(4096)
#define TASKS   20u
#define THREADS 4u

static const char *folder;
static char *memory;
static uint64_t pages, seed;
static _Atomic unsigned wrong;

static void say(const char *format, ...) {
  char line[256], path[4096];
  struct timespec now;
  va_list arguments;
  clock_gettime(CLOCK_REALTIME, &now);
  int length = snprintf(line, sizeof(line), "%lld.%06ld ", (long long)now.tv_sec, now.tv_nsec / 1000);
  va_start(arguments, format);
  length += vsnprintf(line + length, sizeof(line) - (size_t)length, format, arguments);
  va_end(arguments);
  snprintf(path, sizeof(path), "%s/log", folder);
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (write(fd, line, (size_t)length) != length) abort();
  close(fd);
}

static uint64_t word(uint64_t page, uint64_t index) {
  return ((page * 512 + index + 1) * UINT64_C(0x9e3779b97f4a7c15)) ^ seed;
}

static void fill(void) {
  for (uint64_t page = 0; page < pages; page++) {
    for (uint64_t i = 0; i < PAGE / 8; i++) {
      ((uint64_t *)(void *)(memory + page * PAGE))[i] = word(page, i);
    }
  }
}

/* The page at `at` was the page of this number. */
static void check(const char *at, uint64_t page) {
  for (uint64_t i = 0; i < PAGE / 8; i++) {
    if (((const uint64_t *)(const void *)at)[i] == word(page, i)) continue;
    wrong++;
    return;
  }
}

static void check_zero(const char *at, uint64_t count) {
  for (uint64_t i = 0; i < count * PAGE; i++) {
    if (at[i] == 0) continue;
    wrong++;
    return;
  }
}

static void check_range(const char *at, uint64_t first, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    check(at + i * PAGE, first + i);
  }
}

static uint64_t choose_stride(void) {
  uint64_t stride = 7919;
  while (pages % stride == 0) {
    stride += 2;
  }
  return stride;
}

/* Every page, in an order that no read-ahead follows. */
static void walk(void) {
  uint64_t stride = choose_stride();
  for (uint64_t i = 0; i < pages; i++) {
    uint64_t page = i * stride % pages;
    check(memory + page * PAGE, page);
    if (i == 0) say("FIRST\n");
    if (i == 999) say("THOUSAND\n");
  }
}

static void *walk_share(void *argument) {
  uint64_t stride = choose_stride();
  for (uint64_t i = (uintptr_t)argument; i < pages; i += THREADS) {
    uint64_t page = i * stride % pages;
    check(memory + page * PAGE, page);
  }
  return NULL;
}

static void walk_in_threads(void) {
  pthread_t threads[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++) {
    pthread_create(&threads[i], NULL, walk_share, (void *)i);
  }
  for (unsigned i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
  }
}

static void wait_for(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) abort();
  wrong += (unsigned)WEXITSTATUS(status);
}

/* In quarters: one is dropped from, one moves and grows, one is unmapped in part. */
static void make_events(void) {
  uint64_t quarter = pages / 4;
  pid_t child = fork();
  if (child == 0) {
    check_range(memory, 0, pages);
    _exit(wrong != 0);
  }
  madvise(memory + quarter * PAGE, 16 * PAGE, MADV_DONTNEED);
  check_zero(memory + quarter * PAGE, 16);
  char *to = mmap(NULL, 2 * quarter * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char *moved =
      mremap(memory + 2 * quarter * PAGE, quarter * PAGE, (quarter + 16) * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
  if (moved != to) abort();
  check_range(moved, 2 * quarter, quarter);
  check_zero(moved + quarter * PAGE, 16);
  munmap(memory + (3 * quarter + 8) * PAGE, 64 * PAGE);
  check_range(memory + 3 * quarter * PAGE, 3 * quarter, 8);
  check_range(memory + (3 * quarter + 72) * PAGE, 3 * quarter + 72, quarter - 72);
  check_range(memory, 0, quarter);
  check_range(memory + (quarter + 16) * PAGE, quarter + 16, quarter - 16);
  wait_for(child);
}

static void await_go(void) {
  char path[4096];
  const struct timespec pause = {.tv_nsec = 1000000};
  snprintf(path, sizeof(path), "%s/go", folder);
  while (access(path, F_OK) != 0) {
    nanosleep(&pause, NULL);
  }
}

static void be_tree(void) {
  pid_t children[TASKS - 1], zombie = fork();
  if (zombie == 0) _exit(0);
  int ready[2];
  if (pipe(ready) != 0) abort();
  for (unsigned i = 0; i < TASKS - 1; i++) {
    children[i] = fork();
    if (children[i] != 0) continue;
    seed = i + 1;
    fill();
    if (write(ready[1], "", 1) != 1) abort();
    await_go();
    check_range(memory, 0, pages);
    _exit(wrong != 0);
  }
  for (unsigned i = 0; i < TASKS - 1; i++) {
    char byte;
    if (read(ready[0], &byte, 1) != 1) abort();
  }
  fill();
  say("READY %d\n", getpid());
  await_go();
  check_range(memory, 0, pages);
  for (unsigned i = 0; i < TASKS - 1; i++) {
    wait_for(children[i]);
  }
  wait_for(zombie);
}

static int bury_all(void) {
  while (wait(NULL) > 0) {
  }
  return 0;
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return 1;
  if (fork() != 0) return bury_all();
  folder = arguments[1];
  const char *mode = arguments[3];
  bool tree = strcmp(mode, "tree") == 0;
  pages = strtoull(arguments[2], NULL, 10) * 256 / (tree ? TASKS : 1);
  memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || setsid() < 0) return 1;
  madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
  if (tree) {
    be_tree();
  } else {
    fill();
    say("READY %d\n", getpid());
    await_go();
    if (strcmp(mode, "events") == 0) make_events();
    if (strcmp(mode, "threads") == 0) walk_in_threads();
    if (strcmp(mode, "walk") == 0) walk();
  }
  say("ALL wrong %u\n", wrong);
  return wrong != 0;
}
