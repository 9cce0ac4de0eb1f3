/*
 * Virtual machines of Cloud Hypervisor, restored and saved by its offload protocol. The machine is a stand-in
 * (vmm/hypervisor.h), the pager is whole; whoever answers is killed at each point of a request.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/base.h"
#include "hypervisor.h"
#include "paging.h"

#define PAGE UINT64_C(4096)
#define MIB  (UINT64_C(1) << 20)
#define GIB  (UINT64_C(1) << 30)

static const char state_text[] = "{\"id\":\"vm\",\"snapshots\":{\"cpu\":[1,2,3]}}";

struct stage {
  struct paging paging;
  char directory[PATH_MAX], socket[PATH_MAX];
  char config[2048];
  struct hypervisor machine;
  pid_t process; /* the machine's */
};

/* Shared with all processes of a test: how the process that answers is killed. */
struct killing {
  const char *where;    /* a barrier; NULL: nowhere */
  _Atomic int skips;    /* times that it is passed before */
  _Atomic int kills;    /* that are left */
  _Atomic int killed;   /* so far */
  _Atomic int answered; /* times that an answer was sent and noted */
  _Atomic int waits;    /* times that the pager was not there, or had no room */
};
static struct killing *killing;

static void *share(size_t size) {
  void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  return shared;
}

/* Two slots in one memfd, whose order in the machine is not that of their numbers. */
static void lay_out(struct stage *stage, uint64_t page_size) {
  uint64_t length = stage->paging.length;
  struct hypervisor *machine = &stage->machine;
  machine->listener = -1;
  machine->count = 2;
  machine->slots[0] = (struct hypervisor_slot){7, 0, length / 4 * 3, 0, length / 4};
  machine->slots[1] = (struct hypervisor_slot){3, 4 * GIB, length / 4, length / 4 * 3, 0};
  machine->page_size = page_size;
  machine->image = stage->paging.bytes;
  machine->config = stage->config;
  machine->state = state_text;
  machine->threads = 2;
  machine->seen = share(sizeof(*machine->seen));
  CHECK(hypervisor_config(machine, stage->config, sizeof(stage->config)) < sizeof(stage->config));
}

static void write_file(const char *directory, const char *name, const char *text) {
  char path[PATH_MAX];
  CHECK(snprintf(path, sizeof(path), "%s/%s", directory, name) < (int)sizeof(path));
  FILE *file = fopen(path, "we");
  CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* Every fifth page of the image is zeros, half of those a hole of its file. */
static void set_up(struct stage *stage, uint64_t length, uint64_t page_size) {
  memset(stage, 0, sizeof(*stage));
  paging_set_up(&stage->paging, length);
  static const char zeros[4096];
  int fd = open(stage->paging.image, O_RDWR | O_CLOEXEC);
  for (uint64_t page = 2; page * PAGE < length; page += 5) {
    if (page % 2 == 0)
      CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * PAGE), PAGE), 0);
    if (page % 2 != 0) CHECK_EQ(pwrite(fd, zeros, PAGE, (off_t)(page * PAGE)), PAGE);
  }
  close(fd);
  snprintf(stage->directory, sizeof(stage->directory), "%s/snapshot", stage->paging.directory);
  snprintf(stage->socket, sizeof(stage->socket), "%s/ch", stage->paging.directory);
  CHECK_EQ(mkdir(stage->directory, 0700), 0);
  lay_out(stage, page_size);
  write_file(stage->directory, "migration_config.json", stage->config);
  write_file(stage->directory, "state.json", state_text);
}

static void tear_down(struct stage *stage) {
  static const char *const names[] = {"migration_config.json", "state.json", "memory.img"};
  char path[PATH_MAX];
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
    CHECK(snprintf(path, sizeof(path), "%s/%s", stage->directory, names[i]) < (int)sizeof(path));
    unlink(path);
  }
  CHECK(rmdir(stage->directory) == 0 || errno == ENOENT);
  unlink(stage->socket);
  munmap(stage->machine.seen, sizeof(*stage->machine.seen));
  paging_tear_down(&stage->paging);
}

static void start_machine(struct stage *stage) {
  stage->machine.listener = hypervisor_listen(stage->socket);
  CHECK(stage->machine.listener >= 0);
  fflush(NULL);
  stage->process = fork();
  CHECK(stage->process >= 0);
  if (stage->process == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(hypervisor_receive(&stage->machine));
  }
  close(stage->machine.listener);
}

static int end_machine(const struct stage *stage) {
  int status;
  CHECK_EQ(waitpid(stage->process, &status, 0), stage->process);
  CHECK(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) SKIP("no userfaultfd with minor faults here (5.14)");
  return WEXITSTATUS(status);
}

static struct uffd_offload_opts options(const struct stage *stage) {
  struct uffd_offload_opts opts = UFFD_OFFLOAD_OPTS_INIT;
  opts.socket = stage->socket;
  opts.directory = stage->directory;
  opts.door = stage->paging.socket;
  opts.label = "machine";
  opts.page_size = stage->machine.page_size;
  return opts;
}

static uint64_t pages_of(const struct stage *stage) {
  return stage->paging.length / stage->machine.page_size;
}

/* All of it is there, and all that the guest has seen was the image's. */
static void check_machine(const struct stage *stage) {
  const struct hypervisor_seen *seen = stage->machine.seen;
  CHECK_EQ(end_machine(stage), 0);
  CHECK_EQ(atomic_load(&seen->wrong), 0);
  CHECK_EQ(atomic_load(&seen->walked), pages_of(stage) * stage->machine.threads);
  CHECK_EQ(atomic_load(&seen->refused), 0);
  CHECK_EQ(atomic_load(&seen->same_file), 1);
}

static void close_pager(struct stage *stage) {
  CHECK_EQ(paging_end(&stage->paging), 1);
}

