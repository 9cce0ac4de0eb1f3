/* A pager whose image is a chain of layers: opened once, each layer checked, damage and changes told, never zeros. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "imaging.h"
#include "paging.h"

#define MIB (UINT64_C(1) << 20)

/* A base, a raw file with a sidecar or a zstd file, and two increments; together they hold the image's bytes. */
struct chain {
  char base[96], middle[96], top[96], other[96];
  const char *paths[4];
};

static uffd_image *open_chain(const struct chain *chain, size_t count) {
  uffd_image *image = NULL;
  CHECK_OK(uffd_image_open(chain->paths, count, NULL, &image));
  return image;
}

static void finish(uffd_store *store) {
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
}

/* Pages whose number is `is` modulo 3 are right in the increment. */
static void put_third(const struct paging *paging, uffd_store *store, uint64_t is) {
  for (uint64_t at = is * PAGE; at < paging->length; at += 3 * PAGE) {
    CHECK_OK(uffd_store_put(store, at, UFFD_STORE_DATA, paging->bytes + at, PAGE));
  }
}

/* Page 3n is the base's, page 3n + 1 the middle's, page 3n + 2 the top's; below they are other bytes. */
static void make_chain(const struct paging *paging, struct chain *chain, bool raw) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  uffd_store *store = NULL;
  snprintf(chain->base, sizeof(chain->base), "%s/base", paging->directory);
  snprintf(chain->middle, sizeof(chain->middle), "%s/middle", paging->directory);
  snprintf(chain->top, sizeof(chain->top), "%s/top", paging->directory);
  snprintf(chain->other, sizeof(chain->other), "%s/other", paging->directory);
  const char *paths[] = {chain->base, chain->middle, chain->top, NULL};
  memcpy(chain->paths, paths, sizeof(paths));
  unsigned char *bytes = malloc(paging->length);
  memcpy(bytes, paging->bytes, paging->length);
  for (uint64_t at = 0; at < paging->length; at += PAGE) {
    if (at / PAGE % 3 != 0) memset(bytes + at, 0xEE, PAGE);
  }
  if (raw) {
    imaging_write(chain->base, bytes, paging->length);
    CHECK_OK(uffd_image_index(chain->base, NULL));
  } else {
    opts.length = paging->length;
    CHECK_OK(uffd_store_layer(chain->base, &opts, &store));
    CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_DATA, bytes, paging->length));
    finish(store);
    opts.length = 0;
  }
  free(bytes);
  for (uint64_t layer = 1; layer < 3; layer++) {
    opts.below = open_chain(chain, layer);
    CHECK_OK(uffd_store_layer(chain->paths[layer], &opts, &store));
    put_third(paging, store, layer);
    finish(store);
    uffd_image_close(opts.below);
  }
}

static struct uffd_pager_opts chain_opts(const struct chain *chain) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.images = chain->paths;
  opts.around = PAGE;
  return opts;
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

