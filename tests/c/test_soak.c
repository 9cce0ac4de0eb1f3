/*
 * What holds for a while must hold for long: clients come and go, workers and supervisors are killed at random moments,
 * clients do what they can against others. Each test is short here. UFFD_SOAK=whole (tests/run --soak) makes it as long
 * as examples/operator.md has its figures, UFFD_SOAK=NUMBER so many times; each prints a row.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "paging.h"

#define PAGE    UINT64_C(4096)
#define MIB     (UINT64_C(1) << 20)
#define READERS 64
#define BUCKETS 512 /* of a histogram: 16 a doubling */
#define WINDOW  16  /* kills that are remembered */

static unsigned count_of(unsigned whole, unsigned small) {
  const char *asked = getenv("UFFD_SOAK");
  unsigned number = asked != NULL ? (unsigned)strtoul(asked, NULL, 10) : 0;
  if (asked != NULL) return number != 0 ? number : whole;
  return small / PAGING_SCALE != 0 ? small / PAGING_SCALE : 1;
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* Durations: added by many processes. */
struct histogram {
  _Atomic uint64_t counts[BUCKETS], most;
};

static unsigned bucket_of(uint64_t ns) {
  if (ns < 16) return (unsigned)ns;
  unsigned shift = 59 - (unsigned)__builtin_clzll(ns);
  return 16 * (shift + 1) + (unsigned)(ns >> shift) - 16;
}

static uint64_t value_of(unsigned bucket) {
  if (bucket < 16) return bucket;
  return (uint64_t)(16 + bucket % 16) << (bucket / 16 - 1);
}

static void add(struct histogram *histogram, uint64_t ns) {
  uint64_t most = atomic_load(&histogram->most);
  unsigned bucket = bucket_of(ns);
  atomic_fetch_add(&histogram->counts[bucket < BUCKETS ? bucket : BUCKETS - 1], 1);
  while (ns > most && !atomic_compare_exchange_weak(&histogram->most, &most, ns)) {
  }
}

static uint64_t count_all(const struct histogram *histogram) {
  uint64_t all = 0;
  for (unsigned i = 0; i < BUCKETS; i++) {
    all += atomic_load(&histogram->counts[i]);
  }
  return all;
}

static double percentile_us(const struct histogram *histogram, unsigned percent) {
  uint64_t all = count_all(histogram), seen = 0;
  for (unsigned i = 0; i < BUCKETS; i++) {
    seen += atomic_load(&histogram->counts[i]);
    if (all != 0 && seen * 100 >= all * percent) return (double)value_of(i) / 1000;
  }
  return 0;
}

static double most_us(const struct histogram *histogram) {
  return (double)atomic_load(&histogram->most) / 1000;
}

/* Shared with the clients. */
struct soak {
  struct paging paging;
  char control[96];
  _Atomic int stop;
  _Atomic uint64_t pages, sessions, wrong, child_pages, child_wrong;
  _Atomic uint64_t touches[READERS]; /* of each reader */
  _Atomic uint64_t kills;            /* so far; the i-th was at killed_ns[i % WINDOW] */
  _Atomic uint64_t killed_ns[WINDOW];
  struct histogram pauses, faults;
};

static struct soak *make_soak(uint64_t length) {
  struct soak *soak = mmap(NULL, sizeof(*soak), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(soak != MAP_FAILED);
  paging_set_up(&soak->paging, length);
  snprintf(soak->control, sizeof(soak->control), "%s/control", soak->paging.directory);
  return soak;
}

/* Not in the shared memory: the supervisor's own copy of the struct has another pid in it. */
static void start_pager(struct soak *soak, const struct uffd_pager_opts *opts) {
  fflush(NULL);
  struct paging own = soak->paging;
  paging_start(&own, opts);
  soak->paging = own;
}

static void note_kill(struct soak *soak) {
  atomic_store(&soak->killed_ns[(atomic_load(&soak->kills) + 1) % WINDOW], now_ns());
  atomic_fetch_add(&soak->kills, 1);
}

/* Clients that read the image, again and again */

struct reader {
  struct soak *soak;
  unsigned index;
  bool forks;
  uint64_t random, seen; /* kills that it has waited through */
};

/* A client's pause: from the kill, or from its next access when that came later, until the page was there. */
static bool touch(struct reader *reader, struct vmm *vmm, uint64_t offset) {
  struct soak *soak = reader->soak;
  struct vmm_work work = {.image = soak->paging.bytes, .image_length = soak->paging.length};
  uint64_t before = now_ns();
  bool right = vmm_page(vmm, &work, offset) == 1;
  uint64_t after = now_ns(), kills = atomic_load(&soak->kills);
  if (kills != reader->seen) {
    uint64_t killed = atomic_load(&soak->killed_ns[kills % WINDOW]);
    add(&soak->pauses, after - (killed > before && killed < after ? killed : before));
    reader->seen = kills;
  }
  add(&soak->faults, after - before);
  atomic_fetch_add(&soak->touches[reader->index], 1);
  return right;
}

static void read_all(struct reader *reader, struct vmm *vmm, bool is_child) {
  struct soak *soak = reader->soak;
  uint64_t pages = soak->paging.length / PAGE, step = (next_random(&reader->random) % pages) | 1, at = 0;
  for (uint64_t i = 0; i < pages && atomic_load(&soak->stop) == 0; i++) {
    at = (at + step) % pages; /* pages is a power of two: each comes once */
    bool right = touch(reader, vmm, at * PAGE);
    atomic_fetch_add(is_child ? &soak->child_pages : &soak->pages, 1);
    if (!right) atomic_fetch_add(is_child ? &soak->child_wrong : &soak->wrong, 1);
  }
}

/*
 * Hands over, and waits for the answer: from then on the client is the pager's, whatever dies. A supervisor that is
 * killed before has taken nothing.
 */
static bool hand_over(struct vmm *vmm) {
  char plain[512], list[1024], answer[256];
  size_t length = vmm_list(vmm, VMM_PAGE_SIZE | VMM_PAGE_SIZE_KIB, plain, sizeof(plain)), has = 0;
  CHECK(length < sizeof(plain) && strncmp(plain, "[{", 2) == 0);
  snprintf(list, sizeof(list), "[{\"uffd_answer\":true,%.*s", (int)length - 2, plain + 2);
  const struct vmm_message message = {.text = list};
  if (vmm_hand_over(vmm, &message) != 0) return false;
  while (has < sizeof(answer) - 1) {
    ssize_t count = recv(vmm->socket, answer + has, sizeof(answer) - 1 - has, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    has += (size_t)count;
    answer[has] = '\0';
    if (answer[has - 1] == '\n') return strstr(answer, "\"ok\":true") != NULL;
  }
  return false;
}

/* False: there is no pager just now. */
static bool read_once(struct reader *reader, bool forks) {
  struct vmm vmm;
  uint64_t pages = reader->soak->paging.length / PAGE;
  CHECK_EQ(vmm_map(&vmm, PAGE, &pages, 1), 0);
  int result = vmm_register(&vmm, forks ? UFFD_FEATURE_EVENT_FORK : 0, UFFDIO_REGISTER_MODE_MISSING);
  if (result == -EPERM) _exit(77);
  CHECK_EQ(result, 0);
  vmm.socket = vmm_connect(reader->soak->paging.socket);
  bool served = vmm.socket >= 0 && hand_over(&vmm);
  pid_t child = served && forks ? fork() : -1;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    read_all(reader, &vmm, true);
    _exit(0);
  }
  if (served) read_all(reader, &vmm, false);
  if (child > 0) waitpid(child, NULL, 0);
  if (served) (void)vmm_send(vmm.socket, "[]", 2, NULL, 0); /* it needs no pager any more, though the process lives */
  vmm_unmap(&vmm);
  atomic_fetch_add(&reader->soak->sessions, served);
  return served;
}

static pid_t start_reader(struct soak *soak, unsigned index, bool forks) {
  fflush(NULL);
  pid_t client = fork();
  CHECK(client >= 0);
  if (client != 0) return client;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct reader reader = {soak, index, forks, UINT64_C(88172645463325252) + 7919 * index, atomic_load(&soak->kills)};
  for (unsigned i = 0; atomic_load(&soak->stop) == 0; i++) {
    int status = 0;
    pid_t session = fork(); /* a process each: what another supervisor has taken over ends with its process */
    if (session == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      _exit(read_once(&reader, forks && i % 2 == 0) ? 0 : 3);
    }
    if (session > 0) waitpid(session, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) _exit(77);
    if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 3)) _exit(1);
    reader.random += 7919;
    reader.seen = atomic_load(&soak->kills);
  }
  _exit(0);
}