static void restore_whole(uint64_t length, uint64_t page_size, bool pieces) {
  struct stage stage;
  struct uffd_offload_result result = UFFD_OFFLOAD_RESULT_INIT;
  set_up(&stage, length, page_size);
  stage.machine.pieces = pieces;
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_EQ(CHECK_OK(uffd_offload_restore(&opts, &result)), 0);
  check_machine(&stage);
  CHECK_EQ(result.slots, 2);
  CHECK_EQ(result.bytes, length);
  CHECK(result.requests >= pages_of(&stage));
  CHECK_EQ(result.failed, 0);
  CHECK_EQ(result.restarts, 0);
  CHECK_EQ(result.paused, 0);
  CHECK_EQ(atomic_load(&stage.machine.seen->commands[HYPERVISOR_COMPLETE]), 1);
  paging_await(&stage.paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(stage.paging.seen->last.client.regions_count, 2);
  CHECK_EQ(stage.paging.seen->last.stats.bytes, length);
  close_pager(&stage);
  tear_down(&stage);
}

static void machine_reads_the_image(void) {
  restore_whole(4 * MIB, PAGE, false);
}

static void requests_come_in_two_pieces(void) {
  restore_whole(1 * MIB, PAGE, true);
}

static void huge_pages(void) {
  check_hugepages(8);
  restore_whole(16 * MIB, 2 * MIB, false);
}

static void restore_as_user(void *ctx) {
  (void)ctx;
  check_drop_privileges();
  restore_whole(1 * MIB, PAGE, false);
}

static void ordinary_user_restores(void) {
  if (!check_is_root()) SKIP("this test runs as an ordinary user already");
  check_in_child(restore_as_user, NULL);
}

static void told(void *ctx) {
  atomic_store((_Atomic bool *)ctx, true);
}

static void machine_stays_paused(void) {
  struct stage stage;
  _Atomic bool *restored = share(sizeof(*restored));
  struct uffd_offload_result result = UFFD_OFFLOAD_RESULT_INIT;
  set_up(&stage, 1 * MIB, PAGE);
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  opts.flags = UFFD_OFFLOAD_PAUSED;
  opts.restored = told;
  opts.restored_ctx = restored;
  CHECK_OK(uffd_offload_restore(&opts, &result));
  check_machine(&stage);
  CHECK(atomic_load(restored));
  CHECK_EQ(result.paused, 1);
  CHECK_EQ(atomic_load(&stage.machine.seen->commands[HYPERVISOR_COMPLETE_PAUSED]), 1);
  CHECK_EQ(atomic_load(&stage.machine.seen->commands[HYPERVISOR_COMPLETE]), 0);
  close_pager(&stage);
  tear_down(&stage);
}

/* What does not end well */

/* The machine was told that it is over, and nobody is left that answers. */
static void refused(unsigned command, int error, const char *words) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  stage.machine.refuse = command;
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_ERR(uffd_offload_restore(&opts, NULL), error);
  CHECK_SAYS(words);
  CHECK_EQ(end_machine(&stage), 2);
  CHECK_EQ(atomic_load(&stage.machine.seen->commands[HYPERVISOR_ABANDON]), 1);
  CHECK(!atomic_load(&stage.machine.seen->runs));
  CHECK_EQ(waitpid(-1, NULL, WNOHANG), stage.paging.supervisor == 0 ? -1 : 0);
  close_pager(&stage);
  tear_down(&stage);
}

static void machine_refuses_each_step(void) {
  refused(HYPERVISOR_START, -EREMOTEIO, "refuses version 0 of the migration protocol");
  refused(HYPERVISOR_MEMORY_FD, -EREMOTEIO, "refuses a slot of its memory");
  refused(HYPERVISOR_CONFIG, -EREMOTEIO, "refuses the migration config");
  refused(HYPERVISOR_STATE, -EREMOTEIO, "refuses the state of the machine");
}

static void fault_connection_cannot_be_made(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  stage.machine.close_after = HYPERVISOR_CONFIG;
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -ECONNREFUSED);
  CHECK_EQ(end_machine(&stage), 2);
  CHECK_EQ(atomic_load(&stage.machine.seen->commands[HYPERVISOR_ABANDON]), 1);
  close_pager(&stage);
  tear_down(&stage);
}

static void machine_hangs_up_amid_it(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  stage.machine.hangs_up = true;
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -EPIPE);
  CHECK_SAYS("has hung up");
  CHECK_EQ(end_machine(&stage), 2);
  close_pager(&stage);
  tear_down(&stage);
}

static void nobody_is_there(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -ENOENT);
  CHECK_SAYS("have Cloud Hypervisor receive a migration there first");
  start_machine(&stage); /* and there is no pager */
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -ENOENT);
  CHECK_SAYS("start the pager first");
  CHECK_EQ(end_machine(&stage), 2);
  CHECK_EQ(atomic_load(&stage.machine.seen->commands[HYPERVISOR_ABANDON]), 1);
  CHECK_EQ(atomic_load(&stage.machine.seen->commands[HYPERVISOR_STATE]), 0);
  tear_down(&stage);
}

static void image_of_another_machine(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  stage.machine.slots[1].length /= 2;
  CHECK(hypervisor_config(&stage.machine, stage.config, sizeof(stage.config)) < sizeof(stage.config));
  write_file(stage.directory, "migration_config.json", stage.config);
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -EPIPE);
  CHECK_SAYS("it belongs to another client");
  CHECK_EQ(end_machine(&stage), 2);
  close_pager(&stage);
  tear_down(&stage);
}

static int fail_one(void *ctx, void *own, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct paging *paging = ctx;
  (void)own;
  if (fault->offset <= paging->length / 2 && fault->offset + fault->page_size > paging->length / 2) return -EIO;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = paging->bytes + fault->offset;
  answer->offset = fault->offset;
  answer->length = fault->page_size;
  return 0;
}

static int make_failing(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  (void)client;
  (void)image;
  ops.resolve = fail_one;
  return uffd_resolver_callback(&ops, ctx, "failing", NULL, 0, resolver);
}