/* Reads a few pages of each layer, waits, reads the rest: every byte is the image's. */
static void read_twice(struct paging_job *job) {
  for (uint64_t page = 0; page < 9; page++) {
    CHECK_EQ(vmm_page(&job->vmm, &job->work, page * 16 * PAGE), 1);
  }
  raise_flag(job->paging, 0);
  await_flag(job->paging, 1);
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

/* Workers die, and are replaced; the layers' names belong to other files meanwhile, and are gone in the end. */
static void survive(bool raw, uint64_t around, uint32_t flags) {
  struct paging paging;
  struct chain chain;
  paging_set_up(&paging, 2 * MIB);
  make_chain(&paging, &chain, raw);
  struct uffd_pager_opts opts = chain_opts(&chain);
  opts.around = around;
  opts.flags = flags;
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = read_twice, .regions = 2};
  pid_t client = paging_client(&job);
  await_flag(&paging, 0);
  for (size_t i = 0; i < 3; i++) {
    imaging_write(chain.other, paging.bytes, MIB);
    CHECK_EQ(rename(chain.other, chain.paths[i]), 0);
  }
  kill_worker_and_wait(&paging);
  for (size_t i = 0; i < 3; i++) {
    CHECK_EQ(unlink(chain.paths[i]), 0);
  }
  paging_signal(&paging, SIGHUP);
  kill_worker_and_wait(&paging);
  raise_flag(&paging, 1);
  paging_client_ok(client);
  job.run = NULL; /* a new client has the same image */
  paging_client_ok(paging_client(&job));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void layers_outlive_workers_and_names(void) {
  survive(false, PAGE, 0);
}

static void a_raw_base_outlives_workers_and_names(void) {
  survive(true, UFFD_AROUND_AUTO, UFFD_PAGER_PREFETCH);
}

/* The top alone: the layers below it are found by their names. */
static void parents_are_found(void) {
  struct paging paging;
  struct chain chain;
  paging_set_up(&paging, MIB);
  make_chain(&paging, &chain, false);
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = chain.top;
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging};
  job.work.threads = 2;
  paging_client_ok(paging_client(&job));
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Touches a page of each layer, waits, and dies of one that cannot be had any more. */
static void touch_changed(struct paging_job *job) {
  for (uint64_t page = 0; page < 3; page++) {
    CHECK_EQ(vmm_page(&job->vmm, &job->work, page * PAGE), 1);
  }
  raise_flag(job->paging, 0);
  await_flag(job->paging, 1);
  CHECK_EQ(vmm_page(&job->vmm, &job->work, 2 * PAGE), 1); /* it has this one */
  (void)vmm_page(&job->vmm, &job->work, job->number * PAGE);
  _exit(3); /* it was given a page, whatever is in it */
}

/* The client dies of SIGBUS, and it is told why. */
static void dies_of_it(struct paging *paging, pid_t client) {
  int status;
  CHECK_EQ(waitpid(client, &status, 0), client);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
  paging_await(paging, UFFD_REPORT_ERROR, 1);
  paging_await(paging, UFFD_REPORT_GONE, 1);
  CHECK(paging->seen->last.stats.poisoned > 0);
  CHECK(strstr(paging->seen->texts[UFFD_REPORT_ERROR], "changed while it was served") != NULL ||
        strstr(paging->seen->texts[UFFD_REPORT_ERROR], "has shrunk") != NULL);
}

static void write_into(const char *path) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(pwrite(fd, "SECRET", 6, 8), 6);
  close(fd);
}

static void cut(const char *path) {
  CHECK_EQ(truncate(path, 30), 0);
}

/* Without a lease: somebody had the layer open for writing before. */
static void change(unsigned layer, void (*how)(const char *path), bool dies) {
  struct paging paging;
  struct chain chain;
  int status;
  check_needs(UFFD_FEAT_POISON);
  paging_set_up(&paging, MIB);
  make_chain(&paging, &chain, false);
  int fd = open(chain.paths[layer], O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  struct uffd_pager_opts opts = chain_opts(&chain);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = touch_changed, .number = 99 + layer};
  pid_t client = paging_client(&job);
  await_flag(&paging, 0);
  how(chain.paths[layer]);
  if (dies) kill_worker_and_wait(&paging); /* the new one must not take the layer as it is now */
  raise_flag(&paging, 1);
  if (dies) {
    CHECK_EQ(waitpid(client, &status, 0), client); /* no worker can serve it: it is killed */
    CHECK(WIFSIGNALED(status));
    paging_await(&paging, UFFD_REPORT_ERROR, 1);
  } else {
    dies_of_it(&paging, client);
  }
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

static void a_layer_that_is_written_is_not_given(void) {
  change(0, write_into, false);
  change(2, write_into, false);
}

static void a_layer_that_is_cut_is_not_given(void) {
  change(1, cut, false);
}

static void a_layer_that_changed_before_a_worker_died_is_not_given(void) {
  change(1, write_into, true);
  change(0, cut, true);
}

static bool may_lease(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  bool may = fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0;
  close(fd);
  return may;
}

/* Who opens a layer for writing waits while the clients' memory is filled. */
static void a_layers_writer_waits(void) {
  struct paging paging;
  struct chain chain;
  paging_set_up(&paging, 2 * MIB);
  make_chain(&paging, &chain, false);
  if (!may_lease(chain.middle)) SKIP("no leases on this file system, or for this user");
  struct uffd_pager_opts opts = chain_opts(&chain);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = read_twice};
  pid_t client = paging_client(&job);
  await_flag(&paging, 0);
  fflush(NULL);
  pid_t writer = fork();
  CHECK(writer >= 0);
  if (writer == 0) {
    write_into(chain.middle);
    _exit(0);
  }
  paging_client_ok(writer);
  raise_flag(&paging, 1);
  paging_client_ok(client);
  paging_await(&paging, UFFD_REPORT_COMPLETE, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], "opens the image") != NULL);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* A damaged frame is an error of its pages: the others are served. */