static void start_readers(struct soak *soak, pid_t *readers, unsigned count, bool forks) {
  atomic_store(&soak->stop, 0);
  for (unsigned i = 0; i < count; i++) {
    readers[i] = start_reader(soak, i, forks);
  }
}

/* Each of them has read a page since it was asked. */
static void await_readers(struct soak *soak, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    uint64_t before = atomic_load(&soak->touches[i]);
    while (atomic_load(&soak->touches[i]) == before) {
      check_pause();
    }
    check_progress();
  }
}

static void stop_readers(struct soak *soak, const pid_t *readers, unsigned count) {
  atomic_store(&soak->stop, 1);
  for (unsigned i = 0; i < count; i++) {
    paging_client_ok(readers[i]);
  }
}

static void tear_down(struct soak *soak) {
  paging_tear_down(&soak->paging);
  munmap(soak, sizeof(*soak));
}

/* ---- 10 000 clients come and go */

static long residents(pid_t process) {
  char path[64];
  long all = 0, resident = 0;
  snprintf(path, sizeof(path), "/proc/%d/statm", process);
  FILE *file = fopen(path, "re");
  CHECK(file != NULL && fscanf(file, "%ld %ld", &all, &resident) == 2);
  fclose(file);
  return resident * 4;
}

struct usage {
  unsigned fds, worker_fds, children;
  long kib, worker_kib;
};

