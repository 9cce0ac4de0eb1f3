/*
 * Images that lie elsewhere, beside what else there is: nbdcopy, which fetches all of it first, and a mapping of that
 * file; nbdfuse, whose file is mapped and fetched by its faults; and nbdkit's curl plugin instead of HTTP of our own.
 */
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

#include <uffd_image.h>

#include "bench.h"
#include "kit.h"
#include "web.h"

#define DELAY_MS  20
#define FEW       16u
#define FUSE_PART (4 * MIB) /* it takes as long for each page however many there are */

static struct kit kit;
static struct web web;

static bool has(const char *program) {
  char command[96];
  snprintf(command, sizeof(command), "command -v %s > /dev/null", program);
  return system(command) == 0;
}

/* The n-th of the few pages: none is near another one. */
static uint64_t few_at(const struct plan *plan, unsigned n) {
  return (n * 7 + 3) % FEW * (plan->length / FEW) + 5 * PAGE;
}

/* plan->part: so much of it in order; 0: a few pages. MAIN: ns for each page, or ms for all of the few. */
static void touch_some(const struct plan *plan, const char *memory, uint64_t begin, double figures[FIGURES]) {
  const volatile char *bytes = memory;
  for (uint64_t at = 0; at < plan->part; at += PAGE) {
    (void)bytes[at];
  }
  for (unsigned i = 0; plan->part == 0 && i < FEW; i++) {
    (void)bytes[few_at(plan, i)];
  }
  double taken = (double)(now_ns() - begin);
  figures[MAIN] = plan->part == 0 ? taken / 1e6 : taken * (double)PAGE / (double)plan->part;
}

static void check_some(const struct plan *plan, const char *memory) {
  const char *right = plan->image->mapping;
  if (plan->part != 0 && memcmp(memory, right, plan->part) != 0) die("what was fetched is wrong");
  for (unsigned i = 0; plan->part == 0 && i < FEW; i++) {
    if (memcmp(memory + few_at(plan, i), right + few_at(plan, i), PAGE) != 0) die("what was fetched is wrong");
  }
}

/* uffd; plan->special is the URI. All of it comes by prefetch. */
static void by_uffd(const struct plan *plan, bool check, double figures[FIGURES]) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  const char *uri = plan->special;
  uffd_resolver *resolver;
  uffd_region *region;
  uffd_image *image;
  opts.cache = "";
  opts.flags = UFFD_IMAGE_UNVERSIONED;
  uint64_t begin = now_ns();
  must(uffd_image_open(&uri, 1, &opts, &image));
  must(uffd_image_resolver(image, &resolver));
  uffd_memory *memory = serve_memory(plan);
  uffd_loop *loop = serve_loop(plan);
  must(uffd_loop_add(loop, memory, resolver, NULL, &region));
  if (plan->part != 0) must(uffd_region_prefetch(region, 0, plan->part));
  touch_some(plan, uffd_memory_address(memory), begin, figures);
  if (check) check_some(plan, uffd_memory_address(memory));
  must(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(resolver);
  uffd_image_close(image);
}

/* Whether the library was built with what reads from there. */
static bool reads(const char *name, const char *uri) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  uffd_image *image;
  opts.cache = "";
  opts.flags = UFFD_IMAGE_UNVERSIONED;
  if (uffd_image_open(&uri, 1, &opts, &image) < 0) {
    fprintf(stderr, "uffd-bench: %s: %s\n", name, uffd_errmsg());
    return false;
  }
  uffd_image_close(image);
  return true;
}

static const char *map_path(const char *path, uint64_t length) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  const char *memory = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
  if (fd < 0 || memory == MAP_FAILED) die("%s: %m", path);
  close(fd);
  return memory;
}

/* All of it is fetched first. */
static void by_nbdcopy(const struct plan *plan, bool check, double figures[FIGURES]) {
  char path[128], command[512];
  temporary_path(path, sizeof(path), "copy");
  snprintf(command, sizeof(command), "nbdcopy '%s' '%s'", kit.uri, path);
  uint64_t begin = now_ns();
  if (system(command) != 0) die("nbdcopy has failed");
  const char *memory = map_path(path, plan->length);
  touch_some(plan, memory, begin, figures);
  if (check) check_some(plan, memory);
  munmap((void *)(uintptr_t)memory, plan->length);
  unlink(path);
}

/* Its file is there when it has written its number. */
static pid_t start_fuse(const char *file, const char *pid_file) {
  const struct timespec while_it_starts = {0, 100000};
  struct stat status;
  pid_t pid = fork();
  if (pid < 0) die("fork: %m");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(quiet, 2);
    execlp("nbdfuse", "nbdfuse", "-r", "-P", pid_file, file, kit.uri, (char *)NULL);
    _exit(127);
  }
  while (stat(pid_file, &status) != 0 || status.st_size == 0) {
    if (waitpid(pid, NULL, WNOHANG) == pid) die("nbdfuse does not start");
    nanosleep(&while_it_starts, NULL);
  }
  return pid;
}

