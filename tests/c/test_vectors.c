/*
 * What a VMM may send and do, through the whole pager: a supervisor with its workers, and the stand-in VMM, each a
 * process of its own. Every byte that the VMM sees is compared with the image.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "check.h"
#include "damage.h"
#include "uffd_pager.h"
#include "vmm.h"

#define PAGE UINT64_C(4096)
#define HUGE (UINT64_C(2) << 20)

/* The pager */

struct said { /* a report, on its way to the test */
  uint32_t kind;
  int32_t error;
  int32_t pid;
  uint32_t clients; /* of the report: its id */
  char text[240];
};

struct stage {
  char directory[PATH_MAX], socket[PATH_MAX + 16], image_path[PATH_MAX + 16];
  struct vmm_work work; /* the image, and what the VMM does */
  struct uffd_pager_opts opts;
  pid_t supervisor;
  int said;   /* reports, to be read */
  int worker; /* the last one's pid */
};

static void send_report(void *ctx, const struct uffd_pager_report *report) {
  int fd = *(int *)ctx;
  struct said said = {.kind = report->kind, .error = report->error, .pid = report->pid};
  if (report->client != NULL) said.clients = (uint32_t)report->client->client.id;
  snprintf(said.text, sizeof(said.text), "%s", report->text != NULL ? report->text : "");
  CHECK_EQ(write(fd, &said, sizeof(said)), sizeof(said));
}

static struct said await_report(struct stage *stage, uint32_t kind) {
  struct said said;
  do {
    struct pollfd descriptor = {.fd = stage->said, .events = POLLIN};
    CHECK_EQ(poll(&descriptor, 1, -1), 1);
    CHECK_EQ(read(stage->said, &said, sizeof(said)), sizeof(said));
    if (said.kind == UFFD_REPORT_WORKER) stage->worker = said.pid;
    if (said.kind != kind && said.kind == UFFD_REPORT_ERROR) fprintf(stderr, "the pager: %s\n", said.text);
  } while (said.kind != kind);
  return said;
}

static _Noreturn void supervise(struct stage *stage, int out) {
  uffd_pager *pager = NULL;
  stage->opts.report = send_report;
  stage->opts.report_ctx = &out;
  CHECK_OK(uffd_pager_create(&stage->opts, &pager));
  send_report(&out, &(struct uffd_pager_report){.kind = UINT32_MAX}); /* it listens */
  int result = uffd_pager_run(pager);
  if (result < 0) fprintf(stderr, "the pager ended with %d: %s\n", result, uffd_errmsg());
  uffd_pager_close(pager);
  _exit(result < 0);
}

/* A pager for an image of so many bytes; opts may be changed in between. */
static void prepare(struct stage *stage, uint64_t image_length) {
  const char *temporary = getenv("TMPDIR");
  memset(stage, 0, sizeof(*stage));
  uffd_close(check_open(UFFD_FEAT_EVENT_REMOVE));
  snprintf(stage->directory, sizeof(stage->directory), "%s/uffd-vectors-XXXXXX",
           temporary != NULL ? temporary : "/tmp");
  CHECK(mkdtemp(stage->directory) != NULL);
  snprintf(stage->socket, sizeof(stage->socket), "%s/pager", stage->directory);
  snprintf(stage->image_path, sizeof(stage->image_path), "%s/image", stage->directory);
  stage->work.image = vmm_make_image(stage->image_path, image_length);
  stage->work.image_length = image_length;
  stage->work.threads = 2;
  CHECK(stage->work.image != NULL);
  stage->opts = (struct uffd_pager_opts)UFFD_PAGER_OPTS_INIT;
  stage->opts.socket = stage->socket;
  stage->opts.image = stage->image_path;
  stage->opts.flags = UFFD_PAGER_ONCE;
}