static struct usage measure(struct paging *paging) {
  char path[64];
  int worker = atomic_load(&paging->seen->workers[0]);
  paging_await_clients(paging, 0, 0);
  paging_turn(paging);
  snprintf(path, sizeof(path), "/proc/%d/fd", worker);
  return (struct usage){.fds = atomic_load(&paging->seen->fds),
                        .worker_fds = paging_entries(path),
                        .children = paging_children(paging->supervisor),
                        .kib = residents(paging->supervisor),
                        .worker_kib = residents(worker)};
}

static void come_and_go(struct paging *paging, unsigned count) {
  struct paging_job job = {.paging = paging, .work = {.one_of = 4}};
  pid_t clients[8];
  for (unsigned done = 0; done < count;) {
    unsigned together = count - done < 8 ? count - done : 8;
    for (unsigned i = 0; i < together; i++) {
      clients[i] = paging_client(&job);
      job.work.seed++;
    }
    for (unsigned i = 0; i < together; i++) {
      paging_client_ok(clients[i]);
    }
    done += together;
    check_progress();
  }
}

static void clients_come_and_go(void) {
  struct paging paging;
  unsigned count = count_of(10000, 80);
  paging_set_up(&paging, MIB / 4);
  paging_start(&paging, NULL);
  come_and_go(&paging, count / 4 + 8);
  struct usage first = measure(&paging);
  come_and_go(&paging, count);
  struct usage last = measure(&paging);
  printf("  soak: %u clients came and went: descriptors %u and %u, then %u and %u; supervisor %ld KiB, then %ld; "
         "worker %ld KiB, then %ld; processes %u, then %u\n",
         count, first.fds, first.worker_fds, last.fds, last.worker_fds, first.kib, last.kib, first.worker_kib,
         last.worker_kib, first.children, last.children);
  CHECK_EQ(last.fds, first.fds);
  CHECK_EQ(last.worker_fds, first.worker_fds);
  CHECK_EQ(last.children, first.children);
  if (PAGING_SCALE == 1) { /* sanitizers keep what was freed */
    CHECK(last.kib < first.kib + 512);
    CHECK(last.worker_kib < first.worker_kib + 1024);
  }
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* ---- workers are killed, or stopped */

static void await_worker(struct paging *paging, unsigned begun) {
  while (atomic_load(&paging->seen->begun) == begun) {
    check_pause();
  }
}

static struct uffd_pager_opts soak_opts(void) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.around = PAGE; /* so that there is always something to do */
  opts.max_clients = 512;
  return opts;
}

