/*
 * One copy for clients in other processes: private mappings of the pager's memfd, whose pages the workers fill once.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "door.h"
#include "paging.h"

#define MIB   (UINT64_C(1) << 20)
#define PAGE  UINT64_C(4096)
#define TAIL  UINT64_C(1000) /* of the image, beyond whole pages */
#define BYTES (MIB + TAIL)
#define WHOLE (MIB + PAGE)

static struct uffd_pager_opts share_opts(void) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  opts.image = "";
  opts.around = PAGE;
  opts.flags = UFFD_PAGER_SHARE;
  return opts;
}

/* A client, in a process of its own. Flags and numbers of the test are its to use. */
struct clone {
  struct paging *paging;
  unsigned index;
  uint64_t features;
  uint32_t map_flags;
  void (*run)(struct clone *clone); /* after it has handed over */
  uffd_memory *memory;
  uffd_handoff *handoff;
  unsigned char *at;
};

static uffd_memory *map_lent(const struct paging *paging, uint32_t flags) {
  struct uffd_handoff_map_opts opts = UFFD_HANDOFF_MAP_OPTS_INIT;
  uffd_memory *memory;
  opts.flags = flags;
  CHECK_OK(uffd_handoff_map(paging->socket, &opts, &memory));
  CHECK_EQ(uffd_memory_length(memory), round_up(paging->length, PAGE));
  CHECK_EQ(uffd_memory_kind(memory), UFFD_MEMORY_MEMFD);
  return memory;
}

static uffd_handoff *hand_over(const struct paging *paging, uffd_memory *memory, uint64_t features) {
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  struct uffd_handoff_part part = {memory, 0};
  uffd_handoff *handoff;
  opts.timeout_ms = 600000;
  opts.features = features;
  CHECK_OK(uffd_handoff_send(paging->socket, &part, 1, &opts, &handoff));
  return handoff;
}

static pid_t start(struct clone clone) {
  fflush(NULL);
  pid_t process = fork();
  CHECK(process >= 0);
  if (process != 0) return process;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  clone.memory = map_lent(clone.paging, clone.map_flags);
  clone.at = uffd_memory_address(clone.memory);
  clone.handoff = hand_over(clone.paging, clone.memory, clone.features);
  clone.run(&clone);
  uffd_handoff_close(clone.handoff);
  uffd_memory_close(clone.memory);
  _exit(0);
}

static void set(const struct clone *clone, unsigned flag) {
  atomic_store(&clone->paging->seen->flags[flag], 1);
}

static void await(const struct paging *paging, unsigned flag) {
  while (atomic_load(&paging->seen->flags[flag]) == 0) {
    check_pause();
  }
}

/* The bytes of the image, and zeros behind it. */
static bool is_image(const struct clone *clone, uint64_t offset, uint64_t length) {
  const struct paging *paging = clone->paging;
  for (uint64_t i = offset; i < offset + length; i++) {
    if (clone->at[i] != (i < paging->length ? paging->bytes[i] : 0)) return false;
  }
  return true;
}

static bool is_zero(const struct clone *clone, uint64_t offset, uint64_t length) {
  for (uint64_t i = offset; i < offset + length; i++) {
    if (clone->at[i] != 0) return false;
  }
  return true;
}

/* KiB of the mapping at address: a line of smaps. */
static uint64_t smaps_kib(const void *address, const char *name) {
  char line[256];
  uint64_t start, end, value = UINT64_MAX;
  bool inside = false;
  FILE *smaps = fopen("/proc/self/smaps", "re");
  CHECK(smaps != NULL);
  while (fgets(line, sizeof(line), smaps) != NULL) {
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2) {
      inside = start == (uintptr_t)address;
    } else if (inside && strncmp(line, name, strlen(name)) == 0) {
      sscanf(line + strlen(name), ": %" SCNu64, &value);
    }
  }
  fclose(smaps);
  return value;
}

#define CLONES 4u

/* Waits until all clones have come to this step. */
static void meet(const struct clone *clone, unsigned step) {
  set(clone, step * CLONES + clone->index);
  for (unsigned i = 0; i < CLONES; i++) {
    await(clone->paging, step * CLONES + i);
  }
}

