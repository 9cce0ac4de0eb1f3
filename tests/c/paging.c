/*
 * The pager's tests: see paging.h.
 */
#define _GNU_SOURCE
#include "paging.h"

#include "calls.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

/* The supervisor */

static uffd_pager *pager;
static volatile sig_atomic_t closing;

static void take_signal(int signal) {
  if (signal == SIGHUP) uffd_pager_reload(pager);
  if (signal == SIGTERM) uffd_pager_drain(pager);
  if (signal == SIGUSR1) closing = 1;
}

static void take_report(void *ctx, const struct uffd_pager_report *report) {
  struct paging_seen *seen = ctx;
  if (getenv("CHECK_VERBOSE") != NULL) {
    fprintf(stderr, "%.4f %s worker %u (%d) client %llu: %s\n", (double)report->time_ns / 1e9,
            uffd_report_name(report->kind), report->worker, report->pid,
            report->client != NULL ? (unsigned long long)report->client->client.id : 0, report->text);
  }
  snprintf(seen->texts[report->kind], sizeof(seen->texts[0]), "%s", report->text);
  atomic_store(&seen->errors[report->kind], report->error);
  if (report->kind == UFFD_REPORT_WORKER) {
    atomic_store(&seen->workers[report->worker], report->pid);
    atomic_fetch_add(&seen->begun, 1);
  }
  bool last = report->kind == UFFD_REPORT_GONE || report->kind == UFFD_REPORT_COMPLETE;
  if (last && report->client != NULL) seen->last = *report->client;
  atomic_fetch_add(&seen->reports[report->kind], 1);
}

unsigned paging_entries(const char *path) {
  unsigned count = 0;
  DIR *entries = opendir(path);
  for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
    if (entry->d_name[0] != '.') count++;
  }
  if (entries != NULL) closedir(entries);
  return count;
}

static void look(struct paging_seen *seen) {
  seen->status = (struct uffd_pager_status)UFFD_PAGER_STATUS_INIT;
  CHECK_OK(uffd_pager_status(pager, &seen->status));
  unsigned count = 0;
  for (; count < PAGING_CLIENTS; count++) {
    struct uffd_client_status status = UFFD_CLIENT_STATUS_INIT;
    if (CHECK_OK(uffd_pager_client(pager, count, &status)) == 0) break;
    seen->clients[count] = status;
  }
  atomic_store(&seen->clients_count, count);
  atomic_store(&seen->fds, paging_entries("/proc/self/fd"));
  atomic_fetch_add(&seen->turns, 1);
}

static _Noreturn void supervise(struct paging *paging, const struct uffd_pager_opts *opts) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  calls_allow();
  if (paging->before != NULL) paging->before(paging);
  CHECK_OK(uffd_pager_create(opts, &pager));
  struct sigaction action = {.sa_handler = take_signal};
  sigaction(SIGHUP, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  int result = 1;
  while (result > 0 && !closing) {
    atomic_store(&paging->seen->stepping, 1);
    result = uffd_pager_step(pager, 20);
    atomic_store(&paging->seen->stepping, 0);
    look(paging->seen);
  }
  atomic_store(&paging->seen->over, 1 - result);
  /* After a failure the test decides when to go on. */
  while (result < 0 && !closing) {
    (void)uffd_pager_step(pager, 20);
    look(paging->seen);
  }
  uffd_pager_close(pager);
  exit(0);
}

/* The test's side */