static void print_pauses(const struct soak *soak, const char *what, unsigned count, unsigned clients) {
  printf("  soak: %s %u times, %u clients%s: %llu pages in %llu sessions, %llu wrong; in forked children %llu, %llu "
         "wrong; "
         "pause p50 %.1f ms, p99 %.1f, max %.1f\n",
         what, count, clients, atomic_load(&soak->child_pages) != 0 ? ", which fork" : "",
         (unsigned long long)atomic_load(&soak->pages), (unsigned long long)atomic_load(&soak->sessions),
         (unsigned long long)atomic_load(&soak->wrong), (unsigned long long)atomic_load(&soak->child_pages),
         (unsigned long long)atomic_load(&soak->child_wrong), percentile_us(&soak->pauses, 50) / 1000,
         percentile_us(&soak->pauses, 99) / 1000, most_us(&soak->pauses) / 1000);
}

static void kill_workers(unsigned count, unsigned clients, bool forks) {
  struct soak *soak = make_soak(4 * MIB);
  struct paging *paging = &soak->paging;
  struct uffd_pager_opts opts = soak_opts();
  pid_t readers[READERS];
  uint64_t random = 4711;
  start_pager(soak, &opts);
  start_readers(soak, readers, clients, forks);
  await_readers(soak, clients);
  for (unsigned i = 0; i < count; i++) {
    unsigned begun = atomic_load(&paging->seen->begun);
    paging_sleep_us((unsigned)(next_random(&random) % 12000));
    note_kill(soak);
    CHECK(paging_kill_worker(paging, 0));
    await_worker(paging, begun);
    if (i % 8 == 7) await_readers(soak, clients); /* a client of which 40 workers die without an answer is given up */
    check_progress();
  }
  await_readers(soak, clients);
  stop_readers(soak, readers, clients);
  print_pauses(soak, "worker killed", count, clients);
  CHECK_EQ(atomic_load(&soak->wrong), 0);
  CHECK_EQ(paging_reports(paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(paging), 1);
  tear_down(soak);
}

static void one_client_and_its_worker_is_killed(void) {
  kill_workers(count_of(10000, 16), 1, false);
}

static void eight_clients_and_their_worker_is_killed(void) {
  kill_workers(count_of(10000, 16), 8, false);
}

static void many_clients_and_their_worker_is_killed(void) {
  kill_workers(count_of(10000, 8), READERS / (PAGING_SCALE > 1 ? 4 : 1), false);
}

static void clients_fork_and_their_worker_is_killed(void) {
  kill_workers(count_of(10000, 8), 8, true);
}

static void worker_is_stopped(void) {
  struct soak *soak = make_soak(4 * MIB);
  struct paging *paging = &soak->paging;
  struct uffd_pager_opts opts = soak_opts();
  struct histogram *noticed = &soak->faults;
  pid_t readers[8];
  unsigned count = count_of(100, 2);
  opts.hang_ms = 500 * PAGING_SCALE;
  start_pager(soak, &opts);
  start_readers(soak, readers, 8, false);
  await_readers(soak, 8);
  memset(noticed, 0, sizeof(*noticed));
  struct histogram *times = mmap(NULL, sizeof(*times), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (unsigned i = 0; i < count; i++) {
    unsigned begun = atomic_load(&paging->seen->begun), hung = paging_reports(paging, UFFD_REPORT_HUNG);
    uint64_t stopped = now_ns();
    note_kill(soak);
    CHECK_EQ(kill(atomic_load(&paging->seen->workers[0]), SIGSTOP), 0);
    paging_await(paging, UFFD_REPORT_HUNG, hung + 1);
    add(times, now_ns() - stopped);
    await_worker(paging, begun);
    await_readers(soak, 8);
    check_progress();
  }
  stop_readers(soak, readers, 8);
  print_pauses(soak, "worker stopped", count, 8);
  printf("  soak: noticed with a deadline of %u ms: p50 %.0f ms, max %.0f\n", opts.hang_ms,
         percentile_us(times, 50) / 1000, most_us(times) / 1000);
  CHECK_EQ(atomic_load(&soak->wrong), 0);
  CHECK_EQ(paging_reports(paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(paging), 1);
  munmap(times, sizeof(*times));
  tear_down(soak);
}

/* ---- supervisors are killed: uffd-lua serve --keep */

struct answer {
  char text[1 << 15];
};

static void keep_answer(void *ctx, const char *text, size_t length) {
  struct answer *answer = ctx;
  snprintf(answer->text, sizeof(answer->text), "%.*s", (int)length, text);
}

/* The number behind the name in the pager's answer; 0: it does not answer. */
static int ask_number(const struct soak *soak, const char *request, const char *name) {
  static struct answer answer;
  answer.text[0] = '\0';
  (void)uffd_pager_ask(soak->control, request, 1000, keep_answer, &answer);
  const char *at = strstr(answer.text, name);
  return at != NULL ? (int)strtol(at + strlen(name), NULL, 10) : 0;
}

static int supervisor_of(const struct soak *soak) {
  return ask_number(soak, "{\"request\":\"status\"}", "\"pid\":");
}

static int worker_of(const struct soak *soak) {
  return ask_number(soak, "{\"request\":\"workers\"}", "\"worker\":0,\"pid\":");
}

static void find_program(char *path, size_t size) {
  ssize_t length = readlink("/proc/self/exe", path, size - 32);
  CHECK(length > 0);
  path[length] = '\0';
  snprintf(strrchr(path, '/'), 32, "/../bin/uffd-lua");
  if (access(path, X_OK) != 0) SKIP("uffd-lua was not built");
}

static pid_t start_kept(const struct soak *soak) {
  char path[256], log[128];
  find_program(path, sizeof(path));
  snprintf(log, sizeof(log), "%s/log", soak->paging.directory);
  fflush(NULL);
  pid_t keeper = fork();
  CHECK(keeper >= 0);
  if (keeper != 0) return keeper;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  int fd = open(log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  dup2(fd, 1);
  dup2(fd, 2);
  execl(path, path, "serve", "--keep", "--socket", soak->paging.socket, "--control", soak->control, "--image",
        soak->paging.image, "--around", "4K", "--max-clients", "512", "--log", "error", (char *)NULL);
  _exit(127);
}

static void kill_supervisors(unsigned count, bool both) {
  struct soak *soak = make_soak(4 * MIB);
  enum { CLIENTS = 8 };
  pid_t readers[CLIENTS], keeper = start_kept(soak);
  uint64_t random = 815;
  int status, supervisor;
  while (worker_of(soak) == 0) {
    check_pause();
  }
  start_readers(soak, readers, CLIENTS, false);
  await_readers(soak, CLIENTS);
  for (unsigned i = 0; i < count; i++) {
    int worker = worker_of(soak), killed = supervisor_of(soak);
    paging_sleep_us((unsigned)(next_random(&random) % 50000));
    note_kill(soak);
    if (killed != 0) kill(killed, SIGKILL);
    if (both && worker != 0) kill(worker, SIGKILL);
    while ((supervisor = supervisor_of(soak)) == 0 || supervisor == killed || worker_of(soak) == 0) {
      CHECK_EQ(waitpid(keeper, &status, WNOHANG), 0);
      check_pause();
    }
    await_readers(soak, CLIENTS);
    check_progress();
  }
  stop_readers(soak, readers, CLIENTS);
  print_pauses(soak, both ? "supervisor and worker killed" : "supervisor killed", count, CLIENTS);
  CHECK_EQ(atomic_load(&soak->wrong), 0);
  CHECK_EQ(kill(keeper, SIGTERM), 0);
  CHECK_EQ(waitpid(keeper, &status, 0), keeper);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
  tear_down(soak);
}

static void supervisor_is_killed(void) {
  kill_supervisors(count_of(500, 2), false);
}

static void supervisor_and_worker_are_killed(void) {
  kill_supervisors(count_of(500, 2), true);
}

/* ---- 64 idle clients */

static double cpu_seconds(pid_t process) {
  char path[64], text[512];
  unsigned long user = 0, kernel = 0;
  snprintf(path, sizeof(path), "/proc/%d/stat", process);
  FILE *file = fopen(path, "re");
  CHECK(file != NULL && fgets(text, sizeof(text), file) != NULL);
  fclose(file);
  CHECK_EQ(sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel), 2);
  return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

static void be_idle(struct paging_job *job) {
  CHECK_EQ(vmm_page(&job->vmm, &job->work, 0), 1);
  while (atomic_load(&job->paging->seen->flags[1]) == 0) {
    paging_sleep_us(200000);
  }
}

static void idle_clients(void) {
  struct paging paging;
  struct uffd_pager_opts opts = soak_opts();
  pid_t clients[READERS];
  unsigned seconds = count_of(30, 1), count = READERS / PAGING_SCALE;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = be_idle};
  for (unsigned i = 0; i < count; i++) {
    clients[i] = paging_client(&job);
  }
  paging_await_clients(&paging, count, UFFD_CLIENT_SERVED);
  int worker = atomic_load(&paging.seen->workers[0]);
  double supervisor_cpu = cpu_seconds(paging.supervisor), worker_cpu = cpu_seconds(worker);
  paging_sleep_us(seconds * 1000000);
  printf("  soak: %u idle clients for %u s: supervisor %.2f %% of a processor (with the test's looks at it), worker "
         "%.2f %%\n",
         count, seconds, (cpu_seconds(paging.supervisor) - supervisor_cpu) / seconds * 100,
         (cpu_seconds(worker) - worker_cpu) / seconds * 100);
  atomic_store(&paging.seen->flags[1], 1);
  for (unsigned i = 0; i < count; i++) {
    paging_client_ok(clients[i]);
  }
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* ---- one hostile client beside a good one */

/* Connections that linger when they are closed, as descriptors of a handshake that is never whole. */
static void send_lingering(struct soak *soak) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof(address);
  struct linger linger = {1, 2};
  static char bytes[65536];
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(listener, 1) == 0 &&
      getsockname(listener, (struct sockaddr *)&address, &length) == 0 &&
      connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
  }
  int socket = vmm_connect(soak->paging.socket);
  if (socket >= 0) (void)vmm_send(socket, "[", 1, &fd, 1);
  close(fd);
  if (socket >= 0) (void)vmm_send(socket, "x", 1, NULL, 0);
  if (socket >= 0) close(socket);
  close(listener);
}

/* Connections that say nothing. */
static void stay_silent(struct soak *soak) {
  static int held[400];
  static unsigned next;
  if (held[next] > 0) close(held[next]);
  held[next] = vmm_connect(soak->paging.socket);
  next = (next + 1) % 400;
}

static void send_nonsense(struct soak *soak) {
  int socket = vmm_connect(soak->paging.socket);
  if (socket < 0) return;
  (void)vmm_send(socket, "nonsense", 8, NULL, 0);
  close(socket);
}

static bool become_client(struct soak *soak, struct vmm *vmm, uint64_t features) {
  uint64_t pages = soak->paging.length / PAGE;
  if (vmm_map(vmm, PAGE, &pages, 1) != 0) return false;
  if (vmm_register(vmm, features, UFFDIO_REGISTER_MODE_MISSING) != 0) return false;
  vmm->socket = vmm_connect(soak->paging.socket);
  return vmm->socket >= 0 && vmm_hand_over(vmm, NULL) == 0;
}

static void fork_again(struct soak *soak) {
  static struct vmm vmm;
  static bool is_client;
  if (!is_client && !become_client(soak, &vmm, UFFD_FEATURE_EVENT_FORK)) return;
  is_client = true;
  pid_t child = fork();
  if (child == 0) _exit(0);
  if (child > 0) waitpid(child, NULL, 0);
}

/* The same userfaultfd over and over. */
static void hand_over_again(struct soak *soak) {
  static struct vmm vmm;
  static bool is_client;
  if (!is_client) is_client = become_client(soak, &vmm, 0);
  int socket = vmm_connect(soak->paging.socket);
  if (socket < 0) return;
  struct vmm again = vmm;
  again.socket = socket;
  (void)vmm_hand_over(&again, NULL);
  close(socket);
}

/* Children become clients behind a connection that lives on, and die. */
static void leave_the_dead(struct soak *soak) {
  static int held[64];
  static unsigned next;
  if (held[next] > 0) close(held[next]);
  held[next] = vmm_connect(soak->paging.socket);
  if (held[next] < 0) return;
  pid_t child = fork();
  if (child == 0) {
    struct vmm vmm;
    uint64_t pages = 16;
    if (vmm_map(&vmm, PAGE, &pages, 1) != 0 || vmm_register(&vmm, 0, UFFDIO_REGISTER_MODE_MISSING) != 0) _exit(1);
    vmm.socket = held[next];
    _exit(vmm_hand_over(&vmm, NULL) != 0);
  }
  if (child > 0) waitpid(child, NULL, 0);
  next = (next + 1) % 64;
}

/* Memory that is dropped without a pause. */
static void drop_and_touch(struct soak *soak) {
  static struct vmm vmm;
  static bool is_client;
  if (!is_client) is_client = become_client(soak, &vmm, UFFD_FEATURE_EVENT_REMOVE);
  for (uint64_t at = 0; is_client && at < 64; at++) {
    unsigned char *page = vmm_at(&vmm, at * PAGE % soak->paging.length);
    (void)*(volatile unsigned char *)page;
    madvise(page, PAGE, MADV_DONTNEED);
  }
}

/* Claims far more memory than there is. */
static void claim(struct soak *soak) {
  char text[256];
  static struct vmm vmm;
  static bool is_client;
  if (!is_client) is_client = become_client(soak, &vmm, 0);
  int socket = vmm_connect(soak->paging.socket);
  if (socket < 0) return;
  snprintf(text, sizeof(text),
           "[{\"base_host_virt_addr\":%llu,\"size\":8796093022208,\"offset\":0,\"page_size\":4096,"
           "\"page_size_kib\":4096}]",
           (unsigned long long)vmm.regions[0].address);
  (void)vmm_send(socket, text, strlen(text), &vmm.uffd, 1);
  close(socket);
}

/* Mappings come and go without a pause: the lock of its memory is always held. */
static void hold_the_lock(struct soak *soak) {
  static struct vmm vmm;
  static bool is_client;
  if (!is_client) is_client = become_client(soak, &vmm, 0);
  for (int i = 0; i < 16; i++) {
    void *at = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at != MAP_FAILED) munmap(at, 64 * MIB);
  }
}

/* Orders of another user, who may connect and look, and nothing else. */
static void give_orders(struct soak *soak) {
  static bool is_other;
  if (!is_other && setresuid(65534, 65534, 65534) != 0) return;
  is_other = true;
  (void)uffd_pager_ask(soak->control, "{\"request\":\"drain\"}", 20000, NULL, NULL);
  (void)uffd_pager_ask(soak->control, "{\"request\":\"clients\"}", 20000, NULL, NULL);
}

/* Clients of two regions have another policy than the good one. */
static bool become_odd_client(struct soak *soak, struct vmm *vmm) {
  uint64_t pages[2] = {soak->paging.length / PAGE / 2, soak->paging.length / PAGE / 2};
  if (vmm_map(vmm, PAGE, pages, 2) != 0) return false;
  if (vmm_register(vmm, 0, UFFDIO_REGISTER_MODE_MISSING) != 0) return false;
  vmm->socket = vmm_connect(soak->paging.socket);
  return vmm->socket >= 0 && vmm_hand_over(vmm, NULL) == 0;
}

static _Noreturn int never(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)ctx, (void)state, (void)fault, (void)answer;
  for (;;) {
    pause();
  }
}