static void start(struct stage *stage) {
  int ends[2];
  CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
  fflush(NULL);
  stage->supervisor = fork();
  if (stage->supervisor == 0) {
    close(ends[0]);
    supervise(stage, ends[1]);
  }
  close(ends[1]);
  stage->said = ends[0];
  await_report(stage, UINT32_MAX);
}

static void set_up(struct stage *stage, uint64_t image_length) {
  prepare(stage, image_length);
  start(stage);
}

static void remove_files(const struct stage *stage) {
  unlink(stage->image_path);
  unlink(stage->socket);
  CHECK_EQ(rmdir(stage->directory), 0);
}

/* The supervisor ends by itself: its client is gone. */
static void tear_down(struct stage *stage) {
  check_child(stage->supervisor);
  CHECK_EQ(access(stage->socket, F_OK), -1);
  remove_files(stage);
}

static void end_pager(struct stage *stage) {
  kill(stage->supervisor, SIGKILL);
  waitpid(stage->supervisor, NULL, 0);
  remove_files(stage);
}

/* The VMM */

/* Maps the image in regions of so many pages, and hands it over. */
static void be_vmm(struct vmm *vmm, const struct stage *stage, uint64_t page_size, const uint64_t *pages,
                   unsigned count, const struct vmm_message *message) {
  CHECK_EQ(vmm_map(vmm, page_size, pages, count), 0);
  CHECK_EQ(vmm_register(vmm, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING), 0);
  vmm->socket = vmm_connect(stage->socket);
  CHECK(vmm->socket >= 0);
  CHECK_EQ(vmm_hand_over(vmm, message), 0);
}

/* The VMM as a process: hands over, touches everything, exits. */
static pid_t start_vmm(const struct stage *stage, uint64_t page_size, const uint64_t *pages, unsigned count,
                       const struct vmm_message *message) {
  fflush(NULL);
  pid_t child = fork();
  if (child != 0) return child;
  struct vmm vmm;
  be_vmm(&vmm, stage, page_size, pages, count, message);
  _exit(vmm_work(&vmm, &stage->work) != 0);
}

static void serve_regions(const uint64_t *pages, unsigned count, const struct vmm_message *message) {
  struct stage stage;
  uint64_t total = 0;
  for (unsigned i = 0; i < count; i++) {
    total += pages[i];
  }
  set_up(&stage, total * PAGE);
  check_child(start_vmm(&stage, PAGE, pages, count, message));
  await_report(&stage, UFFD_REPORT_GONE);
  tear_down(&stage);
}

static void serve_message(const struct vmm_message *message) {
  const uint64_t pages[] = {300, 212};
  serve_regions(pages, 2, message);
}

/* 1 to 9: forms of the handshake */

static void vector_01_one_region(void) {
  const uint64_t pages[] = {1024};
  serve_regions(pages, 1, NULL);
}

static void vector_02_two_regions_with_offsets_and_a_gap(void) {
  serve_message(NULL);
}

static void vector_03_an_extra_unknown_key(void) {
  serve_message(&(struct vmm_message){.keys = VMM_PAGE_SIZE | VMM_PAGE_SIZE_KIB | VMM_EXTRA_KEYS});
}

static void vector_04_only_page_size_kib(void) {
  serve_message(&(struct vmm_message){.keys = VMM_PAGE_SIZE_KIB});
}

static void vector_05_neither_page_size(void) {
  serve_message(&(struct vmm_message){0});
}

static void vector_06_split_over_three_sends(void) {
  serve_message(&(struct vmm_message){.keys = VMM_PAGE_SIZE, .pieces = 3});
}

static void vector_07_twenty_regions_beyond_1024_bytes(void) {
  uint64_t pages[20];
  for (unsigned i = 0; i < 20; i++) {
    pages[i] = 1 + 3 * i;
  }
  serve_regions(pages, 20, NULL);
}

static void vector_08_two_fds(void) {
  serve_message(&(struct vmm_message){.keys = VMM_PAGE_SIZE_KIB, .extra_fds = 1});
}