/* One page cannot be had: the machine hears of it, which ends its prefault, or the machine if its guest wants it. */
static void page_that_cannot_be_filled(unsigned threads, int end) {
  struct stage stage;
  struct uffd_pager_opts pager = UFFD_PAGER_OPTS_INIT;
  struct uffd_offload_result result = UFFD_OFFLOAD_RESULT_INIT;
  set_up(&stage, 1 * MIB, PAGE);
  check_needs(UFFD_FEAT_POISON);
  pager.resolver = make_failing;
  pager.resolver_ctx = &stage.paging;
  stage.machine.threads = threads;
  paging_start(&stage.paging, &pager);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_OK(uffd_offload_restore(&opts, &result));
  CHECK_EQ(end_machine(&stage), end);
  CHECK_EQ(atomic_load(&stage.machine.seen->wrong), 0);
  CHECK(result.failed >= 1);
  close_pager(&stage);
  tear_down(&stage);
}

static void prefault_meets_a_page_that_cannot_be_filled(void) {
  page_that_cannot_be_filled(0, 0);
}

/* The prefault, or the guest, meets it first; in the end the guest wants it. */
static void guest_wants_a_page_that_cannot_be_filled(void) {
  page_that_cannot_be_filled(1, 3);
}

static void bad_configs(void) {
  static const struct {
    const char *mappings, *words;
    int error;
  } rows[] = {
      {"\x1b[2J", "is not JSON", -EPROTO},
      {"{}", "no memory_manager_data.guest_ram_mappings", -EPROTO},
      {"{\"memory_manager_data\":{\"guest_ram_mappings\":[]}}", "no memory_manager_data", -EPROTO},
      {"[7]", "has no number slot", -EPROTO},
      {"[{\"slot\":0,\"gpa\":0,\"size\":4096}]", "has no number file_offset", -EPROTO},
      {"[{\"slot\":0,\"gpa\":0,\"size\":\"4096\",\"file_offset\":0}]", "has no number size", -EPROTO},
      {"[{\"slot\":0,\"gpa\":0,\"size\":0,\"file_offset\":0}]", "is empty", -EINVAL},
      {"[{\"slot\":0,\"gpa\":-4096,\"size\":4096,\"file_offset\":0}]", "gpa is not an integer from 0", -EINVAL},
      {"[{\"slot\":0,\"gpa\":0,\"size\":4096.5,\"file_offset\":0}]", "size is not an integer", -EINVAL},
      {"[{\"slot\":0,\"gpa\":0,\"size\":18446744073709551615,\"file_offset\":0}]", "size is not an integer", -EINVAL},
      {"[{\"slot\":4294967296,\"gpa\":0,\"size\":4096,\"file_offset\":0}]", "its slot is too large", -EINVAL},
      {"[{\"slot\":0,\"gpa\":0,\"size\":5000,\"file_offset\":0}]", "is not whole pages", -EINVAL},
      {"[{\"slot\":0,\"gpa\":1,\"size\":4096,\"file_offset\":0}]", "is not whole pages", -EINVAL},
      {"[{\"slot\":0,\"gpa\":0,\"size\":4096,\"file_offset\":17}]", "is not whole pages", -EINVAL},
      {"[{\"slot\":0,\"gpa\":0,\"size\":8192,\"file_offset\":0},{\"slot\":1,\"gpa\":4096,\"size\":4096,"
       "\"file_offset\":0}]",
       "share addresses", -EINVAL},
      {"[{\"slot\":1,\"gpa\":0,\"size\":4096,\"file_offset\":0},{\"slot\":1,\"gpa\":4096,\"size\":4096,"
       "\"file_offset\":0}]",
       "is there twice", -EINVAL},
  };
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  struct uffd_offload_opts opts = options(&stage);
  for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
    char text[512];
    snprintf(text, sizeof(text), "{\"memory_manager_data\":{\"guest_ram_mappings\":%s}}", rows[i].mappings);
    write_file(stage.directory, "migration_config.json", rows[i].mappings[0] == '[' ? text : rows[i].mappings);
    CHECK_ERR(uffd_offload_restore(&opts, NULL), rows[i].error);
    CHECK_SAYS(rows[i].words);
    CHECK(strchr(uffd_errmsg(), '\x1b') == NULL);
  }
  tear_down(&stage);
}

static void bad_options(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  struct uffd_offload_opts opts = options(&stage);
  opts.page_size = 8192;
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -EINVAL);
  opts = options(&stage);
  opts.flags = 2;
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -EINVAL);
  opts = options(&stage);
  opts.door = NULL;
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -EINVAL);
  opts = options(&stage);
  opts.socket = NULL;
  CHECK_ERR(uffd_offload_snapshot(&opts, NULL), -EINVAL);
  opts = options(&stage);
  opts.directory = "/nonexistent/here";
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -ENOENT);
  CHECK_ERR(uffd_offload_snapshot(&opts, NULL), -ENOENT);
  struct uffd_offload_result result = {.size = 1};
  CHECK_ERR(uffd_offload_restore(&opts, &result), -EINVAL);
  tear_down(&stage);
}

/* In a process of its own, which has one thread: what it forks starts threads, and so do pagers of this test. */
struct restoring { /* shared with it */
  pid_t process;
  _Atomic int over;
  int error;
  char text[512];
  struct uffd_offload_result result;
};

static struct restoring *restore_start(const struct stage *stage) {
  struct restoring *restoring = share(sizeof(*restoring));
  fflush(NULL);
  pid_t process = fork();
  CHECK(process >= 0);
  if (process != 0) restoring->process = process;
  if (process != 0) return restoring;
  struct uffd_offload_opts opts = options(stage);
  restoring->result = (struct uffd_offload_result)UFFD_OFFLOAD_RESULT_INIT;
  restoring->error = uffd_offload_restore(&opts, &restoring->result);
  if (restoring->error < 0) snprintf(restoring->text, sizeof(restoring->text), "%s", uffd_errmsg());
  atomic_store(&restoring->over, 1);
  exit(0);
}