static int hang_for_odd_clients(void *ctx, const struct uffd_client *client, uffd_resolver *image,
                                uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  (void)ctx;
  ops.resolve = never;
  if (client->regions_count == 2) return uffd_resolver_callback(&ops, NULL, "hang", NULL, 0, resolver);
  *resolver = image;
  return 0;
}

static int refuse_odd_clients(void *ctx, const struct uffd_client *client, uffd_resolver *image,
                              uffd_resolver **resolver) {
  (void)ctx;
  if (client->regions_count == 2) return uffd_set_errmsg(ENODATA, "Nothing is known of this client.");
  *resolver = image;
  return 0;
}

/* A client whose policy does not come back, until the pager has killed it for that; then another one. */
static void fault_in_vain(struct soak *soak) {
  pid_t child = fork();
  if (child == 0) {
    struct vmm vmm;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!become_odd_client(soak, &vmm)) _exit(1);
    (void)*(volatile unsigned char *)vmm.regions[0].at;
    _exit(0);
  }
  if (child > 0) waitpid(child, NULL, 0);
}

/* Nothing is known of them, so they are given up; by then their memory is no more. */
static void hand_over_for_another(struct soak *soak) {
  struct vmm vmm;
  if (become_odd_client(soak, &vmm)) vmm_unmap(&vmm);
}

