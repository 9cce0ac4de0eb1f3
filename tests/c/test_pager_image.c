/* The image of a pager: opened once, whatever becomes of its name; noticed when it changes; never another's bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "paging.h"

#define MIB  (UINT64_C(1) << 20)
#define PAGE UINT64_C(4096)

static struct uffd_pager_opts image_opts(void) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.around = PAGE;
  return opts;
}

/* The image's bytes as they are now: the file is going to change. */
static void keep_bytes(struct paging *paging) {
  unsigned char *copy = mmap(NULL, paging->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(copy != MAP_FAILED);
  memcpy(copy, paging->bytes, paging->length);
  CHECK_EQ(munmap((void *)(uintptr_t)paging->bytes, paging->length), 0);
  paging->bytes = copy;
}

static void raise_flag(const struct paging *paging, unsigned flag) {
  atomic_store(&paging->seen->flags[flag], 1);
}

static void await_flag(const struct paging *paging, unsigned flag) {
  while (atomic_load(&paging->seen->flags[flag]) == 0) {
    check_pause();
  }
}

static void kill_worker_and_wait(struct paging *paging) {
  unsigned begun = atomic_load(&paging->seen->begun);
  while (!paging_kill_worker(paging, 0)) {
    check_pause();
  }
  while (atomic_load(&paging->seen->begun) == begun) {
    check_pause();
  }
}

/* Reads a few pages, waits, reads the rest: every byte is the image's. */
static void read_twice(struct paging_job *job) {
  for (uint64_t page = 0; page < 8; page++) {
    CHECK_EQ(vmm_page(&job->vmm, &job->work, page * 16 * PAGE), 1);
  }
  raise_flag(job->paging, 0);
  await_flag(job->paging, 1);
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

/* Another file takes the image's name, and is removed; workers die in between. */
static void name_of_the_image_is_looked_up_once(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  char other[128];
  paging_set_up(&paging, MIB);
  keep_bytes(&paging);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = read_twice};
  pid_t client = paging_client(&job);
  await_flag(&paging, 0);
  snprintf(other, sizeof(other), "%s/other", paging.directory);
  const unsigned char *others = vmm_make_image(other, 2 * MIB); /* of another length, even */
  CHECK(others != NULL);
  munmap((void *)(uintptr_t)others, 2 * MIB);
  CHECK_EQ(rename(other, paging.image), 0);
  kill_worker_and_wait(&paging);
  CHECK_EQ(unlink(paging.image), 0);
  kill_worker_and_wait(&paging);
  paging_signal(&paging, SIGHUP);
  raise_flag(&paging, 1);
  paging_client_ok(client);
  job.run = NULL; /* a new client has the same image */
  paging_client_ok(paging_client(&job));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static bool may_lease(const struct paging *paging) {
  int fd = open(paging->image, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  bool may = fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0;
  close(fd);
  return may;
}

/* Opens the image for writing, waits as long as the pager needs, and fills it with other bytes. */
static pid_t overwrite(const struct paging *paging) {
  fflush(NULL);
  pid_t writer = fork();
  CHECK(writer >= 0);
  if (writer != 0) return writer;
  int fd = open(paging->image, O_WRONLY | O_TRUNC | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(ftruncate(fd, (off_t)paging->length), 0);
  _exit(0);
}

/* The writer waits while what the clients have not read yet is filled in, also when the worker dies meanwhile. */
static void writer_waits_until_clients_are_complete(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  paging_set_up(&paging, 4 * MIB);
  keep_bytes(&paging);
  if (!may_lease(&paging)) SKIP("no leases on this file system, or for this user");
  opts.workers = 2;
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = read_twice};
  pid_t clients[2];
  for (unsigned i = 0; i < 2; i++) {
    clients[i] = paging_client(&job);
    await_flag(&paging, 0);
    atomic_store(&paging.seen->flags[0], 0);
  }
  pid_t writer = overwrite(&paging);
  paging_client_ok(writer);
  raise_flag(&paging, 1);
  for (unsigned i = 0; i < 2; i++) {
    paging_client_ok(clients[i]);
  }
  paging_await(&paging, UFFD_REPORT_COMPLETE, 2);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], "opens the image") != NULL);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_ERROR), 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Touches a page that was changed: it must be poisoned. */
static void touch_changed(struct paging_job *job) {
  CHECK_EQ(vmm_page(&job->vmm, &job->work, 0), 1);
  raise_flag(job->paging, 0);
  await_flag(job->paging, 1);
  CHECK_EQ(vmm_page(&job->vmm, &job->work, 0), 1); /* it has this one */
  (void)vmm_page(&job->vmm, &job->work, 5 * PAGE);
  _exit(3); /* it was given a page, whatever is in it */
}

static void change_in_place(int fd, uint64_t length) {
  (void)length;
  CHECK_EQ(pwrite(fd, "SECRET", 6, (off_t)(7 * PAGE)), 6);
}

static void cut_and_grow(int fd, uint64_t length) {
  CHECK_EQ(ftruncate(fd, 0), 0);
  CHECK_EQ(ftruncate(fd, (off_t)length), 0);
}

static void punch(int fd, uint64_t length) {
  (void)length;
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)MIB) != 0)
    SKIP("no holes in this file system");
}

