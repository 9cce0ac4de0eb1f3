/* The library's own functions, and the handshake: sentences, options, allocator, log, features. */
#define _GNU_SOURCE
#include <fcntl.h>

#include "check.h"
#include "kernel/create.h"
#include "kernel/object.h"
#include "kernel/uapi.h"

static void version_is_the_header_s(void) {
  char expected[32];
  snprintf(expected, sizeof(expected), "%d.%d.%d", UFFD_VERSION_MAJOR, UFFD_VERSION_MINOR, UFFD_VERSION_PATCH);
  CHECK(strcmp(uffd_version(), expected) == 0);
}

static void other_threads_sentence(void *ctx) {
  (void)ctx;
  CHECK(strstr(uffd_errmsg(), "main's") == NULL);
  CHECK_EQ(uffd_set_errmsg(EIO, "the thread's"), -EIO);
}

static void sentences_belong_to_threads(void) {
  CHECK(uffd_errmsg() != NULL);
  CHECK_EQ(uffd_set_errmsg(EINVAL, "main's %d", 7), -EINVAL);
  struct check_thread thread;
  check_thread_start(&thread, other_threads_sentence, NULL);
  check_thread_join(&thread);
  CHECK(strcmp(uffd_errmsg(), "main's 7") == 0);
}

static void a_sentence_may_quote_the_last_one(void) {
  uffd_set_errmsg(EIO, "inner");
  uffd_set_errmsg(EIO, "outer (%s)", uffd_errmsg());
  CHECK(strcmp(uffd_errmsg(), "outer (inner)") == 0);
}

static void a_long_sentence_is_cut(void) {
  char text[2000];
  memset(text, 'x', sizeof(text) - 1);
  text[sizeof(text) - 1] = '\0';
  uffd_set_errmsg(EIO, "%s", text);
  CHECK(strlen(uffd_errmsg()) >= 511);
  CHECK(strlen(uffd_errmsg()) < sizeof(text) - 1);
}

static void success_leaves_the_sentence(void) {
  uffd_set_errmsg(EIO, "kept");
  uffd_object *object = check_open(0);
  uffd_close(object);
  CHECK(strcmp(uffd_errmsg(), "kept") == 0);
}

static void options_of_other_ages(void) {
  struct {
    struct uffd_open_opts known;
    uint64_t newer;
  } opts = {UFFD_OPEN_OPTS_INIT, 0};
  uffd_object *object = NULL;
  check_needs(0);
  opts.known.size = sizeof(opts); /* a newer program, nothing new set */
  CHECK_OK(uffd_open(&opts.known, &object));
  uffd_close(object);
  opts.newer = 1;
  CHECK_ERR(uffd_open(&opts.known, &object), -EINVAL);
  CHECK_SAYS("uffd_open_opts");
  opts.known.size = offsetof(struct uffd_open_opts, flags); /* an older program: what follows is not looked at */
  opts.known.flags = 0x4000;
  CHECK_OK(uffd_open(&opts.known, &object));
  uffd_close(object);
  opts.known.size = 0;
  CHECK_ERR(uffd_open(&opts.known, &object), -EINVAL);
  CHECK_SAYS("size");
  opts.known.size = (size_t)1 << 40;
  CHECK_ERR(uffd_open(&opts.known, &object), -EINVAL);
  CHECK_OK(uffd_open(NULL, &object));
  uffd_close(object);
}

/* The allocator */

static struct counts {
  size_t allocated, freed, bytes;
  bool refuse;
} counts;

static void *counting_alloc(void *ctx, size_t length) {
  struct counts *counted = ctx;
  if (counted->refuse) return NULL;
  counted->allocated++;
  counted->bytes += length;
  void *pointer = malloc(length);
  if (pointer != NULL) memset(pointer, 0x5a, length); /* the library must not rely on zeros */
  return pointer;
}

