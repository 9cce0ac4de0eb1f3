/*
 * Writable layers: what was put is served at once, and found again by whoever opens the layer next, whenever the writer
 * was killed, whatever could not be written; after a crash of the machine, as far as it was flushed. Never zeros
 * instead.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "image/digest.h"
#include "imaging.h"
#include "resolving.h"

#define COUNT  UINT64_C(64)
#define LENGTH (COUNT * PAGE + 100)
#define WHOLE  ((COUNT + 1) * PAGE)
#define HEAD   4096 /* bytes of a page map's head */

static const char *base_path(void) {
  return imaging_path("base");
}

static const char *layer_path(void) {
  return imaging_path("layer");
}

static const char *map_path(void) {
  return imaging_path("layer.umap");
}

/* An image with an identity; page i is the word first + i, page 9 is zero. */
static uffd_image *make_base(uint32_t first, unsigned char **pages) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  uffd_store *store = NULL;
  unsigned char *made = imaging_pages(first, COUNT + 1);
  memset(made + 9 * PAGE, 0, PAGE);
  memset(made + LENGTH, 0, WHOLE - LENGTH);
  opts.length = LENGTH;
  CHECK_OK(uffd_store_layer(base_path(), &opts, &store));
  CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_DATA, made, LENGTH));
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
  *pages = made;
  return imaging_open(base_path(), NULL, NULL);
}

static int try_open(uffd_image *below, uint64_t length, uffd_store **store) {
  struct uffd_store_writable_opts opts = UFFD_STORE_WRITABLE_OPTS_INIT;
  opts.below = below;
  opts.length = length;
  return uffd_store_writable(layer_path(), &opts, store);
}

static uffd_store *open_layer(uffd_image *below) {
  uffd_store *store = NULL;
  CHECK_OK(try_open(below, below == NULL ? LENGTH : 0, &store));
  return store;
}

static void remove_layer(void) {
  (void)unlink(layer_path());
  (void)unlink(map_path());
}

static void expect(uffd_store *store, const unsigned char *expected) {
  const uint64_t around[] = {PAGE, 0, 65536};
  for (unsigned i = 0; i < 3; i++) {
    uffd_resolver *resolver = NULL;
    CHECK_OK(uffd_store_resolver(store, &resolver));
    view_expect(resolver, &(struct view_opts){.length = WHOLE, .around = around[i]}, expected);
    uffd_resolver_close(resolver);
  }
}

/* Writes it into the store, and into the model. */
static void put(uffd_store *store, unsigned char *model, const unsigned char *below, uint64_t page, uint64_t count,
                uint32_t kind, uint32_t word) {
  unsigned char *data = imaging_pages(word, count);
  uint64_t length = (page + count) * PAGE > LENGTH ? LENGTH - page * PAGE : count * PAGE;
  CHECK_OK(uffd_store_put(store, page * PAGE, kind, kind == UFFD_STORE_DATA ? data : NULL, length));
  unsigned char *at = model + page * PAGE;
  if (kind == UFFD_STORE_DATA) memcpy(at, data, length);
  if (kind == UFFD_STORE_ZERO) memset(at, 0, length);
  if (kind == UFFD_STORE_BELOW) memcpy(at, below + page * PAGE, length);
  free(data);
}

/* Random puts, some flushed; seen at once by a resolver, and by who opens the layer again. */
static void random_puts(bool has_below) {
  struct view_random random = view_seed();
  unsigned char *below = NULL, *model;
  uffd_image *image = make_base(1, &below);
  if (!has_below) memset(below, 0, WHOLE);
  model = malloc(WHOLE);
  memcpy(model, below, WHOLE);
  remove_layer();
  for (unsigned round = 0; round < 6; round++) {
    uffd_store *store = open_layer(has_below ? image : NULL);
    expect(store, model);
    for (unsigned i = 0; i < 12; i++) {
      uint64_t page = view_next(&random, COUNT + 1), count = 1 + view_next(&random, COUNT + 1 - page);
      uint32_t kind = (uint32_t)view_next(&random, has_below ? 3 : 2);
      if (count > 9) count = 9;
      put(store, model, below, page, count, kind, 1000 * (round + 1) + i * 20);
      if (view_next(&random, 4) == 0) CHECK_OK(uffd_store_flush(store));
    }
    expect(store, model);
    if (round % 2 == 0) CHECK_OK(uffd_store_finish(store));
    uffd_store_close(store);
  }
  uffd_image_close(image);
  free(below);
  free(model);
}