/* It has ended well; the caller gives the result back. */
static struct uffd_offload_result restore_end(struct restoring *restoring) {
  check_child(restoring->process);
  if (restoring->error < 0) fprintf(stderr, "%s\n", restoring->text);
  CHECK_EQ(restoring->error, 0);
  struct uffd_offload_result result = restoring->result;
  munmap(restoring, sizeof(*restoring));
  return result;
}

static void await_run(const struct stage *stage) {
  while (!atomic_load(&stage->machine.seen->runs)) {
    check_pause();
  }
}

/* Deaths */

static void die_at(const char *name, void *ctx) {
  (void)ctx;
  if (strcmp(name, "offload-answered") == 0) atomic_fetch_add(&killing->answered, 1);
  if (strcmp(name, "offload-waits") == 0) atomic_fetch_add(&killing->waits, 1);
  if (killing->where == NULL || strcmp(name, killing->where) != 0) return;
  if (atomic_fetch_sub(&killing->skips, 1) > 0 || atomic_fetch_sub(&killing->kills, 1) <= 0) return;
  atomic_fetch_add(&killing->killed, 1);
  raise(SIGKILL);
}

static void kill_at(const char *where, int skips, int kills) {
  if (killing == NULL) killing = share(sizeof(*killing));
  killing->where = where;
  atomic_store(&killing->skips, skips);
  atomic_store(&killing->kills, kills);
  atomic_store(&killing->killed, 0);
  atomic_store(&uffd_barrier_hook, die_at);
}

/* After so many requests it dies as often as said, each time at that point. */
static void die_and_go_on(const char *where, int skips, int kills, bool doubts) {
  struct stage stage;
  struct uffd_offload_result result = UFFD_OFFLOAD_RESULT_INIT;
  set_up(&stage, 1 * MIB, PAGE);
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  kill_at(where, skips, kills);
  CHECK_OK(uffd_offload_restore(&opts, &result));
  atomic_store(&uffd_barrier_hook, NULL);
  check_machine(&stage);
  CHECK_EQ(atomic_load(&killing->killed), kills);
  CHECK_EQ(result.restarts, kills);
  CHECK(!doubts || result.doubts >= 1);
  close_pager(&stage);
  tear_down(&stage);
  check_progress();
}

static const struct {
  const char *where;
  bool doubts;
} points[] = {
    {"offload-handed", false}, {"offload-filling", false}, {"offload-filled", false},   {"offload-answering", true},
    {"offload-taken", true},   {"offload-told", true},     {"offload-answered", false},
};

static void who_answers_dies_at_each_point(void) {
  for (size_t i = 0; i < sizeof(points) / sizeof(*points); i++) {
    bool once = strcmp(points[i].where, "offload-handed") == 0;
    die_and_go_on(points[i].where, 0, 1, points[i].doubts);
    die_and_go_on(points[i].where, once ? 0 : 100, 3, points[i].doubts);
  }
}

/*
 * The machine has had its answer, and asks for nothing when another one comes: it is answered once more, and takes that
 * for the answer to its next request, whose page is there.
 */
static void an_answer_too_many(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  atomic_store(&stage.machine.seen->hold, 1);
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  kill_at("offload-told", 0, 1);
  struct restoring *restoring = restore_start(&stage);
  await_run(&stage);
  while (atomic_load(&killing->answered) == 0) { /* the first one has died before it noted its answer */
    check_pause();
  }
  atomic_store(&stage.machine.seen->hold, 0);
  struct uffd_offload_result result = restore_end(restoring);
  atomic_store(&uffd_barrier_hook, NULL);
  check_machine(&stage);
  CHECK_EQ(result.restarts, 1);
  CHECK_EQ(result.doubts, 1);
  close_pager(&stage);
  tear_down(&stage);
}

/* The machine asks for a page before it has read all of its state, and whoever answers dies with that. */
static void state_is_large(void) {
  struct stage stage;
  struct uffd_offload_result result = UFFD_OFFLOAD_RESULT_INIT;
  char *state = malloc(2 * MIB + 1);
  memset(state, ' ', 2 * MIB);
  state[2 * MIB] = '\0';
  set_up(&stage, 1 * MIB, PAGE);
  stage.machine.state = state;
  write_file(stage.directory, "state.json", state);
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  kill_at("offload-filled", 0, 1);
  CHECK_OK(uffd_offload_restore(&opts, &result));
  atomic_store(&uffd_barrier_hook, NULL);
  check_machine(&stage);
  CHECK_EQ(result.restarts, 1);
  close_pager(&stage);
  tear_down(&stage);
  free(state);
}

/* In the place of one that died with a request, another dies amid finding out. */
static void who_answers_dies_in_doubt(void) {
  kill_at(NULL, 0, 0);
  for (int kills = 1; kills <= 3; kills++) {
    die_and_go_on("offload-taken", 7, kills, true);
  }
}

/* The machine is dead, as a page that its guest waits for does not come: it never reads zeros. */
static void who_answers_dies_in_a_row(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  kill_at("offload-filled", 20, 100);
  CHECK_ERR(uffd_offload_restore(&opts, NULL), -ECHILD);
  atomic_store(&uffd_barrier_hook, NULL);
  int end = end_machine(&stage);
  CHECK(end == 2 || end == 3); /* the migration, or a machine that runs already */
  CHECK_EQ(atomic_load(&stage.machine.seen->wrong), 0);
  close_pager(&stage);
  tear_down(&stage);
}