static void vector_09_three_fds(void) {
  serve_message(&(struct vmm_message){.keys = VMM_PAGE_SIZE, .extra_fds = 2});
}

/* 10 and 11: memory that is given back */

static void vector_10_removed_pages_read_as_zeros(void) {
  struct stage stage;
  const uint64_t pages[] = {64};
  set_up(&stage, 64 * PAGE);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    struct vmm vmm;
    be_vmm(&vmm, &stage, PAGE, pages, 1, NULL);
    CHECK_EQ(vmm_page(&vmm, &stage.work, 5 * PAGE), 1);
    vmm_remove(&vmm, 5 * PAGE, PAGE); /* after its first touch */
    CHECK_EQ(vmm_page(&vmm, &stage.work, 5 * PAGE), 2);
    vmm_remove(&vmm, 32 * PAGE, 8 * PAGE); /* before it */
    for (uint64_t page = 32; page < 40; page++) {
      CHECK_EQ(vmm_page(&vmm, &stage.work, page * PAGE), 2);
    }
    *vmm_at(&vmm, 33 * PAGE) = 7; /* what is written there stays, until it is removed again */
    CHECK_EQ(*vmm_at(&vmm, 33 * PAGE), 7);
    vmm_remove(&vmm, 32 * PAGE, 8 * PAGE);
    CHECK_EQ(vmm_page(&vmm, &stage.work, 33 * PAGE), 2);
    CHECK_EQ(vmm_page(&vmm, &stage.work, 31 * PAGE), 1);
    CHECK_EQ(vmm_page(&vmm, &stage.work, 40 * PAGE), 1);
    _exit(0);
  }
  check_child(child);
  tear_down(&stage);
}

static void vector_11_a_storm_of_removes_among_faults(void) {
  struct stage stage;
  const uint64_t pages[] = {3000, 1096};
  prepare(&stage, 4096 * PAGE);
  stage.work.threads = 4;
  stage.work.removes = 3000;
  start(&stage);
  check_child(start_vmm(&stage, PAGE, pages, 2, NULL));
  tear_down(&stage);
}

/* 12 and 13: ends */

/* It is killed while its threads fault; the pager notices, and serves the next. */
static void vector_12_the_client_exits_in_the_middle_of_a_fault(void) {
  struct stage stage;
  const uint64_t pages[] = {8192};
  prepare(&stage, 8192 * PAGE);
  stage.opts.flags = 0;
  stage.opts.around = PAGE;
  start(&stage);
  for (int i = 0; i < 5; i++) {
    pid_t child = start_vmm(&stage, PAGE, pages, 1, NULL);
    await_report(&stage, UFFD_REPORT_CLIENT);
    for (int j = 0; j < i; j++) {
      check_pause();
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    await_report(&stage, UFFD_REPORT_GONE);
  }
  check_child(start_vmm(&stage, PAGE, pages, 1, NULL));
  await_report(&stage, UFFD_REPORT_GONE);
  end_pager(&stage);
}

/* A worker is killed: another takes over, and the client notices nothing. */
static void vector_13_the_worker_is_killed(void) {
  struct stage stage;
  const uint64_t pages[] = {8192};
  prepare(&stage, 8192 * PAGE);
  stage.opts.around = PAGE;
  start(&stage);
  pid_t child = start_vmm(&stage, PAGE, pages, 1, NULL);
  await_report(&stage, UFFD_REPORT_CLIENT);
  if (stage.worker == 0) await_report(&stage, UFFD_REPORT_WORKER);
  CHECK_EQ(kill(stage.worker, SIGKILL), 0);
  check_child(child);
  tear_down(&stage);
}

static void wait_for_line(int fd) {
  char byte;
  CHECK_EQ(read(fd, &byte, 1), 1);
}

/* All of the pager is killed: the client sleeps, or is killed, and is not given zeros. */
static void vector_13_all_of_the_pager_is_killed(void) {
  struct stage stage;
  const uint64_t pages[] = {64};
  int ready[2], go[2];
  set_up(&stage, 64 * PAGE);
  CHECK_EQ(pipe2(ready, O_CLOEXEC), 0);
  CHECK_EQ(pipe2(go, O_CLOEXEC), 0);
  pid_t child = fork();
  if (child == 0) {
    struct vmm vmm;
    be_vmm(&vmm, &stage, PAGE, pages, 1, NULL);
    CHECK_EQ(vmm_page(&vmm, &stage.work, 0), 1);
    CHECK_EQ(write(ready[1], "", 1), 1);
    wait_for_line(go[0]);
    _exit(*vmm_at(&vmm, 63 * PAGE) == 0 ? 7 : 0); /* far from what was filled around the first */
  }
  wait_for_line(ready[0]);
  await_report(&stage, UFFD_REPORT_CLIENT);
  if (stage.worker == 0) await_report(&stage, UFFD_REPORT_WORKER);
  kill(stage.supervisor, SIGKILL);
  kill(stage.worker, SIGKILL);
  waitpid(stage.supervisor, NULL, 0);
  CHECK_EQ(write(go[1], "", 1), 1);
  int status = 0;
  for (int i = 0; i < 2000 && waitpid(child, &status, WNOHANG) == 0; i++) {
    check_pause();
  }
  CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 7 || status == 0);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  remove_files(&stage);
}