static void what_is_put_is_served_and_found_again(void) {
  random_puts(true);
  random_puts(false);
}

/* The layer's resolver goes on when the store is closed, and pages that are larger than the layer's may be mixed. */
static void resolvers_outlive_the_store(void) {
  unsigned char *pages;
  uffd_image *image = make_base(1, &pages);
  remove_layer();
  uffd_store *store = open_layer(image);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_store_resolver(store, &resolver));
  put(store, pages, pages, 3, 1, UFFD_STORE_DATA, 77);
  uffd_store_close(store);
  uffd_image_close(image);
  view_expect(resolver, &(struct view_opts){.length = WHOLE}, pages);
  uffd_resolver_close(resolver);
  uffd_store *file = NULL;
  CHECK_OK(uffd_store_file(imaging_path("file"), PAGE, &file));
  CHECK_ERR(uffd_store_resolver(file, &resolver), -EINVAL);
  CHECK_SAYS("a writable one is");
  CHECK_ERR(uffd_store_seal(file, file), -EINVAL);
  uffd_store_close(file);
  free(pages);
}

/* Killed */

static struct {
  _Atomic unsigned passed; /* barriers */
  _Atomic unsigned fatal;  /* at this one the writer dies */
  _Atomic unsigned done;   /* puts that have returned */
} * writer;

#define PUTS 18u

static void die_at_point(const char *name, void *ctx) {
  (void)name, (void)ctx;
  if (atomic_fetch_add(&writer->passed, 1) + 1 == atomic_load(&writer->fatal)) kill(getpid(), SIGKILL);
}

struct planned {
  uint64_t page, count;
  uint32_t kind, word;
};

static struct planned plan(unsigned i) {
  static const uint32_t kinds[] = {UFFD_STORE_DATA, UFFD_STORE_DATA, UFFD_STORE_ZERO, UFFD_STORE_DATA,
                                   UFFD_STORE_BELOW};
  return (struct planned){i * 5 % 16, 1 + i % 3, kinds[i % 5], 5000 + i * 10};
}

static void write_plan(uffd_image *image, unsigned char *model, const unsigned char *below) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  atomic_store(&uffd_barrier_hook, die_at_point);
  uffd_image_close(image); /* of the parent's process */
  image = imaging_open(base_path(), NULL, NULL);
  uffd_store *store = open_layer(image);
  for (unsigned i = 0; i < PUTS; i++) {
    struct planned planned = plan(i);
    put(store, model, below, planned.page, planned.count, planned.kind, planned.word);
    atomic_store(&writer->done, i + 1);
    if (i % 4 == 3) CHECK_OK(uffd_store_flush(store));
  }
  CHECK_OK(uffd_store_finish(store));
  _exit(0);
}

/* What page holds after so many puts. */
static void state_after(unsigned puts, uint64_t page, const unsigned char *below, unsigned char *bytes) {
  memcpy(bytes, below + page * PAGE, PAGE);
  for (unsigned i = 0; i < puts; i++) {
    struct planned planned = plan(i);
    if (page < planned.page || page >= planned.page + planned.count) continue;
    unsigned char *data = imaging_pages(planned.word, planned.count);
    if (planned.kind == UFFD_STORE_DATA) memcpy(bytes, data + (page - planned.page) * PAGE, PAGE);
    if (planned.kind == UFFD_STORE_ZERO) memset(bytes, 0, PAGE);
    if (planned.kind == UFFD_STORE_BELOW) memcpy(bytes, below + page * PAGE, PAGE);
    free(data);
  }
}

static void check_after(unsigned puts, uffd_image *image, const unsigned char *below) {
  uffd_store *store = open_layer(image);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_store_resolver(store, &resolver));
  struct view view = view_open(resolver, &(struct view_opts){.length = WHOLE, .around = PAGE});
  for (uint64_t page = 0; page < COUNT; page++) {
    unsigned char before[PAGE], after[PAGE];
    state_after(puts, page, below, before);
    state_after(puts < PUTS ? puts + 1 : puts, page, below, after);
    CHECK_EQ(check_access(view.at + page * PAGE, false, NULL), 0);
    const unsigned char *at = view.at + page * PAGE;
    CHECK(memcmp(at, before, PAGE) == 0 || memcmp(at, after, PAGE) == 0);
  }
  view_close(&view);
  uffd_resolver_close(resolver);
  uffd_store_close(store);
}