/* The pager has ended, and another one is started; whoever answered is dead: another one finds the new pager. */
static void pager_is_started_anew(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  atomic_store(&stage.machine.seen->hold, 1);
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  kill_at(NULL, 0, 0);
  struct restoring *restoring = restore_start(&stage);
  await_run(&stage);
  paging_await_clients(&stage.paging, 1, UFFD_CLIENT_SERVED);
  pid_t answers = stage.paging.seen->clients[0].client.pid;
  close_pager(&stage);
  kill(answers, SIGKILL);
  while (atomic_load(&killing->waits) == 0) { /* there is no door */
    check_pause();
  }
  atomic_store(&uffd_barrier_hook, NULL);
  paging_start(&stage.paging, NULL);
  atomic_store(&stage.machine.seen->hold, 0);
  CHECK_EQ(restore_end(restoring).restarts, 1);
  check_machine(&stage);
  close_pager(&stage);
  tear_down(&stage);
}

/* Pages that a worker of the pager has not filled yet are filled by the next. */
static void workers_of_the_pager_die(void) {
  struct stage stage;
  struct uffd_pager_opts pager = UFFD_PAGER_OPTS_INIT;
  pager.image = "";
  pager.around = PAGE;
  set_up(&stage, 16 * MIB / PAGING_SCALE, PAGE);
  struct hypervisor_seen *seen = stage.machine.seen;
  atomic_store(&seen->hold, 1);
  paging_start(&stage.paging, &pager);
  start_machine(&stage);
  struct restoring *restoring = restore_start(&stage);
  await_run(&stage);
  CHECK(paging_kill_worker(&stage.paging, 0)); /* the guest has seen one page */
  atomic_store(&seen->hold, 0);
  uint64_t last = 0;
  unsigned kills = 1;
  while (atomic_load(&restoring->over) == 0) { /* each has answered something */
    uint64_t pages = atomic_load(&seen->demanded) + atomic_load(&seen->prefaulted);
    if (pages > last + 50 && kills < 10 && paging_kill_worker(&stage.paging, 0)) {
      last = pages;
      kills++;
      check_progress();
    }
    check_pause();
  }
  struct uffd_offload_result result = restore_end(restoring);
  check_machine(&stage);
  CHECK_EQ(result.restarts, 0); /* whoever answers the machine has noticed nothing */
  close_pager(&stage);
  tear_down(&stage);
}

/* Whoever has begun the restore is killed: the process that answers goes on, to the end. */
static void who_restores_dies(void) {
  struct stage stage;
  int status;
  CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  set_up(&stage, 4 * MIB, PAGE);
  atomic_store(&stage.machine.seen->hold, 1);
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  pid_t restores = restore_start(&stage)->process;
  await_run(&stage);
  paging_await_clients(&stage.paging, 1, UFFD_CLIENT_SERVED);
  pid_t answers = stage.paging.seen->clients[0].client.pid;
  kill(restores, SIGKILL);
  CHECK_EQ(waitpid(restores, &status, 0), restores);
  atomic_store(&stage.machine.seen->hold, 0);
  check_machine(&stage);
  CHECK_EQ(waitpid(answers, &status, 0), answers);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
  close_pager(&stage);
  tear_down(&stage);
}

/* The pager is told to end: it fills all, and the machine goes on asking, of whom nobody is left. */
static void pager_is_drained(void) {
  struct stage stage;
  set_up(&stage, 4 * MIB, PAGE);
  atomic_store(&stage.machine.seen->hold, 1);
  stage.machine.threads = 1;
  paging_start(&stage.paging, NULL);
  start_machine(&stage);
  struct restoring *restoring = restore_start(&stage);
  paging_await_clients(&stage.paging, 1, UFFD_CLIENT_SERVED);
  await_run(&stage);
  paging_signal(&stage.paging, SIGTERM);
  paging_await(&stage.paging, UFFD_REPORT_COMPLETE, 1);
  paging_await_over(&stage.paging);
  CHECK_EQ(paging_end(&stage.paging), 0);
  atomic_store(&stage.machine.seen->hold, 0);
  (void)restore_end(restoring);
  check_machine(&stage);
  tear_down(&stage);
}

/*
 * Page 7 of the image is asked for, and not answered while flags[1] is 0. flags[0]: how often it was asked for.
 */