static const struct attack {
  const char *name;
  void (*once)(struct soak *soak);
  int (*resolver)(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver);
} attacks[] = {
    {"orders of a user who may only look (B1)", give_orders, NULL},
    {"sockets that linger (B2)", send_lingering, NULL},
    {"400 silent connections (B3)", stay_silent, NULL},
    {"a storm of forks (B4)", fork_again, NULL},
    {"a flood of refused handshakes (B5)", send_nonsense, NULL},
    {"clients whose policy does not come back (B6)", fault_in_vain, hang_for_odd_clients},
    {"clients that are given up, and unmap (B7)", hand_over_for_another, refuse_odd_clients},
    {"one userfaultfd handed over again and again (A3, B3)", hand_over_again, NULL},
    {"dead clients behind living connections (B8)", leave_the_dead, NULL},
    {"8 TiB claimed (B9)", claim, NULL},
    {"a storm of drops", drop_and_touch, NULL},
    {"its memory's lock always held", hold_the_lock, NULL},
};

static pid_t start_attack(struct soak *soak, const struct attack *attack) {
  fflush(NULL);
  pid_t hostile = fork();
  CHECK(hostile >= 0);
  if (hostile != 0) return hostile;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct rlimit limit = {1024, 1024};
  setrlimit(RLIMIT_NOFILE, &limit);
  while (attack->once != NULL) {
    attack->once(soak);
  }
  for (;;) { /* alone: a process that is as busy, and has nothing to do with the pager */
    (void)getppid();
  }
}