static void killed_at_each_point(void) {
  unsigned char *below;
  uffd_image *image = make_base(1, &below);
  writer = mmap(NULL, sizeof(*writer), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(writer != MAP_FAILED);
  int status;
  unsigned fatal = 0;
  do {
    atomic_store(&writer->passed, 0);
    atomic_store(&writer->done, 0);
    atomic_store(&writer->fatal, ++fatal);
    remove_layer();
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      unsigned char *model = malloc(WHOLE);
      memcpy(model, below, WHOLE);
      write_plan(image, model, below);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    check_after(atomic_load(&writer->done), image, below);
    check_progress();
  } while (WIFSIGNALED(status));
  CHECK(fatal > 2 * PUTS); /* it died at each put, and in between */
  CHECK_EQ(atomic_load(&writer->done), PUTS);
  munmap(writer, sizeof(*writer));
  uffd_image_close(image);
  free(below);
}

/* A crash of the machine */

/* The map was written on another boot. */
static void reboot(void) {
  unsigned char head[HEAD];
  int fd = open(map_path(), O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(pread(fd, head, sizeof(head), 0), sizeof(head));
  head[64] ^= 1;
  uffd_digest_xxh3(head, 80, head + 80);
  CHECK_EQ(pwrite(fd, head, sizeof(head), 0), sizeof(head));
  close(fd);
}

/* What was put and not flushed may have lost its data: the map that counts does not tell of it. */
static void after_a_crash_of_the_machine_what_was_flushed_is_there(void) {
  unsigned char *pages, *model;
  uffd_image *image = make_base(1, &pages);
  remove_layer();
  model = malloc(WHOLE);
  memcpy(model, pages, WHOLE);
  uffd_store *store = open_layer(image);
  put(store, model, pages, 2, 3, UFFD_STORE_DATA, 500);
  put(store, model, pages, 20, 2, UFFD_STORE_ZERO, 0);
  CHECK_OK(uffd_store_flush(store));
  unsigned char *flushed = malloc(WHOLE);
  memcpy(flushed, model, WHOLE);
  put(store, model, pages, 30, 4, UFFD_STORE_DATA, 600);
  put(store, model, pages, 3, 1, UFFD_STORE_ZERO, 0);
  uffd_store_close(store);
  int fd = open(layer_path(), O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 30 * PAGE, 4 * PAGE) != 0) SKIP("no holes here");
  close(fd);
  reboot();
  for (unsigned i = 0; i < 2; i++) { /* also when it is opened once more */
    store = open_layer(image);
    expect(store, flushed);
    uffd_store_close(store);
  }
  /* A successor that had flushed nothing itself makes durable what it has found. */
  store = open_layer(image);
  put(store, flushed, pages, 40, 1, UFFD_STORE_DATA, 700);
  uffd_store_close(store);
  store = open_layer(image);
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
  reboot();
  store = open_layer(image);
  expect(store, flushed);
  uffd_store_close(store);
  uffd_image_close(image);
  free(pages);
  free(model);
  free(flushed);
}

/* A full disk */

/* A limit of what may be written stands for it: a put that fails changes nothing that was put, and may be tried again.
 */
static void no_room(void) {
  unsigned char *below, *model;
  uffd_image *image = make_base(1, &below);
  struct rlimit limit;
  signal(SIGXFSZ, SIG_IGN);
  CHECK_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  rlim_t most = limit.rlim_max;
  model = malloc(WHOLE);
  for (rlim_t room = 0; room < 40 * PAGE; room += 7001) {
    uffd_store *store = NULL;
    unsigned char *data = imaging_pages(900, COUNT);
    unsigned failed = 0;
    remove_layer();
    memcpy(model, below, WHOLE);
    limit = (struct rlimit){room, most};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int made = try_open(image, 0, &store); /* the map does not fit, or the file is longer than it may be */
    limit = (struct rlimit){most, most};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    if (made < 0) CHECK_OK(try_open(image, 0, &store)); /* what is left is no hindrance */
    limit = (struct rlimit){room, most};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    bool put_now[COUNT];
    for (uint64_t page = 0; page < COUNT; page++) {
      int result = uffd_store_put(store, page * PAGE, UFFD_STORE_DATA, data + page * PAGE, PAGE);
      put_now[page] = result == 0;
      failed += result < 0;
      if (result == 0) memcpy(model + page * PAGE, data + page * PAGE, PAGE);
      if (result < 0) CHECK_SAYS("Cannot write");
    }
    CHECK(failed > 0);
    limit = (struct rlimit){most, most};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    uffd_store_close(store);
    store = open_layer(image);
    expect(store, model);
    for (uint64_t page = 0; page < COUNT; page++) {
      if (!put_now[page]) CHECK_OK(uffd_store_put(store, page * PAGE, UFFD_STORE_DATA, data + page * PAGE, PAGE));
    }
    CHECK_OK(uffd_store_finish(store));
    memcpy(model, data, COUNT * PAGE);
    uffd_resolver *resolver = NULL;
    CHECK_OK(uffd_store_resolver(store, &resolver));
    view_expect(resolver, &(struct view_opts){.length = WHOLE}, model);
    uffd_resolver_close(resolver);
    uffd_store_close(store);
    free(data);
    check_progress();
  }
  uffd_image_close(image);
  free(below);
  free(model);
}

/* What does not fit */

static void refused(uffd_image *below, uint64_t length, int error, const char *words) {
  uffd_store *store = NULL;
  CHECK_ERR(try_open(below, length, &store), error);
  CHECK(store == NULL);
  CHECK_SAYS(words);
}

static void flip(const char *path, off_t at) {
  unsigned char byte;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(pread(fd, &byte, 1, at), 1);
  byte ^= 0x20;
  CHECK_EQ(pwrite(fd, &byte, 1, at), 1);
  close(fd);
}

static void what_does_not_fit_is_refused(void) {
  unsigned char *pages, *others;
  uffd_image *image = make_base(1, &pages), *other = make_base(2, &others);
  remove_layer();
  uffd_store *store = open_layer(image);
  put(store, pages, pages, 5, 1, UFFD_STORE_DATA, 40);
  refused(image, 0, -EBUSY, "has one writer");
  CHECK_OK(uffd_store_finish(store));
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_ZERO, NULL, PAGE), -EINVAL);
  uffd_store_close(store);
  refused(other, 0, -EINVAL, "written on another image");
  refused(NULL, LENGTH, -EINVAL, "written on another image");
  refused(image, LENGTH + PAGE, -EINVAL, "is of an image of");
  flip(map_path(), 17);
  refused(image, 0, -EINVAL, "checksum");
  flip(map_path(), 17);
  flip(map_path(), 3);
  refused(image, 0, -EINVAL, "is no page map");
  flip(map_path(), 3);
  flip(map_path(), 8);
  refused(image, 0, -EINVAL, "version");
  flip(map_path(), 8);
  flip(map_path(), HEAD + 7);
  refused(image, 0, -EINVAL, "page 7 is of kind 32");
  flip(map_path(), HEAD + 7);
  store = open_layer(image);
  expect(store, pages);
  uffd_store_close(store);
  CHECK_EQ(truncate(layer_path(), 9 * PAGE), 0);
  refused(image, 0, -EINVAL, "its page map");
  CHECK_EQ(unlink(layer_path()), 0);
  refused(image, 0, -ENOENT, "is gone");
  CHECK_EQ(truncate(map_path(), HEAD + 9), 0);
  refused(image, 0, -EINVAL, "is cut off");
  CHECK_EQ(truncate(map_path(), 100), 0);
  refused(image, 0, -EINVAL, "too short");
  CHECK_EQ(unlink(map_path()), 0);
  imaging_write(layer_path(), pages, PAGE); /* somebody's file */
  refused(image, 0, -EEXIST, "is no writable layer");
  remove_layer();
  refused(NULL, 0, -EINVAL, "length is 0");
  imaging_write(base_path(), pages, PAGE); /* without an index */
  uffd_image *plain = imaging_open(base_path(), NULL, NULL);
  refused(plain, 0, -EINVAL, "no index");
  uffd_image_close(plain);
  uffd_image_close(image);
  uffd_image_close(other);
  free(pages);
  free(others);
}

