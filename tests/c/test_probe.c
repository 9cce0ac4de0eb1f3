/* Probing, and the advice that comes of it. */
#include "check.h"
#include "kernel/names.h"

static void it_agrees_with_opening(void) {
  struct uffd_probe probe = {.size = sizeof(probe)};
  CHECK_OK(uffd_probe(&probe));
  CHECK(strchr(probe.kernel, '.') != NULL);
  CHECK_EQ(probe.page_size, check_page());
  uffd_object *object = NULL;
  int rc = uffd_open(NULL, &object);
  CHECK_EQ(probe.usable, rc == 0);
  if (rc < 0) return;
  CHECK_EQ(probe.route, uffd_route(object));
  CHECK_EQ(probe.user_mode_only, uffd_user_mode_only(object));
  CHECK_EQ(probe.features, uffd_available(object));
  CHECK_EQ(probe.missing, uffd_named_features() & ~probe.features);
  uffd_close(object);
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.features = UFFD_FEAT_EVENT_FORK;
  rc = uffd_open(&opts, &object);
  CHECK_EQ(probe.event_fork, rc == 0);
  uffd_close(rc == 0 ? object : NULL);
}

static void it_loses_no_descriptor(void) {
  int before = dup(0);
  close(before);
  struct uffd_probe probe = {.size = sizeof(probe)};
  CHECK_OK(uffd_probe(&probe));
  CHECK_EQ(dup(0), before);
}

static void sizes(void) {
  struct uffd_probe probe = {.size = 0};
  CHECK_ERR(uffd_probe(&probe), -EINVAL);
  CHECK_ERR(uffd_probe(NULL), -EINVAL);
  /* An older program's struct: nothing beyond its size is written. */
  memset(&probe, 0x77, sizeof(probe));
  probe.size = offsetof(struct uffd_probe, route);
  CHECK_OK(uffd_probe(&probe));
  CHECK_EQ(probe.route, 0x77777777);
  CHECK_EQ(probe.size, offsetof(struct uffd_probe, route));
  /* A newer program's: what this library does not know is zero. */
  struct {
    struct uffd_probe known;
    uint64_t newer;
  } larger = {{.size = sizeof(larger)}, 0x77};
  CHECK_OK(uffd_probe(&larger.known));
  CHECK_EQ(larger.newer, 0);
}

static unsigned count_advice(const struct uffd_probe *probe, const char *words) {
  char text[1024];
  unsigned found = 0, index = 0;
  while (CHECK_OK(uffd_probe_advice(probe, index, text, sizeof(text))) > 0) {
    found += strstr(text, words) != NULL;
    CHECK(strlen(text) > 20);
    CHECK(++index < 20);
  }
  CHECK(text[0] == '\0');
  return found;
}

static struct uffd_probe ideal(void) {
  return (struct uffd_probe){.size = sizeof(struct uffd_probe),
                             .kernel = "6.18",
                             .usable = 1,
                             .route = UFFD_ROUTE_SYSCALL,
                             .event_fork = 1,
                             .features = uffd_named_features(),
                             .hugepage_size = 2 << 20,
                             .hugepages_total = 4,
                             .hugepages_free = 4};
}

static void nothing_to_advise(void) {
  struct uffd_probe probe = ideal();
  char text[16];
  CHECK_EQ(uffd_probe_advice(&probe, 0, text, sizeof(text)), 0);
  probe.missing = UFFD_FEAT_RWP; /* no released kernel has it */
  CHECK_EQ(uffd_probe_advice(&probe, 0, text, sizeof(text)), 0);
}

static void advice_for_each_lack(void) {
  struct uffd_probe probe = ideal();
  probe.user_mode_only = 1;
  probe.syscall_error = EPERM;
  probe.device_error = EACCES;
  CHECK_EQ(count_advice(&probe, "USER_MODE_ONLY is allowed"), 1);
  CHECK_EQ(count_advice(&probe, "vm.unprivileged_userfaultfd"), 1);
  probe = ideal();
  probe.event_fork = 0;
  CHECK_EQ(count_advice(&probe, "CAP_SYS_PTRACE"), 1);
  probe = ideal();
  probe.missing = UFFD_FEAT_MOVE | UFFD_FEAT_POISON;
  CHECK_EQ(count_advice(&probe, "move (6.8)"), 1);
  CHECK_EQ(count_advice(&probe, "poison (6.6)"), 1);
  probe = ideal();
  probe.hugepages_free = 0;
  CHECK_EQ(count_advice(&probe, "nr_hugepages"), 1);
  probe.hugepages_total = 0;
  CHECK_EQ(count_advice(&probe, "No huge pages are reserved"), 1);
  probe.hugepage_size = 0;
  CHECK_EQ(count_advice(&probe, "CONFIG_HUGETLBFS"), 1);
  probe = ideal();
  probe.route = UFFD_ROUTE_DEVICE;
  probe.syscall_error = probe.syscall_umo_error = EPERM;
  CHECK_EQ(count_advice(&probe, "seccomp"), 1);
  probe = ideal();
  probe.usable = 0;
  probe.route = 0;
  probe.syscall_error = probe.syscall_umo_error = probe.device_error = EMFILE;
  CHECK(count_advice(&probe, "ulimit") >= 1);
}

static void short_buffers_are_cut(void) {
  struct uffd_probe probe = ideal();
  probe.event_fork = 0;
  char text[8] = "xxxxxxx";
  int length = CHECK_OK(uffd_probe_advice(&probe, 0, text, sizeof(text)));
  CHECK(length > 20);
  CHECK_EQ(strlen(text), sizeof(text) - 1);
  CHECK_EQ(uffd_probe_advice(&probe, 0, NULL, 0), length);
}

static void a_bad_probe(void) {
  char text[8];
  struct uffd_probe probe = {.size = 0};
  CHECK_ERR(uffd_probe_advice(&probe, 0, text, sizeof(text)), -EINVAL);
  CHECK_ERR(uffd_probe_advice(NULL, 0, text, sizeof(text)), -EINVAL);
}

static const struct check_test tests[] = {
    TEST(it_agrees_with_opening), TEST(it_loses_no_descriptor), TEST(sizes),       TEST(nothing_to_advise),
    TEST(advice_for_each_lack),   TEST(short_buffers_are_cut),  TEST(a_bad_probe),
};
CHECK_MAIN(tests)