/* The good client's faults: their figures, with the hostile one beside it. */
static void be_beside(struct soak *soak, const struct attack *attack, unsigned sessions, struct histogram *faults) {
  struct reader good = {soak, 0, false, 4711, 0};
  memset(&soak->faults, 0, sizeof(soak->faults));
  pid_t hostile = start_attack(soak, attack);
  for (unsigned i = 0; i < sessions;) {
    fflush(NULL);
    pid_t client = fork(); /* of its own: it is not to have the test's descriptors */
    CHECK(client >= 0);
    if (client == 0) _exit(read_once(&good, false) ? 0 : 3);
    int status;
    CHECK_EQ(waitpid(client, &status, 0), client);
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) SKIP("no userfaultfd for this user");
    i += WEXITSTATUS(status) == 0;
    good.random += 7919;
    check_progress();
  }
  int end;
  kill(hostile, SIGKILL);
  CHECK_EQ(waitpid(hostile, &end, 0), hostile);
  CHECK(WIFSIGNALED(end) && WTERMSIG(end) == SIGKILL);
  *faults = soak->faults;
}

static void hostile_clients(void) {
  static struct histogram alone, beside;
  static const struct attack nothing = {"a process that only counts", NULL, NULL};
  unsigned sessions = count_of(50, 1);
  for (size_t i = 0; i < sizeof(attacks) / sizeof(*attacks); i++) {
    struct soak *soak = make_soak(MIB / PAGING_SCALE);
    struct uffd_pager_opts opts = soak_opts();
    opts.max_clients = 128;
    opts.on_crash = attacks[i].once == fault_in_vain ? UFFD_PAGER_KILL : UFFD_PAGER_FREEZE;
    opts.resolver = attacks[i].resolver;
    opts.hang_ms = 2000;
    opts.control = soak->control;
    opts.control_mode = 0666;
    CHECK_EQ(chmod(soak->paging.directory, 0755), 0);
    start_pager(soak, &opts);
    be_beside(soak, &nothing, sessions, &alone);
    be_beside(soak, &attacks[i], sessions, &beside);
    printf("  soak: beside %s: p50 %.1f us, p99 %.1f, max %.1f; alone %.1f, %.1f, %.1f; p99 ratio %.2f\n",
           attacks[i].name, percentile_us(&beside, 50), percentile_us(&beside, 99), most_us(&beside),
           percentile_us(&alone, 50), percentile_us(&alone, 99), most_us(&alone),
           percentile_us(&beside, 99) / percentile_us(&alone, 99));
    CHECK_EQ(atomic_load(&soak->wrong), 0);
    CHECK_EQ(paging_end(&soak->paging), 1); /* no order has ended it */
    tear_down(soak);
  }
}

static const struct check_test tests[] = {
    TEST(clients_come_and_go),
    TEST(one_client_and_its_worker_is_killed),
    TEST(eight_clients_and_their_worker_is_killed),
    TEST(many_clients_and_their_worker_is_killed),
    TEST(clients_fork_and_their_worker_is_killed),
    TEST(worker_is_stopped),
    TEST(supervisor_is_killed),
    TEST(supervisor_and_worker_are_killed),
    TEST(idle_clients),
    TEST(hostile_clients),
};

CHECK_MAIN(tests)