/* All have read all; then each sees its share of it. A tenth that each writes is its own. */
static void read_and_weigh(struct clone *clone) {
  uint64_t written = 0;
  CHECK(is_image(clone, 0, WHOLE));
  meet(clone, 0);
  CHECK_EQ(smaps_kib(clone->at, "Rss"), WHOLE / 1024);
  CHECK_EQ(smaps_kib(clone->at, "Anonymous"), 0);
  CHECK(smaps_kib(clone->at, "Pss") <= WHOLE / 1024 / CLONES + 1);
  meet(clone, 1);
  for (uint64_t at = 0; at < WHOLE; at += 10 * PAGE, written++) {
    clone->at[at] = (unsigned char)~clone->at[at];
  }
  meet(clone, 2);
  CHECK_EQ(smaps_kib(clone->at, "Rss"), WHOLE / 1024);
  CHECK_EQ(smaps_kib(clone->at, "Anonymous"), written * PAGE / 1024);
  CHECK(smaps_kib(clone->at, "Pss") * 5 < WHOLE / 1024 * 2);
  meet(clone, 3);
}

static void clients_have_one_copy(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  pid_t clones[CLONES];
  opts.workers = 2;
  paging_set_up(&paging, BYTES);
  paging_start(&paging, &opts);
  for (unsigned i = 0; i < CLONES; i++) {
    clones[i] = start((struct clone){.paging = &paging, .index = i, .run = read_and_weigh});
  }
  for (unsigned i = 0; i < CLONES; i++) {
    paging_client_ok(clones[i]);
  }
  paging_await(&paging, UFFD_REPORT_GONE, CLONES);
  CHECK_EQ(paging.seen->last.stats.continued, WHOLE / PAGE);
  CHECK_EQ(paging.seen->last.stats.copied, 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* What a client writes, first or after it has read, is its own. */
static void write_here_and_there(struct clone *clone) {
  unsigned char mine = (unsigned char)(200 + clone->index);
  clone->at[3 * PAGE + 7] = mine;
  CHECK_EQ(clone->at[9 * PAGE], clone->paging->bytes[9 * PAGE]);
  clone->at[9 * PAGE + 1] = mine;
  set(clone, clone->index);
  await(clone->paging, 0);
  await(clone->paging, 1);
  CHECK_EQ(clone->at[3 * PAGE + 7], mine);
  CHECK_EQ(clone->at[9 * PAGE + 1], mine);
  CHECK(is_image(clone, 0, 3 * PAGE + 7));
  CHECK(is_image(clone, 3 * PAGE + 8, 6 * PAGE - 7));
  CHECK(is_image(clone, 9 * PAGE + 2, WHOLE - 9 * PAGE - 2));
}

static void what_is_written_is_ones_own(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  paging_set_up(&paging, BYTES);
  paging_start(&paging, &opts);
  pid_t one = start((struct clone){.paging = &paging, .index = 0, .run = write_here_and_there});
  pid_t two = start((struct clone){.paging = &paging, .index = 1, .run = write_here_and_there});
  paging_client_ok(one);
  paging_client_ok(two);
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Workers that die */

static struct paging_seen *seen_here;
static const char *dies_at;

/* The file that this worker fills, in its own mappings. */
static unsigned char *find_file(void) {
  char line[256];
  unsigned char *file = NULL;
  FILE *maps = fopen("/proc/self/maps", "re");
  while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
    if (strstr(line, "memfd:uffd-shared") != NULL && strstr(line, " rw-s ") != NULL) {
      file = (unsigned char *)(uintptr_t)strtoull(line, NULL, 16); /* NOLINT(performance-no-int-to-ptr) */
    }
  }
  if (maps != NULL) fclose(maps);
  return file;
}

/* The first time that a worker comes there, it dies; it has written a half of the page, and not the image's bytes. */
static void die(const char *name, void *ctx) {
  (void)ctx;
  if (strcmp(name, dies_at) != 0 || atomic_exchange(&seen_here->flags[7], 1) != 0) return;
  if (strcmp(name, "filling") == 0) memset(find_file() + 5 * PAGE, 0xee, PAGE / 2);
  raise(SIGKILL);
}

static void die_there(struct paging *paging) {
  seen_here = paging->seen;
  atomic_store(&uffd_barrier_hook, die);
}

static void read_from_the_sixth(struct clone *clone) {
  CHECK(is_image(clone, 5 * PAGE, PAGE));
  CHECK(is_image(clone, 0, WHOLE));
}

static void a_worker_dies(const char *barrier) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  paging_set_up(&paging, BYTES);
  dies_at = barrier;
  paging.before = die_there;
  paging_start(&paging, &opts);
  paging_client_ok(start((struct clone){.paging = &paging, .run = read_from_the_sixth}));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_DIED), 1);
  paging_client_ok(start((struct clone){.paging = &paging, .run = read_from_the_sixth}));
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void a_worker_dies_while_it_writes_a_page(void) {
  a_worker_dies("filling");
}