void paging_set_up(struct paging *paging, uint64_t length) {
  const char *temporary = getenv("TMPDIR");
  memset(paging, 0, sizeof(*paging));
  snprintf(paging->directory, sizeof(paging->directory), "%s/uffd-pager-XXXXXX",
           temporary != NULL && strlen(temporary) < 32 ? temporary : "/tmp");
  CHECK(mkdtemp(paging->directory) != NULL);
  snprintf(paging->image, sizeof(paging->image), "%s/image", paging->directory);
  snprintf(paging->socket, sizeof(paging->socket), "%s/door", paging->directory);
  paging->length = length;
  paging->bytes = vmm_make_image(paging->image, length);
  CHECK(paging->bytes != NULL);
  paging->seen = mmap(NULL, sizeof(*paging->seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(paging->seen != MAP_FAILED);
}

void paging_start(struct paging *paging, const struct uffd_pager_opts *user_opts) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  if (user_opts != NULL) opts = *user_opts;
  opts.socket = paging->socket;
  if (user_opts == NULL || (opts.image != NULL && opts.image[0] == '\0')) opts.image = paging->image;
  opts.report = take_report;
  opts.report_ctx = paging->seen;
  unsigned workers = opts.workers != 0 ? opts.workers : 1;
  paging->supervisor = fork();
  if (paging->supervisor == 0) supervise(paging, &opts);
  while (atomic_load(&paging->seen->begun) < workers && atomic_load(&paging->seen->over) == 0) {
    CHECK_EQ(waitpid(paging->supervisor, NULL, WNOHANG), 0);
    check_pause();
  }
}

void paging_signal(const struct paging *paging, int signal) {
  CHECK_EQ(kill(paging->supervisor, signal), 0);
}

unsigned paging_reports(const struct paging *paging, uint32_t kind) {
  return atomic_load(&paging->seen->reports[kind]);
}

void paging_await(const struct paging *paging, uint32_t kind, unsigned count) {
  while (paging_reports(paging, kind) < count) {
    check_pause();
  }
}

void paging_turn(const struct paging *paging) {
  unsigned turns = atomic_load(&paging->seen->turns);
  while (atomic_load(&paging->seen->turns) < turns + 2) {
    check_pause();
  }
}

void paging_await_clients(const struct paging *paging, unsigned count, uint32_t state) {
  for (;;) {
    paging_turn(paging);
    unsigned matching = 0, there = atomic_load(&paging->seen->clients_count);
    for (unsigned i = 0; i < there; i++) {
      matching += paging->seen->clients[i].state == state;
    }
    if (there == count && matching == count) return;
  }
}

unsigned paging_children(pid_t parent) {
  char path[64];
  unsigned count = 0;
  int child;
  snprintf(path, sizeof(path), "/proc/%d/task/%d/children", parent, parent);
  FILE *file = fopen(path, "re");
  while (file != NULL && fscanf(file, "%d", &child) == 1) {
    count++;
  }
  if (file != NULL) fclose(file);
  return count;
}

void paging_await_over(const struct paging *paging) {
  while (atomic_load(&paging->seen->over) == 0) {
    check_pause();
  }
}

bool paging_sleeps(pid_t process) {
  char path[64], where[64] = "";
  snprintf(path, sizeof(path), "/proc/%d/wchan", process);
  FILE *file = fopen(path, "re");
  if (file == NULL) return false;
  if (fgets(where, sizeof(where), file) == NULL) where[0] = '\0';
  fclose(file);
  return strstr(where, "userfault") != NULL;
}

/* Its parent may reap it later. */
void paging_await_dead(pid_t process) {
  char path[64], stat[512];
  const char *state;
  snprintf(path, sizeof(path), "/proc/%d/stat", process);
  do {
    FILE *file = fopen(path, "re");
    bool there = file != NULL && fgets(stat, sizeof(stat), file) != NULL;
    if (file != NULL) fclose(file);
    state = there ? strrchr(stat, ')') : NULL;
    check_pause();
  } while (state != NULL && state[2] != 'Z');
}

int paging_end(struct paging *paging) {
  if (kill(paging->supervisor, SIGUSR1) != 0) CHECK_EQ(errno, ESRCH);
  check_child(paging->supervisor);
  for (unsigned i = 0; i < PAGING_WORKERS; i++) {
    int worker = atomic_load(&paging->seen->workers[i]);
    if (worker != 0) paging_await_dead(worker);
  }
  return 1 - atomic_load(&paging->seen->over);
}

void paging_tear_down(struct paging *paging) {
  char command[96];
  munmap((void *)(uintptr_t)paging->bytes, paging->length);
  munmap(paging->seen, sizeof(*paging->seen));
  DIR *files = opendir(paging->directory);
  for (struct dirent *entry; files != NULL && (entry = readdir(files)) != NULL;) {
    if (entry->d_name[0] != '.') unlinkat(dirfd(files), entry->d_name, 0);
  }
  if (files != NULL) closedir(files);
  snprintf(command, sizeof(command), "%s", paging->directory);
  CHECK_EQ(rmdir(command), 0);
}

/* Clients */

static _Noreturn void be_client(const struct paging_job *given) {
  struct paging_job job = *given;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  unsigned count = job.regions != 0 ? job.regions : 1;
  uint64_t pages[VMM_REGIONS_MAX], left = job.paging->length / 4096;
  for (unsigned i = 0; i < count; i++) {
    pages[i] = i + 1 == count ? left : job.paging->length / 4096 / count;
    left -= pages[i];
  }
  CHECK_EQ(vmm_map(&job.vmm, 4096, pages, count), 0);
  int result = vmm_register(&job.vmm, job.features, UFFDIO_REGISTER_MODE_MISSING);
  if (result == -EPERM) _exit(77);
  CHECK_EQ(result, 0);
  job.vmm.socket = vmm_connect(job.paging->socket);
  if (job.vmm.socket < 0) CHECK_EQ(atomic_load(&job.paging->seen->over), 0); /* the pager has ended: how it did */
  CHECK_EQ(job.vmm.socket < 0 ? job.vmm.socket : 0, 0);
  CHECK_EQ(vmm_hand_over(&job.vmm, NULL), 0);
  job.work.image = job.paging->bytes;
  job.work.image_length = job.paging->length;
  if (job.run != NULL) {
    job.run(&job);
  } else {
    CHECK_EQ(vmm_work(&job.vmm, &job.work), 0);
  }
  _exit(0);
}

pid_t paging_client(const struct paging_job *job) {
  fflush(NULL);
  pid_t client = fork();
  CHECK(client >= 0);
  if (client == 0) be_client(job);
  return client;
}

void paging_client_ok(pid_t client) {
  int status;
  CHECK_EQ(waitpid(client, &status, 0), client);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("no userfaultfd for this user");
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
}

/* After it is dead, another process may soon have its number. */
bool paging_kill_worker(struct paging *paging, uint32_t index) {
  int worker = atomic_load(&paging->seen->workers[index]);
  if (worker == 0 || worker == paging->killed[index]) return false;
  paging->killed[index] = worker;
  return kill(worker, SIGKILL) == 0;
}

void paging_sleep_us(unsigned microseconds) {
  struct timespec pause = {microseconds / 1000000, (long)(microseconds % 1000000) * 1000};
  nanosleep(&pause, NULL);
}