static int hold_page_7(void *ctx, void *own, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct paging *paging = ctx;
  (void)own;
  if (fault->offset == 7 * PAGE) atomic_fetch_add(&paging->seen->flags[0], 1);
  while (fault->offset == 7 * PAGE && atomic_load(&paging->seen->flags[1]) == 0) {
    check_pause();
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = paging->bytes + fault->offset;
  return 0;
}

static int make_holding(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  (void)client;
  (void)image;
  ops.resolve = hold_page_7;
  return uffd_resolver_callback(&ops, ctx, "holding", NULL, 0, resolver);
}

static void start_holding(struct stage *stage) {
  struct uffd_pager_opts pager = UFFD_PAGER_OPTS_INIT;
  pager.image = "";
  pager.around = UFFD_AROUND_PAGE;
  pager.resolver = make_holding;
  pager.resolver_ctx = &stage->paging;
  paging_start(&stage->paging, &pager);
}

/* Starts all of it. When it returns, the machine has asked for page 7, and waits for the answer. */
static struct restoring *ask_for_page_7(struct stage *stage) {
  set_up(stage, 1 * MIB, PAGE);
  start_holding(stage);
  start_machine(stage);
  struct restoring *restoring = restore_start(stage);
  while (atomic_load(&stage->paging.seen->flags[0]) == 0) {
    check_pause();
  }
  return restoring;
}

static void kill_supervisor(const struct stage *stage) {
  kill(stage->paging.supervisor, SIGKILL);
  CHECK_EQ(waitpid(stage->paging.supervisor, NULL, 0), stage->paging.supervisor);
}

/* Whoever answers the machine notices nothing: the page comes from the next worker. */
static void worker_dies_amid_a_request(void) {
  struct stage stage;
  struct restoring *restoring = ask_for_page_7(&stage);
  CHECK(paging_kill_worker(&stage.paging, 0));
  while (atomic_load(&stage.paging.seen->flags[0]) < 2) {
    check_pause();
  }
  atomic_store(&stage.paging.seen->flags[1], 1);
  CHECK_EQ(restore_end(restoring).restarts, 0);
  check_machine(&stage);
  close_pager(&stage);
  tear_down(&stage);
}

/* The worker goes on without it, to the end. */
static void supervisor_dies_amid_a_request(void) {
  struct stage stage;
  struct restoring *restoring = ask_for_page_7(&stage);
  kill_supervisor(&stage);
  atomic_store(&stage.paging.seen->flags[1], 1);
  CHECK_EQ(restore_end(restoring).restarts, 0);
  check_machine(&stage);
  paging_await_dead(atomic_load(&stage.paging.seen->workers[0]));
  tear_down(&stage);
}

static void kill_pager(struct stage *stage) {
  kill_supervisor(stage);
  CHECK(paging_kill_worker(&stage->paging, 0));
  paging_await_dead(atomic_load(&stage->paging.seen->workers[0]));
}

/* The machine waits until another pager listens at the door, which gets the memory from whoever answers. */
static void pager_dies_amid_a_request(void) {
  struct stage stage;
  struct restoring *restoring = ask_for_page_7(&stage);
  kill_pager(&stage);
  unsigned before = atomic_load(&stage.paging.seen->begun);
  start_holding(&stage);
  while (atomic_load(&stage.paging.seen->flags[0]) < 2) {
    check_pause();
  }
  CHECK(atomic_load(&stage.paging.seen->begun) > before);
  CHECK_EQ(atomic_load(&restoring->over), 0);
  atomic_store(&stage.paging.seen->flags[1], 1);
  CHECK_EQ(restore_end(restoring).restarts, 0);
  check_machine(&stage);
  paging_await(&stage.paging, UFFD_REPORT_GONE, 1);
  close_pager(&stage);
  tear_down(&stage);
}

static void lose_patience(const char *name, void *ctx) {
  if (strcmp(name, "offload-alone") == 0) *(uint64_t *)ctx = 0;
}

/* The restore fails in words, and the machine ends: it waits for no page for ever, and reads no zeros. */
static void pager_dies_and_none_comes(void) {
  struct stage stage;
  atomic_store(&uffd_barrier_hook, lose_patience);
  struct restoring *restoring = ask_for_page_7(&stage);
  kill_pager(&stage);
  atomic_store(&uffd_barrier_hook, NULL);
  check_child(restoring->process);
  CHECK_EQ(restoring->error, -EPIPE);
  CHECK(strstr(restoring->text, "The pager is gone, and a page has waited") != NULL);
  CHECK(strstr(restoring->text, "Nobody listens at") != NULL);
  munmap(restoring, sizeof(*restoring));
  int end = end_machine(&stage);
  CHECK(end == 2 || end == 3); /* the migration, or a machine that runs already */
  CHECK_EQ(atomic_load(&stage.machine.seen->wrong), 0);
  tear_down(&stage);
}

/* Snapshots */

struct saving {
  pid_t process;
  int result; /* shared */
  char text[512];
};

static struct saving *save_start(const struct stage *stage) {
  struct saving *saving = share(sizeof(*saving));
  fflush(NULL);
  pid_t process = fork();
  CHECK(process >= 0);
  if (process != 0) saving->process = process;
  if (process != 0) return saving;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct uffd_offload_opts opts = options(stage);
  struct uffd_offload_result result = UFFD_OFFLOAD_RESULT_INIT;
  saving->result = uffd_offload_snapshot(&opts, &result);
  if (saving->result < 0) snprintf(saving->text, sizeof(saving->text), "%s", uffd_errmsg());
  if (saving->result == 0 && (result.slots != 2 || result.bytes != stage->paging.length)) saving->result = 1;
  exit(0);
}

static int connect_to(const struct stage *stage) {
  int fd;
  while ((fd = hypervisor_connect(stage->socket)) < 0) {
    check_pause();
  }
  return fd;
}

static int save_end(struct saving *saving, const char *words) {
  check_child(saving->process);
  int result = saving->result;
  if (words != NULL && strstr(saving->text, words) == NULL) fprintf(stderr, "it says: %s\n", saving->text);
  CHECK(words == NULL || strstr(saving->text, words) != NULL);
  munmap(saving, sizeof(*saving));
  return result;
}

static void prepare_snapshot(struct stage *stage, uint64_t length, uint64_t page_size) {
  set_up(stage, length, page_size);
  snprintf(stage->directory, sizeof(stage->directory), "%s/snapshot/made", stage->paging.directory);
}

static void end_snapshot(struct stage *stage) {
  tear_down(stage);
}

static unsigned say(int socket, unsigned command, const void *payload, size_t length, int fd) {
  return hypervisor_say(socket, command, 0, payload, length, fd);
}

static void send_slots(const struct stage *stage, int socket, int memory) {
  for (unsigned i = 0; i < stage->machine.count; i++) {
    CHECK_EQ(say(socket, HYPERVISOR_MEMORY_FD, &stage->machine.slots[i].number, 4, memory), 1);
  }
}

static void check_file(const struct stage *stage, const char *name, const void *bytes, size_t length) {
  char path[PATH_MAX];
  struct stat status;
  CHECK(snprintf(path, sizeof(path), "%s/%s", stage->directory, name) < (int)sizeof(path));
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0 && fstat(fd, &status) == 0);
  CHECK_EQ(status.st_size, length);
  void *is = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(is != MAP_FAILED && memcmp(is, bytes, length) == 0);
  if (length >= MIB) CHECK(status.st_blocks * 512 < (off_t)(length - length / 8)); /* a fifth of it is holes */
  munmap(is, length);
  close(fd);
}

/* It holds all that the machine knows. */
static void check_private(const struct stage *stage) {
  static const char *const names[] = {"migration_config.json", "state.json", "memory.img", "."};
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
    char path[PATH_MAX + 32];
    struct stat status;
    snprintf(path, sizeof(path), "%s/%s", stage->directory, names[i]);
    CHECK_EQ(stat(path, &status), 0);
    CHECK_EQ(status.st_mode & 077, 0);
  }
}