static void a_worker_dies_before_a_page_counts_as_filled(void) {
  a_worker_dies("written");
}

static void a_worker_dies_before_it_maps_a_page(void) {
  a_worker_dies("filled");
}

/* The page cache may have pages that nobody has filled: whoever reads a hole makes one, of zeros. */
static void holes_that_were_read_are_no_contents(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  paging_set_up(&paging, BYTES);
  paging_start(&paging, &opts);
  uffd_memory *memory = map_lent(&paging, 0);
  struct clone careless = {.paging = &paging, .at = uffd_memory_address(memory)};
  CHECK(is_zero(&careless, 0, WHOLE));
  paging_client_ok(start((struct clone){.paging = &paging, .run = read_from_the_sixth}));
  uffd_memory_close(memory);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Dropped pages */

static void drop_and_complete(struct clone *clone) {
  CHECK(is_image(clone, 0, 8 * PAGE));
  clone->at[2 * PAGE] ^= 1;
  CHECK_EQ(madvise(clone->at + 2 * PAGE, 4 * PAGE, MADV_DONTNEED), 0);
  CHECK(is_zero(clone, 2 * PAGE, 2 * PAGE));
  CHECK(is_image(clone, 0, 2 * PAGE));
  CHECK_OK(uffd_handoff_complete(clone->handoff)); /* two of the dropped pages were not read since */
  CHECK(is_zero(clone, 2 * PAGE, 4 * PAGE));
  CHECK(is_image(clone, 6 * PAGE, WHOLE - 6 * PAGE));
}

static void dropped_pages_are_zeros(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  check_needs(UFFD_FEAT_EVENT_REMOVE);
  paging_set_up(&paging, BYTES);
  paging_start(&paging, &opts);
  paging_client_ok(start((struct clone){.paging = &paging, .run = drop_and_complete}));
  paging_client_ok(start((struct clone){.paging = &paging, .run = read_from_the_sixth}));
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void drop_and_wait(struct clone *clone) {
  CHECK(is_image(clone, 0, 8 * PAGE));
  CHECK_EQ(madvise(clone->at + 2 * PAGE, 4 * PAGE, MADV_DONTNEED), 0);
  set(clone, 0);
  await(clone->paging, 1);
  CHECK(is_zero(clone, 2 * PAGE, 4 * PAGE));
  CHECK(is_image(clone, 6 * PAGE, WHOLE - 6 * PAGE));
}

/* The pager completes what it drains: what was dropped and not read since is zero afterwards, too. */
static void dropped_pages_are_zeros_when_all_is_complete(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  check_needs(UFFD_FEAT_EVENT_REMOVE);
  paging_set_up(&paging, BYTES);
  paging_start(&paging, &opts);
  pid_t clone = start((struct clone){.paging = &paging, .run = drop_and_wait});
  await(&paging, 0);
  paging_signal(&paging, SIGTERM);
  paging_await(&paging, UFFD_REPORT_COMPLETE, 1);
  atomic_store(&paging.seen->flags[1], 1);
  paging_client_ok(clone);
  CHECK_EQ(paging_end(&paging), 0);
  paging_tear_down(&paging);
}

/* Forked children */

static void fork_and_read(struct clone *clone) {
  CHECK(is_image(clone, 0, 8 * PAGE));
  clone->at[2 * PAGE] = 77;
  CHECK_EQ(madvise(clone->at + 4 * PAGE, PAGE, MADV_DONTNEED), 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    clone->at[3 * PAGE] = 78;
    CHECK_EQ(clone->at[2 * PAGE], 77);
    CHECK(is_zero(clone, 4 * PAGE, PAGE));
    CHECK(is_image(clone, 5 * PAGE, WHOLE - 5 * PAGE));
    CHECK_EQ(smaps_kib(clone->at, "Anonymous") <= 3 * PAGE / 1024, true);
    _exit(0);
  }
  int status;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
  CHECK_EQ(clone->at[3 * PAGE], clone->paging->bytes[3 * PAGE]);
  CHECK(is_image(clone, 5 * PAGE, WHOLE - 5 * PAGE));
}

static void forked_children_share_too(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  check_needs(UFFD_FEAT_EVENT_FORK);
  if (!check_is_root()) SKIP("forks are told to those with CAP_SYS_PTRACE");
  paging_set_up(&paging, BYTES);
  paging_start(&paging, &opts);
  paging_client_ok(start((struct clone){
      .paging = &paging, .features = UFFD_FEAT_EVENT_FORK, .map_flags = UFFD_MAP_FORK, .run = fork_and_read}));
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* What is refused */

static void a_pager_that_does_not_share_says_so(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  uffd_memory *memory;
  opts.flags = 0;
  paging_set_up(&paging, BYTES);
  paging_start(&paging, &opts);
  CHECK_ERR(uffd_handoff_map(paging.socket, NULL, &memory), -EPIPE);
  CHECK(strstr(uffd_errmsg(), "--share") != NULL);
  CHECK(memory == NULL);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void what_is_lent_is_the_pagers(void) {
  struct paging paging, other;
  struct uffd_pager_opts opts = share_opts();
  uffd_memory *memory, *clone;
  uffd_handoff *handoff;
  uffd_loop *loop;
  uffd_resolver *zero, *shared;
  paging_set_up(&paging, BYTES);
  paging_set_up(&other, BYTES);
  paging_start(&paging, &opts);
  paging_start(&other, &opts);
  memory = map_lent(&paging, 0);
  int fd = uffd_memory_fd(memory);
  CHECK_EQ(write(fd, "x", 1), -1);
  CHECK_EQ(errno, EBADF);
  CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  CHECK_EQ(ftruncate(fd, 0), -1);
  struct uffd_handoff_part parts[] = {{memory, PAGE}, {memory, 0}};
  CHECK_ERR(uffd_handoff_send(paging.socket, parts, 1, NULL, &handoff), -EINVAL);
  CHECK_ERR(uffd_handoff_send(other.socket, parts + 1, 1, NULL, &handoff), -EPIPE);
  CHECK(strstr(uffd_errmsg(), "another mapping") != NULL);
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_OK(uffd_loop_create(NULL, &loop));
  CHECK_ERR(uffd_loop_add(loop, memory, zero, NULL, NULL), -EINVAL);
  CHECK_ERR(uffd_resolver_shared(memory, zero, &shared), -EINVAL);
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(zero);
  struct uffd_map_opts map = UFFD_MAP_OPTS_INIT;
  map.of = memory;
  CHECK_ERR(uffd_map(uffd_memory_length(memory), &map, &clone), -EINVAL);
  struct uffd_handoff_map_opts wrong = UFFD_HANDOFF_MAP_OPTS_INIT;
  wrong.flags = UFFD_MAP_PRIVATE;
  CHECK_ERR(uffd_handoff_map(paging.socket, &wrong, &clone), -EINVAL);
  CHECK_ERR(uffd_handoff_map(NULL, NULL, &clone), -EINVAL);
  CHECK_ERR(uffd_handoff_map("/nowhere/door", NULL, &clone), -ENOENT);
  uffd_memory_close(memory);
  CHECK_EQ(paging_end(&paging), 1);
  CHECK_EQ(paging_end(&other), 1);
  paging_tear_down(&paging);
  paging_tear_down(&other);
}

/* The number of the pages that the pager lends, as a client hears it that is none of ours. */
static long long ask_for_token(const struct paging *paging) {
  static const char asks[] = "[{\"uffd_notice\":\"share\",\"uffd_answer\":true}]";
  long long token = 0;
  int socket = connect_to(paging);
  CHECK_EQ(vmm_send(socket, asks, strlen(asks), NULL, 0), 0);
  CHECK_EQ(sscanf(read_line(socket), "{\"ok\":true,\"uffd_shared\":%lld,", &token), 1);
  close(socket);
  return token;
}

/*
 * A client that says of other memory that it is lent, its pages being huge ones, or its own: the first is refused, and
 * the second gets an error for each page, and no zeros. Others are served on.
 */
static void what_is_not_lent_is_not_taken_for_it(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  struct vmm vmm;
  char list[256], extra[64];
  uint64_t pages = 2 * MIB / PAGE;
  check_needs(UFFD_FEAT_POISON);
  paging_set_up(&paging, 2 * MIB);
  paging_start(&paging, &opts);
  CHECK_EQ(vmm_map(&vmm, PAGE, &pages, 1), 0);
  CHECK_EQ(vmm_register(&vmm, 0, UFFDIO_REGISTER_MODE_MISSING), 0);
  long long token = ask_for_token(&paging);
  snprintf(list, sizeof(list),
           "[{\"base_host_virt_addr\":%llu,\"size\":2097152,\"offset\":0,\"page_size\":2097152,\"uffd_answer\":true,"
           "\"uffd_shared\":%lld}]",
           (unsigned long long)round_down(vmm.regions[0].address, 2 * MIB), token);
  int socket = connect_to(&paging);
  CHECK_EQ(vmm_send(socket, list, strlen(list), &vmm.uffd, 1), 0);
  check_line_has(socket, "a mapping of shared pages, which have 4096 bytes, and not 2097152");
  close(socket);
  snprintf(extra, sizeof(extra), ",\"uffd_shared\":%lld", token);
  socket = connect_to(&paging);
  send_list(socket, &vmm, extra, vmm.uffd, -1);
  check_line_has(socket, "{\"ok\":true");
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  for (unsigned i = 0; i < 3; i++) { /* NOLINTNEXTLINE(performance-no-int-to-ptr): from the other side */
    CHECK_EQ(check_access((void *)(uintptr_t)(vmm.regions[0].address + i * PAGE), false, NULL), SIGBUS);
  }
  paging_client_ok(start((struct clone){.paging = &paging, .run = read_from_the_sixth}));
  CHECK_EQ(vmm_send(socket, "[]", 2, NULL, 0), 0);
  close(socket);
  vmm_unmap(&vmm);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static int no_resolver(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  (void)ctx, (void)client;
  *resolver = image;
  return 0;
}

static void there_must_be_one_image(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  uffd_pager *pager;
  paging_set_up(&paging, BYTES);
  opts.socket = paging.socket;
  opts.image = paging.image;
  opts.resolver = no_resolver;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  opts.image = NULL;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  opts.resolver = NULL;
  opts.image = "/images/{label}";
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  CHECK(strstr(uffd_errmsg(), "share") != NULL);
  paging_tear_down(&paging);
}

/* Beside those that share, others are served as ever. */
static void others_are_served_beside(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging};
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging.seen->last.stats.continued, 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Workers are killed again and again while two clients read all in their own order, and write. */
static void read_in_disorder(struct clone *clone) {
  for (uint64_t i = 0; i < WHOLE / PAGE; i++) {
    uint64_t page = (i * 67 + (uint64_t)clone->index * 31) % (WHOLE / PAGE);
    CHECK(is_image(clone, page * PAGE, PAGE));
    if (page % 5 == clone->index) clone->at[page * PAGE + 1] = 1;
    check_progress();
  }
}

static void workers_are_killed_meanwhile(void) {
  struct paging paging;
  struct uffd_pager_opts opts = share_opts();
  pid_t clones[2];
  opts.workers = 2;
  paging_set_up(&paging, BYTES);
  paging_start(&paging, &opts);
  for (unsigned i = 0; i < 2; i++) {
    clones[i] = start((struct clone){.paging = &paging, .index = i, .run = read_in_disorder});
  }
  for (unsigned i = 0; i < 6; i++) {
    (void)paging_kill_worker(&paging, i % 2);
    paging_turn(&paging);
  }
  paging_client_ok(clones[0]);
  paging_client_ok(clones[1]);
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static const struct check_test tests[] = {
    TEST(clients_have_one_copy),
    TEST(what_is_written_is_ones_own),
    TEST(a_worker_dies_while_it_writes_a_page),
    TEST(a_worker_dies_before_a_page_counts_as_filled),
    TEST(a_worker_dies_before_it_maps_a_page),
    TEST(workers_are_killed_meanwhile),
    TEST(holes_that_were_read_are_no_contents),
    TEST(dropped_pages_are_zeros),
    TEST(dropped_pages_are_zeros_when_all_is_complete),
    TEST(forked_children_share_too),
    TEST(a_pager_that_does_not_share_says_so),
    TEST(what_is_lent_is_the_pagers),
    TEST(what_is_not_lent_is_not_taken_for_it),
    TEST(there_must_be_one_image),
    TEST(others_are_served_beside),
};
CHECK_MAIN(tests)