static void counting_free(void *ctx, void *pointer, size_t length) {
  struct counts *counted = ctx;
  if (pointer == NULL) return;
  counted->freed++;
  counted->bytes -= length;
  free(pointer);
}

static void the_allocator_is_used_and_balanced(void) {
  check_needs(0);
  struct uffd_allocator allocator = {sizeof(allocator), counting_alloc, counting_free, &counts};
  CHECK_OK(uffd_set_allocator(&allocator));
  uffd_object *object = NULL;
  CHECK_OK(uffd_open(NULL, &object));
  CHECK(counts.allocated > 0);
  CHECK_ERR(uffd_set_allocator(NULL), -EBUSY);
  CHECK_ERR(uffd_set_allocator(&allocator), -EBUSY);
  uffd_close(object);
  CHECK_EQ(counts.allocated, counts.freed);
  CHECK_EQ(counts.bytes, 0);
  CHECK_OK(uffd_set_allocator(NULL));
  size_t before = counts.allocated;
  CHECK_OK(uffd_open(NULL, &object));
  CHECK_EQ(counts.allocated, before);
  uffd_close(object);
}

static void no_memory_is_enomem(void) {
  struct uffd_allocator allocator = {sizeof(allocator), counting_alloc, counting_free, &counts};
  CHECK_OK(uffd_set_allocator(&allocator));
  counts.refuse = true;
  uffd_object *object = NULL;
  CHECK_ERR(uffd_open(NULL, &object), -ENOMEM);
  CHECK(object == NULL);
}

static void half_an_allocator_is_refused(void) {
  struct uffd_allocator allocator = {sizeof(allocator), counting_alloc, NULL, NULL};
  CHECK_ERR(uffd_set_allocator(&allocator), -EINVAL);
  allocator = (struct uffd_allocator){sizeof(allocator), NULL, counting_free, NULL};
  CHECK_ERR(uffd_set_allocator(&allocator), -EINVAL);
}

/* The log */

static void keep_sentence(void *ctx, int level, const char *sentence) {
  snprintf(ctx, 64, "%d:%s", level, sentence);
}

static void the_log_goes_to_the_hook(void) {
  char got[64] = "";
  uffd_log(UFFD_LOG_ERROR, "into silence");
  uffd_set_log(keep_sentence, got);
  uffd_log(UFFD_LOG_WARNING, "page %d", 3);
  CHECK(strcmp(got, "1:page 3") == 0);
  uffd_set_log(NULL, NULL);
  uffd_log(UFFD_LOG_WARNING, "again");
  CHECK(strcmp(got, "1:page 3") == 0);
}

/* The handshake */

/* uffd-unit-tests, "UFFDIO_API": a wrong version and an impossible feature fail, 0 works, a second time fails. */
static void handshake_by(uint32_t route) {
  int fd = uffd_create_fd(route, O_CLOEXEC | O_NONBLOCK | RAW_USER_MODE_ONLY);
  if (fd < 0) SKIP("no userfaultfd by route %u: %s", route, strerror(-fd));
  struct uffd_raw_api api = {.api = 0xAB};
  CHECK(ioctl(fd, RAW_UFFDIO_API, &api) < 0 && errno == EINVAL);
  uint64_t offered = 0;
  CHECK_EQ(uffd_handshake(fd, UINT64_C(1) << 63, &offered), -EINVAL);
  CHECK_EQ(uffd_handshake(fd, 0, &offered), 0);
  CHECK(offered != 0);
  CHECK_EQ(offered, uffd_kernel_features());
  CHECK_EQ(uffd_handshake(fd, 0, &offered), -EINVAL);
  close(fd);
}

static void handshake_by_syscall(void) {
  handshake_by(UFFD_ROUTE_SYSCALL);
}
static void handshake_by_device(void) {
  handshake_by(UFFD_ROUTE_DEVICE);
}