/* 14: several userfaultfds */

static void vector_14_two_handshakes_on_one_connection(void) {
  struct stage stage;
  const uint64_t pages[] = {200, 312};
  prepare(&stage, 512 * PAGE);
  stage.opts.flags = 0;
  start(&stage);
  pid_t child = fork();
  if (child == 0) {
    struct vmm first, second;
    be_vmm(&first, &stage, PAGE, pages, 2, NULL);
    CHECK_EQ(vmm_map(&second, PAGE, pages, 2), 0);
    CHECK_EQ(vmm_register(&second, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING), 0);
    second.socket = first.socket;
    CHECK_EQ(vmm_hand_over(&second, NULL), 0);
    CHECK_EQ(vmm_work(&second, &stage.work), 0);
    CHECK_EQ(vmm_work(&first, &stage.work), 0);
    _exit(0);
  }
  CHECK_EQ(await_report(&stage, UFFD_REPORT_CLIENT).clients, 1);
  CHECK_EQ(await_report(&stage, UFFD_REPORT_CLIENT).clients, 2);
  check_child(child);
  await_report(&stage, UFFD_REPORT_GONE);
  await_report(&stage, UFFD_REPORT_GONE);
  end_pager(&stage);
}

/* 15: the end of the image */

static void vector_15_the_image_ends_within_a_small_page(void) {
  struct stage stage;
  const uint64_t pages[] = {100};
  set_up(&stage, 99 * PAGE + 123);
  check_child(start_vmm(&stage, PAGE, pages, 1, NULL));
  tear_down(&stage);
}

static void vector_15_the_image_ends_within_a_huge_page(void) {
  struct stage stage;
  const uint64_t pages[] = {2, 2};
  check_hugepages(4);
  set_up(&stage, 3 * HUGE + 5 * PAGE + 17);
  check_child(start_vmm(&stage, HUGE, pages, 2, NULL));
  tear_down(&stage);
}

/* 16 and 17: what is refused */

static unsigned count_entries(const char *format, pid_t pid) {
  char path[64];
  unsigned count = 0;
  snprintf(path, sizeof(path), format, (int)pid);
  DIR *entries = opendir(path);
  CHECK(entries != NULL);
  while (readdir(entries) != NULL) {
    count++;
  }
  closedir(entries);
  return count;
}