static void wrong_puts_are_refused(void) {
  unsigned char *pages = imaging_pages(1, 2);
  remove_layer();
  uffd_store *store = open_layer(NULL);
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_BELOW, NULL, PAGE), -EINVAL);
  CHECK_ERR(uffd_store_put(store, 100, UFFD_STORE_DATA, pages, PAGE), -EINVAL);
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_DATA, pages, 100), -EINVAL);
  CHECK_ERR(uffd_store_put(store, LENGTH + PAGE, UFFD_STORE_ZERO, NULL, PAGE), -EINVAL);
  CHECK_OK(uffd_store_put(store, COUNT * PAGE, UFFD_STORE_DATA, pages, 100));
  uffd_store_close(store);
  free(pages);
}

/* Sealing */

static void a_layer_is_sealed_into_an_increment(void) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  unsigned char *pages, *model = malloc(WHOLE);
  uffd_image *image = make_base(1, &pages);
  uffd_store *sealed = NULL;
  memcpy(model, pages, WHOLE);
  remove_layer();
  uffd_store *store = open_layer(image);
  put(store, model, pages, 0, 5, UFFD_STORE_DATA, 800);
  put(store, model, pages, 3, 4, UFFD_STORE_ZERO, 0);
  put(store, model, pages, 6, 1, UFFD_STORE_BELOW, 0);
  put(store, model, pages, COUNT, 1, UFFD_STORE_DATA, 900);
  opts.below = image;
  CHECK_OK(uffd_store_layer(imaging_path("sealed"), &opts, &sealed));
  CHECK_OK(uffd_store_seal(store, sealed));
  CHECK_OK(uffd_store_finish(sealed));
  uffd_store_close(sealed);
  uffd_store_close(store);
  uffd_image *chain = imaging_open(base_path(), imaging_path("sealed"), NULL);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(chain, 1, &layer));
  CHECK_EQ(layer.bytes[UFFD_IMAGE_DATA], 3 * PAGE + 100);
  CHECK_EQ(layer.bytes[UFFD_IMAGE_ZERO], 3 * PAGE);
  CHECK_EQ(uffd_image_verify(chain, NULL), 0);
  imaging_expect(chain, model, LENGTH);
  uffd_image_close(chain);
  uffd_image_close(image);
  free(pages);
  free(model);
}