static void save_machine(struct stage *stage, unsigned complete) {
  struct saving *saving = save_start(stage);
  int memory = hypervisor_memory(&stage->machine, stage->paging.length), socket = connect_to(stage);
  CHECK(memory >= 0);
  CHECK_EQ(say(socket, HYPERVISOR_START, NULL, 0, -1), 1);
  send_slots(stage, socket, memory);
  CHECK_EQ(say(socket, HYPERVISOR_CONFIG, stage->config, strlen(stage->config), -1), 1);
  CHECK_EQ(say(socket, HYPERVISOR_STATE, state_text, strlen(state_text), -1), 1);
  CHECK_EQ(say(socket, complete, NULL, 0, -1), 1);
  /* it may be gone now: all is there */
  check_file(stage, "memory.img", stage->paging.bytes, stage->paging.length);
  check_file(stage, "migration_config.json", stage->config, strlen(stage->config));
  check_file(stage, "state.json", state_text, strlen(state_text));
  close(socket);
  close(memory);
  CHECK_EQ(save_end(saving, NULL), 0);
  CHECK_EQ(paging_entries(stage->directory), 3);
  check_private(stage);
  CHECK_EQ(access(stage->socket, F_OK), -1);
}

/* A machine is saved, and what was saved is restored, byte for byte. */
static void round_trip(uint64_t length, uint64_t page_size, unsigned complete) {
  struct stage stage;
  char image[PATH_MAX + 16], inner[PATH_MAX];
  struct uffd_pager_opts pager = UFFD_PAGER_OPTS_INIT;
  prepare_snapshot(&stage, length, page_size);
  save_machine(&stage, complete);
  snprintf(image, sizeof(image), "%s/memory.img", stage.directory);
  pager.image = image;
  paging_start(&stage.paging, &pager);
  start_machine(&stage);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_OK(uffd_offload_restore(&opts, NULL));
  check_machine(&stage);
  close_pager(&stage);
  unlink(image);
  snprintf(inner, sizeof(inner), "%s", stage.directory);
  const char *names[] = {"migration_config.json", "state.json"};
  for (int i = 0; i < 2; i++) {
    CHECK(snprintf(image, sizeof(image), "%.4000s/%s", inner, names[i]) < (int)sizeof(image));
    CHECK_EQ(unlink(image), 0);
  }
  CHECK_EQ(rmdir(inner), 0);
  snprintf(stage.directory, sizeof(stage.directory), "%s/snapshot", stage.paging.directory);
  end_snapshot(&stage);
}

static void machine_is_saved_and_restored(void) {
  round_trip(4 * MIB, PAGE, HYPERVISOR_COMPLETE_PAUSED);
}

static void huge_pages_are_saved_and_restored(void) {
  check_hugepages(16);
  round_trip(16 * MIB, 2 * MIB, HYPERVISOR_COMPLETE);
}

/* Each row: what is sent before something that cannot be, and why it ends. Nothing is kept. */
enum bad_step {
  BAD_VERSION,
  BAD_ORDER,
  BAD_TWICE,
  BAD_NO_FD,
  BAD_LENGTH,
  BAD_CONFIG,
  BAD_LONG,
  BAD_COMMAND,
  BAD_NO_SLOT,
  BAD_NO_STATE,
  BAD_SHORT,
  BAD_ABANDON,
  BAD_HANG_UP,
};

static void misbehave(const struct stage *stage, int socket, enum bad_step step) {
  uint32_t number = 7;
  int memory = hypervisor_memory(&stage->machine, stage->paging.length);
  CHECK(memory >= 0);
  if (step == BAD_VERSION) CHECK_EQ(hypervisor_say(socket, HYPERVISOR_START, 1, NULL, 0, -1), 2);
  if (step == BAD_ORDER) CHECK_EQ(say(socket, HYPERVISOR_CONFIG, "{}", 2, -1), 2);
  if (step == BAD_VERSION || step == BAD_ORDER) goto done;
  CHECK_EQ(say(socket, HYPERVISOR_START, NULL, 0, -1), 1);
  if (step == BAD_NO_FD) CHECK_EQ(say(socket, HYPERVISOR_MEMORY_FD, &number, 4, -1), 2);
  if (step == BAD_LENGTH) CHECK_EQ(say(socket, HYPERVISOR_MEMORY_FD, "12345678", 8, memory), 2);
  if (step == BAD_CONFIG) CHECK_EQ(say(socket, HYPERVISOR_CONFIG, "{}", 2, -1), 2);
  if (step == BAD_LONG) {
    unsigned char frame[16] = {HYPERVISOR_CONFIG, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80};
    CHECK_EQ(send(socket, frame, sizeof(frame), MSG_NOSIGNAL), sizeof(frame));
    CHECK_EQ(recv(socket, frame, sizeof(frame), MSG_WAITALL), sizeof(frame));
    CHECK_EQ(frame[0], 2);
  }
  if (step == BAD_COMMAND) CHECK_EQ(say(socket, 4, NULL, 0, -1), 2);
  if (step >= BAD_NO_FD && step <= BAD_COMMAND) goto done;
  CHECK_EQ(say(socket, HYPERVISOR_MEMORY_FD, &number, 4, memory), 1);
  if (step == BAD_TWICE) CHECK_EQ(say(socket, HYPERVISOR_MEMORY_FD, &number, 4, memory), 2);
  if (step == BAD_TWICE) goto done;
  if (step == BAD_HANG_UP) goto done;
  number = 3;
  if (step != BAD_NO_SLOT) CHECK_EQ(say(socket, HYPERVISOR_MEMORY_FD, &number, 4, memory), 1);
  CHECK_EQ(say(socket, HYPERVISOR_CONFIG, stage->config, strlen(stage->config), -1), 1);
  if (step != BAD_NO_STATE) CHECK_EQ(say(socket, HYPERVISOR_STATE, state_text, strlen(state_text), -1), 1);
  if (step == BAD_SHORT) CHECK_EQ(ftruncate(memory, (off_t)(stage->paging.length - PAGE)), 0);
  if (step == BAD_ABANDON) CHECK_EQ(say(socket, HYPERVISOR_ABANDON, NULL, 0, -1), 1);
  if (step != BAD_ABANDON) CHECK_EQ(say(socket, HYPERVISOR_COMPLETE_PAUSED, NULL, 0, -1), 2);
done:
  close(memory);
}