static void a_damaged_frame_is_poison(void) {
  struct paging paging;
  struct chain chain;
  unsigned char byte;
  check_needs(UFFD_FEAT_POISON);
  paging_set_up(&paging, MIB);
  make_chain(&paging, &chain, false);
  int fd = open(chain.top, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(pread(fd, &byte, 1, 200), 1); /* of the first frame, which has the top's first pages */
  byte ^= 0x40;
  CHECK_EQ(pwrite(fd, &byte, 1, 200), 1);
  close(fd);
  struct uffd_pager_opts opts = chain_opts(&chain);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = touch_changed, .number = 5};
  atomic_store(&paging.seen->flags[1], 1);
  int status;
  pid_t client = paging_client(&job);
  CHECK_EQ(waitpid(client, &status, 0), client);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
  paging_await(&paging, UFFD_REPORT_ERROR, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], "is damaged") != NULL);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], chain.top) != NULL);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Options: layers that do not fit, and that nobody can read. */
static void wrong_chains_are_refused(void) {
  struct paging paging;
  struct chain chain;
  uffd_pager *pager = NULL;
  paging_set_up(&paging, MIB);
  make_chain(&paging, &chain, false);
  struct uffd_pager_opts opts = chain_opts(&chain);
  opts.socket = paging.socket;
  const char *gap[] = {chain.base, chain.top, NULL}, *none[] = {NULL}, *lost[] = {chain.base, chain.other, NULL};
  opts.images = gap;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  CHECK_SAYS("is not the parent");
  opts.images = lost;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -ENOENT);
  CHECK_SAYS(chain.other);
  opts.images = none;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  CHECK_SAYS("images: the list of layers is empty");
  opts.images = chain.paths;
  opts.image = chain.top;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  CHECK_SAYS("not both");
  CHECK_EQ(unlink(chain.base), 0);
  opts.images = NULL;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -ENOENT);
  CHECK_SAYS("The parent of");
  paging_tear_down(&paging);
}

/* The identity is that of the contents, whatever holds them. */
static void identities_are_of_contents(void) {
  struct paging paging;
  struct chain chain;
  uint64_t length = 0, identity = 0, other = 0;
  paging_set_up(&paging, MIB + 100 * PAGE);
  make_chain(&paging, &chain, true);
  const char *raw[] = {paging.image, NULL}, *base[] = {chain.base, NULL}, *none[] = {NULL};
  CHECK_OK(uffd_layers_identity(raw, &length, &identity));
  CHECK_EQ(length, paging.length);
  CHECK_OK(uffd_layers_identity(chain.paths, &length, &other));
  CHECK_EQ(length, paging.length);
  CHECK_EQ(identity, other);
  CHECK_OK(uffd_layers_identity(base, &length, &other));
  CHECK(identity != other);
  CHECK_ERR(uffd_layers_identity(none, &length, &other), -EINVAL);
  CHECK_EQ(unlink(chain.middle), 0);
  CHECK_ERR(uffd_layers_identity(chain.paths, &length, &other), -ENOENT);
  CHECK_SAYS(chain.middle);
  paging_tear_down(&paging);
}

static const struct check_test tests[] = {
    TEST(layers_outlive_workers_and_names),
    TEST(a_raw_base_outlives_workers_and_names),
    TEST(parents_are_found),
    TEST(a_layer_that_is_written_is_not_given),
    TEST(a_layer_that_is_cut_is_not_given),
    TEST(a_layer_that_changed_before_a_worker_died_is_not_given),
    TEST(a_layers_writer_waits),
    TEST(a_damaged_frame_is_poison),
    TEST(wrong_chains_are_refused),
    TEST(identities_are_of_contents),
};

CHECK_MAIN(tests)