/* Threads put their own pages, another one flushes, a loop reads meanwhile what was put before. */

struct putting {
  uffd_store *store;
  uint64_t from;
  _Atomic bool *over;
};

static void *put_pages(void *argument) {
  const struct putting *putting = argument;
  for (uint32_t round = 0; round < 40; round++) {
    unsigned char *data = imaging_pages(10000 + round * 100 + (uint32_t)putting->from, 8);
    CHECK_OK(uffd_store_put(putting->store, putting->from * PAGE, UFFD_STORE_DATA, data, 8 * PAGE));
    free(data);
  }
  return NULL;
}

static void *flush_often(void *argument) {
  const struct putting *putting = argument;
  while (!atomic_load(putting->over)) {
    CHECK_OK(uffd_store_flush(putting->store));
  }
  return NULL;
}

static void several_threads_put_and_one_flushes(void) {
  unsigned char *pages;
  uffd_image *image = make_base(1, &pages);
  _Atomic bool over = false;
  pthread_t threads[5];
  struct putting putting[5];
  remove_layer();
  uffd_store *store = open_layer(image);
  for (unsigned i = 0; i < 5; i++) {
    putting[i] = (struct putting){store, i * 8, &over};
    CHECK_EQ(pthread_create(&threads[i], NULL, i == 4 ? flush_often : put_pages, &putting[i]), 0);
  }
  for (unsigned i = 0; i < 4; i++) {
    CHECK_EQ(pthread_join(threads[i], NULL), 0);
    unsigned char *data = imaging_pages(10000 + 39 * 100 + i * 8, 8);
    memcpy(pages + i * 8 * PAGE, data, 8 * PAGE);
    free(data);
  }
  atomic_store(&over, true);
  CHECK_EQ(pthread_join(threads[4], NULL), 0);
  expect(store, pages);
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
  reboot();
  store = open_layer(image);
  expect(store, pages);
  uffd_store_close(store);
  uffd_image_close(image);
  free(pages);
}

static const struct check_test tests[] = {
    TEST(what_is_put_is_served_and_found_again),
    TEST(resolvers_outlive_the_store),
    TEST(killed_at_each_point),
    TEST(after_a_crash_of_the_machine_what_was_flushed_is_there),
    TEST(no_room),
    TEST(what_does_not_fit_is_refused),
    TEST(wrong_puts_are_refused),
    TEST(a_layer_is_sealed_into_an_increment),
    TEST(several_threads_put_and_one_flushes),
};

CHECK_MAIN(tests)