/* By a process of its own: whoever is refused with memory that nobody serves is killed, or kept until it has ended. */
static void refuse_one(struct stage *stage, const struct vmm_message *message, int error, const char *words) {
  const uint64_t pages[] = {64};
  fflush(NULL);
  pid_t refused = fork();
  if (refused == 0) {
    struct vmm vmm;
    be_vmm(&vmm, stage, PAGE, pages, 1, message);
    pause();
  }
  struct said said = await_report(stage, UFFD_REPORT_REFUSED);
  if (said.error != error || strstr(said.text, words) == NULL)
    fprintf(stderr, "refused with %d: %s\n", said.error, said.text);
  CHECK_EQ(said.error, error);
  CHECK(strstr(said.text, words) != NULL);
  kill(refused, SIGKILL);
  CHECK_EQ(waitpid(refused, NULL, 0), refused);
}

static void vector_16_bad_json_no_fd_and_too_many_fds(void) {
  struct stage stage;
  prepare(&stage, 64 * PAGE);
  stage.opts.flags = 0;
  stage.opts.handshake_ms = 50;
  start(&stage);
  unsigned fds = 0;
  for (int i = 0; i < 3; i++) {
    refuse_one(&stage, &(struct vmm_message){.text = "[{\"base_host_virt_addr\":}]"}, EPROTO, "not JSON");
    refuse_one(&stage, &(struct vmm_message){.text = "HELO"}, EPROTO, "not a list of regions");
    refuse_one(&stage, &(struct vmm_message){.no_fd = true}, ETIMEDOUT, "its userfaultfd is lacking");
    refuse_one(&stage, &(struct vmm_message){.extra_fds = 30}, EMSGSIZE, "Descriptors of the handshake were lost");
    refuse_one(&stage, &(struct vmm_message){.instead = STDERR_FILENO}, EINVAL, "not a userfaultfd");
    if (i == 0) fds = count_entries("/proc/%d/fd", stage.supervisor);
  }
  while (count_entries("/proc/%d/fd", stage.supervisor) > fds) { /* the last is closed right after its report */
    check_pause();
  }
  const uint64_t pages[] = {64};
  check_child(start_vmm(&stage, PAGE, pages, 1, NULL)); /* it serves as before */
  end_pager(&stage);
}

static void vector_17_regions_that_are_not_the_image(void) {
  struct stage stage;
  prepare(&stage, 65 * PAGE);
  stage.opts.flags = 0;
  start(&stage);
  refuse_one(&stage, NULL, EINVAL, "belongs to another client");
  end_pager(&stage);
}

/* And again and again */

/* Connects so often, and exits with those of its userfaultfds that were taken in by chance. */
static _Noreturn void send_many(const struct stage *stage, uint64_t seed, int count) {
  struct vmm vmm;
  const uint64_t pages[] = {40, 24};
  int other = memfd_create("other", MFD_CLOEXEC);
  CHECK_EQ(vmm_map(&vmm, PAGE, pages, 2), 0);
  CHECK_EQ(vmm_register(&vmm, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING), 0);
  for (int i = 0; i < count; i++) {
    vmm.socket = vmm_connect(stage->socket);
    CHECK(vmm.socket >= 0);
    damage_send(&seed, &vmm, other);
    close(vmm.socket);
  }
  _exit(0);
}

static uint64_t resident_bytes(pid_t pid) {
  char path[64];
  unsigned long long size = 0, resident = 0;
  snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
  FILE *file = fopen(path, "re");
  CHECK(file != NULL);
  CHECK_EQ(fscanf(file, "%llu %llu", &size, &resident), 2);
  fclose(file);
  return resident * PAGE;
}

struct burden {
  unsigned fds, threads;
  uint64_t bytes;
};

static struct burden weigh(pid_t pid) {
  return (struct burden){count_entries("/proc/%d/fd", pid), count_entries("/proc/%d/task", pid), resident_bytes(pid)};
}

/* The next client is served, and is gone: so are all before it. */
static void serve_one_more(struct stage *stage) {
  const uint64_t pages[] = {64};
  check_child(start_vmm(stage, PAGE, pages, 1, NULL));
}