static void nothing_is_kept_of_a_snapshot_that_fails(void) {
  static const struct {
    enum bad_step step;
    int error;
    const char *words;
  } rows[] = {
      {BAD_VERSION, -EPROTO, "speaks version 1"},
      {BAD_ORDER, -EPROTO, "should begin"},
      {BAD_TWICE, -EPROTO, "Slot 7 came twice"},
      {BAD_NO_FD, -EBADF, "without a descriptor"},
      {BAD_LENGTH, -EPROTO, "8 bytes instead of 4"},
      {BAD_CONFIG, -EPROTO, "no memory_manager_data"},
      {BAD_LONG, -E2BIG, "are taken"},
      {BAD_COMMAND, -EPROTO, "Request 4"},
      {BAD_NO_SLOT, -EPROTO, "slot 3 was not sent"},
      {BAD_NO_STATE, -EPROTO, "before its state came"},
      {BAD_SHORT, -EINVAL, "too short"},
      {BAD_ABANDON, -ECANCELED, "nothing of it is kept"},
      {BAD_HANG_UP, -EPIPE, "nothing of it is kept"},
  };
  struct stage stage;
  prepare_snapshot(&stage, 1 * MIB, PAGE);
  for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
    struct saving *saving = save_start(&stage);
    int socket = connect_to(&stage);
    misbehave(&stage, socket, rows[i].step);
    close(socket);
    CHECK_EQ(save_end(saving, rows[i].words), rows[i].error);
    CHECK_EQ(paging_entries(stage.directory), 0);
    CHECK_EQ(access(stage.socket, F_OK), -1);
  }
  CHECK_EQ(rmdir(stage.directory), 0);
  snprintf(stage.directory, sizeof(stage.directory), "%s/snapshot", stage.paging.directory);
  end_snapshot(&stage);
}

static void snapshot_is_not_replaced(void) {
  struct stage stage;
  set_up(&stage, 1 * MIB, PAGE);
  struct uffd_offload_opts opts = options(&stage);
  CHECK_ERR(uffd_offload_snapshot(&opts, NULL), -EEXIST);
  CHECK_SAYS("is there already");
  CHECK_EQ(paging_entries(stage.directory), 2);
  tear_down(&stage);
}

/* Killed when all was read, before anything was answered: there is no config, so there is no snapshot. */
static void who_saves_dies(void) {
  struct stage stage;
  int status;
  prepare_snapshot(&stage, 1 * MIB, PAGE);
  kill_at("offload-saved", 0, 1);
  struct saving *saving = save_start(&stage);
  atomic_store(&uffd_barrier_hook, NULL);
  int memory = hypervisor_memory(&stage.machine, stage.paging.length), socket = connect_to(&stage);
  CHECK_EQ(say(socket, HYPERVISOR_START, NULL, 0, -1), 1);
  send_slots(&stage, socket, memory);
  CHECK_EQ(say(socket, HYPERVISOR_CONFIG, stage.config, strlen(stage.config), -1), 1);
  CHECK_EQ(say(socket, HYPERVISOR_STATE, state_text, strlen(state_text), -1), 1);
  CHECK_EQ(say(socket, HYPERVISOR_COMPLETE_PAUSED, NULL, 0, -1), 0); /* the machine keeps its memory */
  CHECK_EQ(waitpid(saving->process, &status, 0), saving->process);
  CHECK(WIFSIGNALED(status));
  char path[PATH_MAX + 32];
  snprintf(path, sizeof(path), "%s/migration_config.json", stage.directory);
  CHECK_EQ(access(path, F_OK), -1);
  close(socket);
  close(memory);
  snprintf(path, sizeof(path), "rm -r '%.4000s'", stage.directory);
  CHECK_EQ(system(path), 0); /* NOLINT(cert-env33-c): the temporary files of a process that was killed */
  snprintf(stage.directory, sizeof(stage.directory), "%s/snapshot", stage.paging.directory);
  tear_down(&stage);
}

static const struct check_test tests[] = {
    TEST(machine_reads_the_image),
    TEST(requests_come_in_two_pieces),
    TEST(huge_pages),
    TEST(machine_stays_paused),
    TEST(machine_refuses_each_step),
    TEST(fault_connection_cannot_be_made),
    TEST(machine_hangs_up_amid_it),
    TEST(nobody_is_there),
    TEST(image_of_another_machine),
    TEST(prefault_meets_a_page_that_cannot_be_filled),
    TEST(guest_wants_a_page_that_cannot_be_filled),
    TEST(ordinary_user_restores),
    TEST(bad_configs),
    TEST(bad_options),
    TEST(who_answers_dies_at_each_point),
    TEST(an_answer_too_many),
    TEST(state_is_large),
    TEST(who_answers_dies_in_doubt),
    TEST(who_answers_dies_in_a_row),
    TEST(workers_of_the_pager_die),
    TEST(pager_is_started_anew),
    TEST(who_restores_dies),
    TEST(pager_is_drained),
    TEST(worker_dies_amid_a_request),
    TEST(supervisor_dies_amid_a_request),
    TEST(pager_dies_amid_a_request),
    TEST(pager_dies_and_none_comes),
    TEST(machine_is_saved_and_restored),
    TEST(huge_pages_are_saved_and_restored),
    TEST(nothing_is_kept_of_a_snapshot_that_fails),
    TEST(snapshot_is_not_replaced),
    TEST(who_saves_dies),
};

CHECK_MAIN(tests)