static void enabled_is_not_available(void) {
  uffd_object *object = check_open(UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_THREAD_ID);
  CHECK_EQ(uffd_features(object), UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_THREAD_ID);
  CHECK((uffd_available(object) & UFFD_FEAT_EVENT_UNMAP) != 0);
  CHECK((uffd_available(object) & uffd_features(object)) == uffd_features(object));
  uffd_close(object);
}

static void features_that_lack_are_named(void) {
  check_needs(0);
  struct uffd_probe probe = {.size = sizeof(probe)};
  CHECK_OK(uffd_probe(&probe));
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  uffd_object *object = NULL;
  opts.features = UFFD_FEAT_EVENT_REMOVE | UINT64_C(1) << 40;
  CHECK_ERR(uffd_open(&opts, &object), -EINVAL);
  CHECK_SAYS("bit 40");
  for (unsigned bit = 0; bit < 19; bit++) {
    if ((probe.missing >> bit & 1) == 0) continue;
    opts.features = UINT64_C(1) << bit;
    CHECK_ERR(uffd_open(&opts, &object), -EINVAL);
    CHECK_SAYS(uffd_feature_name(bit));
  }
  CHECK(object == NULL);
}

static void optional_features_are_dropped(void) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  uffd_object *object = NULL;
  check_needs(UFFD_FEAT_EVENT_UNMAP);
  opts.optional = UFFD_FEAT_EVENT_UNMAP | UINT64_C(1) << 40;
  CHECK_OK(uffd_open(&opts, &object));
  CHECK_EQ(uffd_features(object), UFFD_FEAT_EVENT_UNMAP);
  uffd_close(object);
}

static void wp_async_brings_wp_unpopulated(void) {
  uffd_object *object = check_open(UFFD_FEAT_WP_ASYNC);
  CHECK_EQ(uffd_features(object), UFFD_FEAT_WP_ASYNC | UFFD_FEAT_WP_UNPOPULATED);
  uffd_close(object);
}

static void every_available_feature_can_be_enabled(void) {
  check_needs(0);
  uint64_t offered = uffd_kernel_features();
  for (unsigned bit = 0; bit < 64; bit++) {
    if ((offered >> bit & 1) == 0 || UINT64_C(1) << bit == UFFD_FEAT_EVENT_FORK) continue;
    uffd_object *object = check_open(UINT64_C(1) << bit);
    CHECK((uffd_features(object) >> bit & 1) != 0);
    uffd_close(object);
  }
}

static void null_handles(void) {
  uffd_close(NULL);
  struct uffd_event event;
  CHECK_ERR(uffd_read(NULL, &event, 1, 0), -EBADF);
  CHECK_ERR(uffd_wake(NULL, 4096, 4096), -EBADF);
  CHECK_ERR(uffd_register(NULL, 4096, 4096, UFFD_MODE_MISSING, NULL), -EBADF);
  CHECK_ERR(uffd_fd(NULL), -EBADF);
  CHECK_ERR(uffd_route(NULL), -EBADF);
  CHECK_EQ(uffd_features(NULL), 0);
}

static const struct check_test tests[] = {
    TEST(version_is_the_header_s),
    TEST(sentences_belong_to_threads),
    TEST(a_sentence_may_quote_the_last_one),
    TEST(a_long_sentence_is_cut),
    TEST(success_leaves_the_sentence),
    TEST(options_of_other_ages),
    TEST(the_allocator_is_used_and_balanced),
    TEST(no_memory_is_enomem),
    TEST(half_an_allocator_is_refused),
    TEST(the_log_goes_to_the_hook),
    TEST(handshake_by_syscall),
    TEST(handshake_by_device),
    TEST(enabled_is_not_available),
    TEST(features_that_lack_are_named),
    TEST(optional_features_are_dropped),
    TEST(wp_async_brings_wp_unpopulated),
    TEST(every_available_feature_can_be_enabled),
    TEST(null_handles),
};
CHECK_MAIN(tests)