/* Without a lease: somebody had the file open for writing before. */
static void change(void (*how)(int fd, uint64_t length), bool dies) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  check_needs(UFFD_FEAT_POISON);
  paging_set_up(&paging, MIB);
  keep_bytes(&paging);
  int fd = open(paging.image, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = touch_changed};
  pid_t client = paging_client(&job);
  await_flag(&paging, 0);
  how(fd, paging.length);
  if (dies) kill_worker_and_wait(&paging); /* the new one must not take the file as it is now for the image */
  raise_flag(&paging, 1);
  int status;
  CHECK_EQ(waitpid(client, &status, 0), client);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
  paging_await(&paging, UFFD_REPORT_ERROR, 1);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  job.run = NULL; /* nobody is given what it holds now */
  client = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_REFUSED, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "is being changed") != NULL);
  CHECK_EQ(kill(client, SIGKILL), 0);
  CHECK_EQ(waitpid(client, &status, 0), client);
  close(fd);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void image_that_is_written_is_not_given(void) {
  change(change_in_place, false);
}

static void image_that_is_cut_and_grows_is_not_given(void) {
  change(cut_and_grow, false);
}

static void image_with_a_new_hole_is_not_given(void) {
  change(punch, false);
}

static void image_that_changed_before_a_worker_died_is_not_given(void) {
  change(change_in_place, true);
}

/* Without a lease, and unchanged: read with a look at the file each time. */
static void serve_open_image(uint64_t around, uint32_t flags) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  paging_set_up(&paging, 4 * MIB);
  int fd = open(paging.image, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  opts.around = around;
  opts.flags = flags;
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .regions = 2, .features = UFFD_FEAT_EVENT_REMOVE};
  job.work.removes = 200;
  job.work.threads = 2;
  paging_client_ok(paging_client(&job));
  CHECK_EQ(paging_end(&paging), 1);
  close(fd);
  paging_tear_down(&paging);
}

static void image_that_is_open_for_writing_is_served(void) {
  serve_open_image(PAGE, 0);
  serve_open_image(UFFD_AROUND_AUTO, UFFD_PAGER_PREFETCH);
}

/* Connects, waits for flag 0, hands its memory over, and keeps no copy of its userfaultfd. */
static pid_t connect_first(const struct paging *paging) {
  fflush(NULL);
  pid_t client = fork();
  CHECK(client >= 0);
  if (client != 0) return client;
  struct vmm vmm = {0};
  struct vmm_work work = {.image = paging->bytes, .image_length = paging->length};
  const uint64_t pages[] = {paging->length / PAGE};
  CHECK_EQ(vmm_map(&vmm, PAGE, pages, 1), 0);
  CHECK_EQ(vmm_register(&vmm, 0, UFFDIO_REGISTER_MODE_MISSING), 0);
  vmm.socket = vmm_connect(paging->socket);
  CHECK(vmm.socket >= 0);
  raise_flag(paging, 2);
  await_flag(paging, 0);
  CHECK_EQ(vmm_hand_over(&vmm, NULL), 0);
  (void)vmm_page(&vmm, &work, 0);
  _exit(3); /* it was given a page, whatever is in it */
}

static void check_killed(pid_t client) {
  int status;
  CHECK_EQ(waitpid(client, &status, 0), client);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void stay(struct paging_job *job) {
  raise_flag(job->paging, 3);
  await_flag(job->paging, 1);
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

/* Its connection was there before: it is refused like any other, and its userfaultfd is not just closed. */
static void handshake_during_a_drain_is_refused(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.on_drain = UFFD_PAGER_REFUSE;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = stay};
  pid_t good = paging_client(&job);
  await_flag(&paging, 3);
  pid_t client = connect_first(&paging);
  await_flag(&paging, 2);
  paging_turn(&paging); /* its connection has been taken */
  paging_signal(&paging, SIGTERM);
  while (paging.seen->status.draining == 0) {
    paging_turn(&paging);
  }
  raise_flag(&paging, 0);
  check_killed(client);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_REFUSED), 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "drained") != NULL);
  raise_flag(&paging, 1);
  paging_client_ok(good);
  paging_await_over(&paging);
  CHECK_EQ(paging_end(&paging), 0);
  paging_tear_down(&paging);
}

/* A function that does not come back. */
static int choose_never(void *ctx, const struct uffd_client *client, char *path, size_t size) {
  const struct paging *paging = ctx;
  (void)client, (void)path, (void)size;
  raise_flag(paging, 4);
  while (atomic_load(&paging->seen->flags[5]) == 0) { /* nobody raises it */
    pause();
  }
  return -EIO;
}

static void wait_for_an_image(uint32_t hang_ms, bool closes) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  check_needs(UFFD_FEAT_POISON);
  paging_set_up(&paging, MIB);
  opts.choose = choose_never;
  opts.choose_ctx = &paging;
  opts.hang_ms = hang_ms;
  paging_start(&paging, &opts);
  pid_t client = connect_first(&paging);
  raise_flag(&paging, 0);
  await_flag(&paging, 4);
  if (!closes) check_killed(client);
  if (!closes) CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "It was not done within") != NULL);
  CHECK_EQ(paging_end(&paging), 1);
  if (closes) check_killed(client);
  paging_tear_down(&paging);
}

static void image_that_is_never_chosen_refuses_its_client(void) {
  wait_for_an_image(200, false);
}

static void pager_that_ends_refuses_who_waits_for_an_image(void) {
  wait_for_an_image(3600000, true);
}

static const struct check_test tests[] = {
    TEST(name_of_the_image_is_looked_up_once),
    TEST(writer_waits_until_clients_are_complete),
    TEST(image_that_is_written_is_not_given),
    TEST(image_that_is_cut_and_grows_is_not_given),
    TEST(image_with_a_new_hole_is_not_given),
    TEST(image_that_changed_before_a_worker_died_is_not_given),
    TEST(image_that_is_open_for_writing_is_served),
    TEST(handshake_during_a_drain_is_refused),
    TEST(image_that_is_never_chosen_refuses_its_client),
    TEST(pager_that_ends_refuses_who_waits_for_an_image),
};

CHECK_MAIN(tests)