static void by_nbdfuse(const struct plan *plan, bool check, double figures[FIGURES]) {
  char directory[128], file[160], pid_file[160];
  temporary_path(directory, sizeof(directory), "fuse");
  snprintf(file, sizeof(file), "%s/image", directory);
  snprintf(pid_file, sizeof(pid_file), "%s.pid", directory);
  if (mkdir(directory, 0700) != 0) die("%s: %m", directory);
  uint64_t begin = now_ns();
  pid_t pid = start_fuse(file, pid_file);
  const char *memory = map_path(file, plan->length);
  touch_some(plan, memory, begin, figures);
  if (check) check_some(plan, memory);
  munmap((void *)(uintptr_t)memory, plan->length);
  kill(pid, SIGTERM);
  waitpid(pid, NULL, 0);
  unlink(pid_file);
  rmdir(directory);
}

static void peer_row(struct row *row, const struct contender *uffd, const struct contender *peer, const char *name) {
  if (peer == NULL) return;
  row->uffd = uffd->figures[MAIN];
  row->base = peer->figures[MAIN];
  row->base_name = name;
  report(row);
}

static void compare_peers(const char *name, const char *unit, uint64_t part, const char *note) {
  const struct plan plan = {.length = TYPICAL_BYTES,
                            .part = part,
                            .contents = IMAGE,
                            .image = image_typical(),
                            .engine = UFFD_ENGINE_THREADS,
                            .special = kit.uri};
  struct plan fuse = plan;
  if (part != 0) fuse.part = FUSE_PART;
  struct contender list[] = {
      {.run = by_uffd, .plan = &plan}, {.run = by_nbdcopy, .plan = &plan}, {.run = by_nbdfuse, .plan = &fuse}};
  bool mounts = has("nbdfuse") && access("/dev/fuse", R_OK | W_OK) == 0;
  struct row row = {.name = name, .unit = unit, .engine = "threads"};
  row.runs = interleave(list, mounts ? 3 : 2, BUDGET_NS);
  explain(&row, "%s", note);
  peer_row(&row, &list[0], &list[1], "nbdcopy, then mmap");
  peer_row(&row, &list[0], mounts ? &list[2] : NULL, "nbdfuse, mmap");
}

void case_remote_peers(const char *name) {
  if (!has("nbdcopy") || !kit_start(&kit, image_typical(), DELAY_MS)) {
    fprintf(stderr, "uffd-bench: %s: nbdkit or nbdcopy is not installed\n", name);
    return;
  }
  if (reads(name, kit.uri)) {
    compare_peers(name, "ms until 16 pages are read", 0, "64 MiB, 20 ms away, from nothing");
    compare_peers(name, "ns/page, all of it", TYPICAL_BYTES, "64 MiB, 20 ms away, from nothing; nbdfuse: 4 MiB of it");
  }
  kit_end(&kit);
}

/* The same web server, by HTTP of our own, and by nbdkit's curl plugin and NBD. */
static void compare_http(const char *name, const char *unit, uint64_t part) {
  const struct plan own = {.length = TYPICAL_BYTES,
                           .part = part,
                           .contents = IMAGE,
                           .image = image_typical(),
                           .engine = UFFD_ENGINE_THREADS,
                           .special = web.url};
  struct plan by_kit = own;
  by_kit.special = kit.uri;
  struct contender list[] = {{.run = by_uffd, .plan = &own}, {.run = by_uffd, .plan = &by_kit}};
  struct row row = {.name = name, .unit = unit, .engine = "threads"};
  row.runs = RUNS_OF(list);
  explain(&row, "64 MiB, from nginx beside it");
  peer_row(&row, &list[0], &list[1], "nbdkit curl, NBD");
}

void case_remote_http(const char *name) {
  if (!web_start(&web, image_typical())) {
    fprintf(stderr, "uffd-bench: %s: nginx is not installed\n", name);
    return;
  }
  if (!kit_start_curl(&kit, web.url)) {
    fprintf(stderr, "uffd-bench: %s: nbdkit has no curl plugin\n", name);
    web_end(&web);
    return;
  }
  if (reads(name, web.url) && reads(name, kit.uri)) {
    compare_http(name, "ms until 16 pages are read", 0);
    compare_http(name, "ns/page, all of it", TYPICAL_BYTES);
  }
  kit_end(&kit);
  web_end(&web);
}