static unsigned count_children(pid_t pid) {
  char path[96], text[4096];
  unsigned count = 0;
  snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
  FILE *file = fopen(path, "re");
  if (file == NULL) SKIP("this kernel does not tell the children of a process");
  while (fscanf(file, "%4095s", text) == 1) {
    count++;
  }
  fclose(file);
  return count;
}

static void *read_reports(void *ctx) {
  struct stage *stage = ctx;
  struct said said;
  while (read(stage->said, &said, sizeof(said)) == sizeof(said)) {
    if (said.kind == UFFD_REPORT_WORKER) stage->worker = said.pid;
    CHECK(said.kind != UFFD_REPORT_DIED);
  }
  return NULL;
}

static void ten_thousand_damaged_handshakes(void) {
  struct stage stage;
  pthread_t reader;
  if (check_under_tsan()) SKIP("ThreadSanitizer lets no forked child start threads");
  prepare(&stage, 64 * PAGE);
  stage.opts.flags = 0;
  stage.opts.handshake_ms = 1000;
  stage.opts.max_clients = 1024;
  stage.opts.on_crash =
      UFFD_PAGER_FREEZE; /* a table may be well-formed, and its memory not there: it goes on sending */
  start(&stage);
  await_report(&stage, UFFD_REPORT_WORKER);
  CHECK_EQ(pthread_create(&reader, NULL, read_reports, &stage), 0);
  struct burden supervisor = {0}, worker = {0};
  unsigned children = count_children(stage.supervisor);
  for (uint64_t round = 0; round < 11; round++) {
    pid_t child = fork();
    if (child == 0) send_many(&stage, round + 1, DAMAGED / 10);
    check_child(child);
    serve_one_more(&stage);
    check_progress();
    if (round == 0) { /* what is allocated once */
      supervisor = weigh(stage.supervisor);
      worker = weigh(stage.worker);
    }
  }
  /* The last are let go of after their process has ended: a moment later. */
  while (weigh(stage.supervisor).fds > supervisor.fds || weigh(stage.worker).fds > worker.fds ||
         weigh(stage.worker).threads > worker.threads) {
    check_pause();
  }
  if (DAMAGED == 10000) { /* a sanitizer keeps what is freed for a while */
    CHECK(weigh(stage.supervisor).bytes <= supervisor.bytes + (UINT64_C(2) << 20));
    CHECK(weigh(stage.worker).bytes <= worker.bytes + (UINT64_C(8) << 20));
  }
  CHECK_EQ(count_children(stage.supervisor), children);
  kill(stage.supervisor, SIGKILL);
  pthread_join(reader, NULL);
  end_pager(&stage);
}

static const struct check_test tests[] = {
    TEST(vector_01_one_region),
    TEST(vector_02_two_regions_with_offsets_and_a_gap),
    TEST(vector_03_an_extra_unknown_key),
    TEST(vector_04_only_page_size_kib),
    TEST(vector_05_neither_page_size),
    TEST(vector_06_split_over_three_sends),
    TEST(vector_07_twenty_regions_beyond_1024_bytes),
    TEST(vector_08_two_fds),
    TEST(vector_09_three_fds),
    TEST(vector_10_removed_pages_read_as_zeros),
    TEST(vector_11_a_storm_of_removes_among_faults),
    TEST(vector_12_the_client_exits_in_the_middle_of_a_fault),
    TEST(vector_13_the_worker_is_killed),
    TEST(vector_13_all_of_the_pager_is_killed),
    TEST(vector_14_two_handshakes_on_one_connection),
    TEST(vector_15_the_image_ends_within_a_small_page),
    TEST(vector_15_the_image_ends_within_a_huge_page),
    TEST(vector_16_bad_json_no_fd_and_too_many_fds),
    TEST(vector_17_regions_that_are_not_the_image),
    TEST(ten_thousand_damaged_handshakes),
};

CHECK_MAIN(tests)
