/*
 * The front door: which handshakes are taken, in however many pieces they come; which are refused; and that a refused
 * one leaves nothing behind.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "check.h"
#include "damage.h"
#include "kernel/create.h"
#include "serve/door/door.h"
#include "serve/door/door_firecracker.h"
#include "serve/paper/closer.h"
#include "vmm.h"

#define PAGE UINT64_C(4096)
#define HUGE (UINT64_C(2) << 20)

/* The stage: a door, a VMM, the connection between them */

static char directory[PATH_MAX];

static const char *at(const char *name) {
  static char path[PATH_MAX + 64];
  snprintf(path, sizeof(path), "%s/%s", directory, name);
  return path;
}

static void make_directory(void) {
  const char *temporary = getenv("TMPDIR");
  snprintf(directory, sizeof(directory), "%s/uffd-door-XXXXXX", temporary != NULL ? temporary : "/tmp");
  CHECK(mkdtemp(directory) != NULL);
}

static struct uffd_door_opts door_opts(void) {
  return (struct uffd_door_opts){.path = at("door"),
                                 .mode = 0600,
                                 .uid = -1,
                                 .connection = {.kind = &uffd_door_firecracker,
                                                .limits = {.max_bytes = 65536, .max_regions = 64},
                                                .handshake_ms = 60000}};
}

static unsigned count_fds(void) {
  unsigned count = 0;
  DIR *fds = opendir("/proc/self/fd");
  CHECK(fds != NULL);
  while (readdir(fds) != NULL) {
    count++;
  }
  closedir(fds);
  return count;
}

/* Some descriptors are closed by another thread. */
static void await_fds(unsigned fds) {
  while (count_fds() != fds) {
    check_pause();
  }
}

/* That thread's queue stays open, so it is there before descriptors are counted. */
static unsigned count_fds_at_first(void) {
  int fd = open("/proc/self/fd", O_RDONLY | O_CLOEXEC), closed = fd;
  uffd_close_foreign(&closed, 1);
  while (fcntl(fd, F_GETFD) >= 0) {
    check_pause();
  }
  return count_fds();
}

struct stage {
  struct vmm vmm;
  struct uffd_door *door;
  struct uffd_connection *connection;
  unsigned fds; /* that were open before */
};

static void wait_readable(int fd) {
  struct pollfd descriptor = {.fd = fd, .events = POLLIN};
  CHECK_EQ(poll(&descriptor, 1, 10000), 1);
}

static void await_connection(struct stage *stage) {
  wait_readable(uffd_door_fd(stage->door));
  CHECK_EQ(CHECK_OK(uffd_door_accept(stage->door, &stage->connection)), 1);
}

/* The VMM has a userfaultfd if this user may have one, and is connected. */
static void set_up_with(struct stage *stage, const struct uffd_door_opts *opts, const uint64_t *pages, unsigned count) {
  make_directory();
  CHECK_EQ(vmm_map(&stage->vmm, PAGE, pages, count), 0);
  int result = vmm_register(&stage->vmm, 0, UFFDIO_REGISTER_MODE_MISSING);
  if (result == -EPERM || result == -ENOSYS) SKIP("userfaultfd: %s", strerror(-result));
  CHECK_EQ(result, 0);
  struct uffd_door_opts all = opts != NULL ? *opts : door_opts();
  all.path = at("door");
  CHECK_OK(uffd_door_open(&all, &stage->door));
  stage->vmm.socket = vmm_connect(at("door"));
  CHECK(stage->vmm.socket >= 0);
  await_connection(stage);
  stage->fds = count_fds_at_first();
}

static void set_up(struct stage *stage, const uint64_t *pages, unsigned count) {
  set_up_with(stage, NULL, pages, count);
}

static void one_page(struct stage *stage) {
  const uint64_t pages[] = {1};
  set_up(stage, pages, 1);
}

static void tear_down(struct stage *stage) {
  uffd_connection_close(stage->connection);
  uffd_door_close(stage->door);
  vmm_unmap(&stage->vmm);
  CHECK_EQ(access(at("door"), F_OK), -1);
  CHECK_EQ(rmdir(directory), 0);
}

static int read_connection(struct stage *stage, struct uffd_handshake *handshake) {
  wait_readable(uffd_connection_fd(stage->connection));
  return uffd_connection_read(stage->connection, handshake);
}

/* The handshake is the VMM's list, and the first descriptor is its userfaultfd. */
static void check_handshake(const struct stage *stage, const struct uffd_handshake *handshake, uint64_t page_size) {
  const struct vmm *vmm = &stage->vmm;
  CHECK_EQ(handshake->regions_count, vmm->count);
  for (unsigned i = 0; i < vmm->count; i++) {
    CHECK_EQ(handshake->regions[i].address, vmm->regions[i].address);
    CHECK_EQ(handshake->regions[i].length, vmm->regions[i].length);
    CHECK_EQ(handshake->regions[i].offset, vmm->regions[i].offset);
    CHECK_EQ(handshake->regions[i].page_size, page_size);
  }
  CHECK_EQ(handshake->pid, getpid());
  CHECK_EQ(handshake->uid, getuid());
  CHECK_EQ(handshake->gid, getgid());
  CHECK(handshake->pidfd >= 0);
  CHECK_EQ(syscall(SYS_pidfd_send_signal, handshake->pidfd, 0, NULL, 0), 0);
  CHECK_EQ(syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, handshake->object_fd, vmm->uffd), 0);
  CHECK((fcntl(handshake->object_fd, F_GETFD) & FD_CLOEXEC) != 0);
  CHECK((fcntl(handshake->object_fd, F_GETFL) & O_NONBLOCK) != 0);
}

static void take_handshake(struct stage *stage, struct uffd_handshake *handshake) {
  CHECK_EQ(CHECK_OK(read_connection(stage, handshake)), 1);
}

/* The handshake is taken as the VMM's list, and then released. */
static void check_taken(struct stage *stage, const struct vmm_message *message, unsigned extra_fds) {
  struct uffd_handshake handshake;
  CHECK_EQ(vmm_hand_over(&stage->vmm, message), 0);
  take_handshake(stage, &handshake);
  check_handshake(stage, &handshake, PAGE);
  CHECK_EQ(handshake.fds_count, extra_fds);
  for (unsigned i = 0; i < extra_fds; i++) {
    CHECK((fcntl(handshake.fds[i], F_GETFD) & FD_CLOEXEC) != 0);
  }
  CHECK_EQ(count_fds(), stage->fds + 2 + extra_fds); /* the object, the pidfd */
  uffd_handshake_release(&handshake);
  await_fds(stage->fds);
  CHECK_EQ(uffd_connection_read(stage->connection, &handshake), 0);
  CHECK_EQ(uffd_connection_count(stage->connection), 1);
  CHECK_EQ(uffd_connection_deadline(stage->connection), UFFD_NO_DEADLINE);
  tear_down(stage);
}

/* The handshake is refused, and nothing of it stays. */
static void check_refused(struct stage *stage, int error, const char *words) {
  struct uffd_handshake handshake;
  int result;
  do {
    result = read_connection(stage, &handshake);
  } while (result == 0);
  CHECK_ERR(result, error);
  CHECK_SAYS(words);
  uffd_handshake_release(&handshake); /* a userfaultfd that came is not closed before */
  await_fds(stage->fds);
  tear_down(stage);
}

/* A message of one list, as text. */
static void check_text_refused(const char *text, int error, const char *words) {
  struct stage stage;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.text = text}), 0);
  check_refused(&stage, error, words);
}

/* A list of one page whose client calls itself so; the value is JSON. */
static const char *labelled(const char *value) {
  static char text[4096];
  snprintf(text, sizeof(text),
           "[{\"base_host_virt_addr\":4194304,\"size\":4096,\"offset\":0,\"page_size\":4096,\"uffd_label\":%s}]",
           value);
  return text;
}

static void label_and_socket_are_known(void) {
  static const char *const good[][2] = {
      {"\"web-7\"", "web-7"},
      {"\"\"", ""},
      {"\"a b/../\\\"{uid}%s\"", "a b/../\"{uid}%s"}, /* a label is any text; what becomes a path is looked at there */
      {"\"\\u00fc\u20ac\\ud83d\\ude00\"", "\u00fc\u20ac\U0001f600"},
  };
  for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
    struct stage stage;
    struct uffd_handshake handshake;
    one_page(&stage);
    CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.text = labelled(good[i][0])}), 0);
    take_handshake(&stage, &handshake);
    CHECK(strcmp(handshake.label, good[i][1]) == 0);
    CHECK(strcmp(handshake.socket, at("door")) == 0);
    uffd_handshake_release(&handshake);
    tear_down(&stage);
  }
}

static void labels_that_are_none_are_refused(void) {
  static const char sixty_three[] = "\"012345678901234567890123456789012345678901234567890123456789012\"";
  static const char *const bad[] = {
      "\"0123456789012345678901234567890123456789012345678901234567890123\"",
      "\"a\\nb\"",
      "\"a\\u0000\"",
      "\"\\u001b[2J\"",
      "\"\\u009b2J\"",
      "\"\\u007f\"",
  };
  struct stage stage;
  struct uffd_handshake handshake;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.text = labelled(sixty_three)}), 0);
  take_handshake(&stage, &handshake);
  CHECK_EQ(strlen(handshake.label), 63);
  uffd_handshake_release(&handshake);
  tear_down(&stage);
  for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
    check_text_refused(labelled(bad[i]), -EINVAL, "63 bytes");
  }
  check_text_refused(labelled("7"), -EINVAL, "not a string");
  check_text_refused(labelled("[\"a\"]"), -EINVAL, "not a string");
  check_text_refused(labelled("\"\xff\""), -EPROTO, "not JSON");
  check_text_refused(labelled("\"\xc0\x80\""), -EPROTO, "not JSON");
}

/* What Firecracker's releases send */

static void one_region(void) {
  struct stage stage;
  one_page(&stage);
  check_taken(&stage, NULL, 0);
}

static void two_regions_with_offsets_and_a_gap(void) {
  struct stage stage;
  const uint64_t pages[] = {3, 5};
  set_up(&stage, pages, 2);
  CHECK(stage.vmm.regions[1].address > stage.vmm.regions[0].address + stage.vmm.regions[0].length);
  check_taken(&stage, NULL, 0);
}

static void regions_come_sorted_by_offset(void) {
  struct stage stage;
  const uint64_t pages[] = {3, 5, 7};
  set_up(&stage, pages, 3);
  struct uffd_handshake handshake;
  struct vmm_region first = stage.vmm.regions[0];
  char text[1024];
  stage.vmm.regions[0] = stage.vmm.regions[2];
  stage.vmm.regions[2] = first;
  vmm_list(&stage.vmm, VMM_PAGE_SIZE, text, sizeof(text));
  stage.vmm.regions[2] = stage.vmm.regions[0];
  stage.vmm.regions[0] = first;
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.text = text}), 0);
  take_handshake(&stage, &handshake);
  check_handshake(&stage, &handshake, PAGE);
  uffd_handshake_release(&handshake);
  tear_down(&stage);
}

static void extra_unknown_keys(void) {
  struct stage stage;
  const uint64_t pages[] = {1, 1, 1};
  set_up(&stage, pages, 3);
  check_taken(&stage, &(struct vmm_message){.keys = VMM_PAGE_SIZE | VMM_EXTRA_KEYS}, 0);
}

static void only_page_size_kib_in_bytes(void) {
  struct stage stage;
  one_page(&stage);
  check_taken(&stage, &(struct vmm_message){.keys = VMM_PAGE_SIZE_KIB}, 0);
}

static void neither_size_means_4096(void) {
  struct stage stage;
  one_page(&stage);
  check_taken(&stage, &(struct vmm_message){0}, 0);
}

static void page_size_counts_before_page_size_kib(void) {
  struct stage stage;
  struct uffd_handshake handshake;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.text = "[{\"base_host_virt_addr\":4194304,\"size\":2097152,"
                                                                   "\"offset\":0,\"page_size_kib\":4096,"
                                                                   "\"page_size\":2097152}]"}),
           0);
  take_handshake(&stage, &handshake);
  CHECK_EQ(handshake.regions[0].page_size, HUGE);
  uffd_handshake_release(&handshake);
  tear_down(&stage);
}

static void split_over_three_sends_fd_on_the_first(void) {
  struct stage stage;
  const uint64_t pages[] = {1, 2};
  set_up(&stage, pages, 2);
  check_taken(&stage, &(struct vmm_message){.keys = VMM_PAGE_SIZE, .pieces = 3}, 0);
}

static void split_over_sends_fd_on_a_later_one(void) {
  for (unsigned piece = 1; piece < 5; piece++) {
    struct stage stage;
    const uint64_t pages[] = {1, 2};
    set_up(&stage, pages, 2);
    check_taken(&stage, &(struct vmm_message){.keys = VMM_PAGE_SIZE, .pieces = 5, .fd_piece = piece}, 0);
  }
}

/* Each piece is read before the next is sent. */
static void split_into_single_bytes(void) {
  struct stage stage;
  const uint64_t pages[] = {1, 2};
  char text[1024];
  struct uffd_handshake handshake;
  set_up(&stage, pages, 2);
  size_t length = vmm_list(&stage.vmm, VMM_PAGE_SIZE | VMM_EXTRA_KEYS, text, sizeof(text));
  for (size_t i = 0; i < length; i++) {
    CHECK_EQ(vmm_send(stage.vmm.socket, text + i, 1, &stage.vmm.uffd, i == length / 2), 0);
    CHECK_EQ(CHECK_OK(read_connection(&stage, &handshake)), i + 1 == length);
  }
  check_handshake(&stage, &handshake, PAGE);
  uffd_handshake_release(&handshake);
  await_fds(stage.fds);
  tear_down(&stage);
}

/* The list is whole, and its descriptor comes behind it with a byte that does not count. */
static void fd_after_the_list(void) {
  static const char *const bytes[] = {"\n", " ", ""};
  for (size_t i = 0; i < 3; i++) {
    struct stage stage;
    struct uffd_handshake handshake;
    one_page(&stage);
    CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.keys = VMM_PAGE_SIZE, .no_fd = true}), 0);
    CHECK_EQ(read_connection(&stage, &handshake), 0);
    CHECK(uffd_connection_deadline(stage.connection) != UFFD_NO_DEADLINE);
    CHECK_EQ(vmm_send(stage.vmm.socket, bytes[i], 1, &stage.vmm.uffd, 1), 0);
    take_handshake(&stage, &handshake);
    check_handshake(&stage, &handshake, PAGE);
    uffd_handshake_release(&handshake);
    tear_down(&stage);
  }
}

static void list_beyond_1024_bytes(void) {
  struct stage stage;
  enum { COUNT = 64 };
  uint64_t pages[COUNT];
  char text[32768];
  for (unsigned i = 0; i < COUNT; i++) {
    pages[i] = 1 + i;
  }
  set_up(&stage, pages, COUNT);
  CHECK(vmm_list(&stage.vmm, VMM_PAGE_SIZE | VMM_EXTRA_KEYS, text, sizeof(text)) > 2 * 4096);
  check_taken(&stage, &(struct vmm_message){.keys = VMM_PAGE_SIZE | VMM_EXTRA_KEYS}, 0);
}

static void two_fds(void) {
  struct stage stage;
  one_page(&stage);
  check_taken(&stage, &(struct vmm_message){.keys = VMM_PAGE_SIZE_KIB, .extra_fds = 1}, 1);
}

static void three_fds(void) {
  struct stage stage;
  one_page(&stage);
  check_taken(&stage, &(struct vmm_message){.keys = VMM_PAGE_SIZE, .extra_fds = 2}, 2);
}

static void as_many_fds_as_are_taken(void) {
  struct stage stage;
  one_page(&stage);
  check_taken(&stage, &(struct vmm_message){.keys = VMM_PAGE_SIZE, .extra_fds = UFFD_HANDSHAKE_FDS},
              UFFD_HANDSHAKE_FDS);
}

/* Each with its own descriptors, sent before any of it is read. */
static void two_handshakes_on_one_connection(void) {
  struct stage stage;
  struct uffd_handshake handshake;
  int other = memfd_create("other", MFD_CLOEXEC);
  const uint64_t pages[] = {2, 1};
  set_up(&stage, pages, 2);
  for (unsigned pieces = 1; pieces <= 3; pieces++) {
    CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.keys = VMM_PAGE_SIZE, .pieces = pieces}), 0);
    CHECK_EQ(
        vmm_hand_over(&stage.vmm, &(struct vmm_message){.keys = VMM_PAGE_SIZE_KIB, .pieces = pieces, .extra_fds = 1}),
        0);
    for (unsigned i = 0; i < 2; i++) {
      take_handshake(&stage, &handshake);
      check_handshake(&stage, &handshake, PAGE);
      CHECK_EQ(handshake.fds_count, i);
      CHECK_EQ(handshake.connection, 1);
      uffd_handshake_release(&handshake);
    }
    CHECK_EQ(uffd_connection_count(stage.connection), 2 * pieces);
    CHECK_EQ(uffd_connection_read(stage.connection, &handshake), 0);
    await_fds(stage.fds);
  }
  close(other);
  tear_down(&stage);
}

/* A read brings the end of one list and the beginning of the next, and the descriptor is the second's. */
static void an_fd_belongs_to_the_last_byte_of_its_read(void) {
  struct stage stage;
  struct uffd_handshake handshake;
  char text[1024];
  one_page(&stage);
  size_t length = vmm_list(&stage.vmm, VMM_PAGE_SIZE, text, sizeof(text)), half = length / 2;
  CHECK_EQ(vmm_send(stage.vmm.socket, text, half, &stage.vmm.uffd, 1), 0);
  CHECK_EQ(read_connection(&stage, &handshake), 0);
  CHECK_EQ(vmm_send(stage.vmm.socket, text + half, length - half, NULL, 0), 0);
  CHECK_EQ(vmm_send(stage.vmm.socket, text, half, &stage.vmm.uffd, 1), 0);
  take_handshake(&stage, &handshake);
  CHECK_EQ(handshake.fds_count, 0);
  uffd_handshake_release(&handshake);
  CHECK_EQ(vmm_send(stage.vmm.socket, text + half, length - half, NULL, 0), 0);
  take_handshake(&stage, &handshake);
  check_handshake(&stage, &handshake, PAGE);
  uffd_handshake_release(&handshake);
  await_fds(stage.fds);
  tear_down(&stage);
}

/* What is refused: bytes */

static void not_a_list(void) {
  static const char *const texts[] = {"{\"type\":0,\"regions\":[}",
                                      "exitless_apf:2",
                                      "\"[]\"",
                                      "]",
                                      "7",
                                      "\x1b[2J",
                                      "[1]",
                                      "[[]]",
                                      "[\"x\"]",
                                      "[null]"};
  for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
    check_text_refused(texts[i], -EPROTO, "not a list of regions");
    CHECK(strchr(uffd_errmsg(), '\x1b') == NULL);
  }
}

static void bad_json(void) {
  static const char *const texts[] = {
      "[{]}]",
      "[{\"size\":1,}]",
      "[{\"size\" 1}]",
      "[{\"size\":01}]",
      "[{\"size\":\"\x01\"}]",
      "[{\"size\":18446744073709551616}]",
      "[{\"size\":9223372036854775808}]",
      "[{\"size\":1,\"size\":2}]",
      "[{\"\xff\xfe\":1}]",
      "[{},,{}]",
      "[{}{}]",
  };
  for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
    check_text_refused(texts[i], -EPROTO, "The handshake is not");
    for (const char *c = uffd_errmsg(); *c != '\0'; c++) {
      CHECK(*c >= 0x20 && *c < 0x7f);
    }
  }
}

static void nested_too_deep(void) {
  char text[1024] = "[{\"deep\":";
  memset(text + strlen(text), '[', 500);
  check_text_refused(text, -EPROTO, "nested 64 deep");
}

static void more_bytes_than_allowed(void) {
  struct stage stage;
  struct uffd_door_opts opts = door_opts();
  const uint64_t pages[] = {1};
  char text[1024];
  opts.connection.limits.max_bytes = 512;
  set_up_with(&stage, &opts, pages, 1);
  memset(text, ' ', sizeof(text));
  text[0] = '[';
  CHECK_EQ(vmm_send(stage.vmm.socket, text, sizeof(text), &stage.vmm.uffd, 1), 0);
  check_refused(&stage, -EMSGSIZE, "longer than 512 bytes");
}

static void exactly_the_bytes_allowed(void) {
  struct stage stage;
  struct uffd_door_opts opts = door_opts();
  const uint64_t pages[] = {1};
  char text[4096];
  memset(text, ' ', sizeof(text));
  opts.connection.limits.max_bytes = sizeof(text);
  set_up_with(&stage, &opts, pages, 1);
  size_t length = vmm_list(&stage.vmm, VMM_PAGE_SIZE, text, sizeof(text));
  text[length] = text[length - 1] = ' ';
  text[sizeof(text) - 1] = ']';
  struct uffd_handshake handshake;
  CHECK_EQ(vmm_send(stage.vmm.socket, text, sizeof(text), &stage.vmm.uffd, 1), 0);
  take_handshake(&stage, &handshake);
  check_handshake(&stage, &handshake, PAGE);
  uffd_handshake_release(&handshake);
  tear_down(&stage);
}

static void more_regions_than_allowed(void) {
  struct stage stage;
  struct uffd_door_opts opts = door_opts();
  const uint64_t pages[] = {1, 1, 1};
  opts.connection.limits.max_regions = 2;
  set_up_with(&stage, &opts, pages, 3);
  CHECK_EQ(vmm_hand_over(&stage.vmm, NULL), 0);
  check_refused(&stage, -E2BIG, "max_regions");
}

/* What is refused: regions */

static void no_regions(void) {
  check_text_refused("[]", -EINVAL, "no regions");
}

static void keys_that_lack(void) {
  check_text_refused("[{\"size\":4096,\"offset\":0}]", -EINVAL, "no base_host_virt_addr");
  check_text_refused("[{\"base_host_virt_addr\":4096,\"offset\":0}]", -EINVAL, "no size");
  check_text_refused("[{\"base_host_virt_addr\":4096,\"size\":4096}]", -EINVAL, "no offset");
}

static void numbers_that_are_none(void) {
  check_text_refused("[{\"base_host_virt_addr\":\"4096\",\"size\":4096,\"offset\":0}]", -EINVAL, "not an integer");
  check_text_refused("[{\"base_host_virt_addr\":4096,\"size\":4096.0,\"offset\":0}]", -EINVAL, "not an integer");
  check_text_refused("[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":null}]", -EINVAL, "not an integer");
  check_text_refused("[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size\":true}]", -EINVAL,
                     "not an integer");
  check_text_refused("[{\"base_host_virt_addr\":-4096,\"size\":4096,\"offset\":0}]", -EINVAL, "is negative");
  check_text_refused("[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":-1}]", -EINVAL, "is negative");
}

static void check_table(const char *region, const char *words) {
  char text[1024];
  snprintf(text, sizeof(text), "[{\"base_host_virt_addr\":8388608,\"size\":4194304,\"offset\":4194304},{%s}]", region);
  check_text_refused(text, -EINVAL, words);
}

static void ranges_that_cannot_be(void) {
  check_table("\"base_host_virt_addr\":4096,\"size\":0,\"offset\":0", "is empty");
  check_table("\"base_host_virt_addr\":4096,\"size\":9223372036854771712,\"offset\":0", "beyond the address space");
  check_table("\"base_host_virt_addr\":9223372036854771712,\"size\":4096,\"offset\":0", "beyond the address space");
  check_table("\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":9223372036854771712", "what a file can hold");
  check_table("\"base_host_virt_addr\":4097,\"size\":4096,\"offset\":0", "does not begin at a page");
  check_table("\"base_host_virt_addr\":4096,\"size\":4095,\"offset\":0", "not whole pages");
  check_table("\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":512", "a page of the image");
}

/* The numbers fit into the format, but no address is so high: the kernel says so. */
static void ranges_beyond_the_address_space(void) {
  check_text_refused("[{\"base_host_virt_addr\":140737488351232,\"size\":144115188075851776,\"offset\":0}]", -EINVAL,
                     "beyond the address space");
  check_text_refused("[{\"base_host_virt_addr\":4096,\"size\":72057594037927936,\"offset\":0}]", -EINVAL,
                     "beyond the client's address space");
}

static void page_sizes_that_cannot_be(void) {
  check_table("\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size\":4", "unknown size");
  check_table("\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size\":0", "unknown size");
  check_table("\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size_kib\":2048", "unknown size");
  check_table("\"base_host_virt_addr\":2097152,\"size\":2097152,\"offset\":0,\"page_size\":2097152",
              "another page size");
}

static void regions_that_overlap(void) {
  check_table("\"base_host_virt_addr\":4194304,\"size\":4198400,\"offset\":16777216", "share addresses");
  check_table("\"base_host_virt_addr\":12578816,\"size\":4096,\"offset\":16777216", "share addresses");
  check_table("\"base_host_virt_addr\":4096,\"size\":8192,\"offset\":4190208", "share a part of the image");
  check_table("\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":8384512", "share a part of the image");
}

/* The image */

static void check_image_length(uint64_t page_size, uint64_t image_length, bool taken) {
  struct stage stage;
  struct uffd_door_opts opts = door_opts();
  const uint64_t pages[] = {1};
  opts.connection.limits.image_length = image_length;
  set_up_with(&stage, &opts, pages, 1);
  stage.vmm.page_size = page_size;
  stage.vmm.count = 2;
  stage.vmm.regions[0] = (struct vmm_region){NULL, HUGE, 2 * HUGE, 0};
  stage.vmm.regions[1] = (struct vmm_region){NULL, 8 * HUGE, HUGE, 2 * HUGE};
  CHECK_EQ(vmm_hand_over(&stage.vmm, NULL), 0);
  if (taken) {
    struct uffd_handshake handshake;
    take_handshake(&stage, &handshake);
    check_handshake(&stage, &handshake, page_size);
    uffd_handshake_release(&handshake);
    tear_down(&stage);
  } else {
    check_refused(&stage, -EINVAL, "belongs to another client");
  }
}

static void sum_of_regions_is_the_image(void) {
  check_image_length(PAGE, 3 * HUGE, true);
  check_image_length(PAGE, 3 * HUGE - PAGE, false);
  check_image_length(PAGE, 3 * HUGE + 1, false);
  check_image_length(PAGE, 1, false);
}

static void image_ends_within_the_last_page(void) {
  check_image_length(PAGE, 3 * HUGE - PAGE + 1, true);
  check_image_length(HUGE, 3 * HUGE, true);
  check_image_length(HUGE, 2 * HUGE + 1, true);
  check_image_length(HUGE, 2 * HUGE, false);
}

static void sum_right_but_with_a_hole(void) {
  struct stage stage;
  struct uffd_door_opts opts = door_opts();
  const uint64_t pages[] = {1};
  opts.connection.limits.image_length = 2 * PAGE;
  set_up_with(&stage, &opts, pages, 1);
  CHECK_EQ(
      vmm_hand_over(&stage.vmm,
                    &(struct vmm_message){.text = "[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0},"
                                                  "{\"base_host_virt_addr\":8192,\"size\":4096,\"offset\":8192}]"}),
      0);
  check_refused(&stage, -EINVAL, "belongs to another client");
}

/* What is refused: descriptors */

static void no_fd_and_hung_up(void) {
  struct stage stage;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.no_fd = true}), 0);
  shutdown(stage.vmm.socket, SHUT_WR);
  check_refused(&stage, -EBADF, "without a userfaultfd");
}

static void no_fd_and_another_follows(void) {
  struct stage stage;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.no_fd = true}), 0);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.no_fd = true}), 0);
  check_refused(&stage, -EBADF, "another follows");
}

/* What is on its way is not whole in time; says: what is lacking. Ends the stage. */
static void check_times_out(struct stage *stage, const char *says) {
  struct uffd_handshake handshake;
  int result;
  while ((result = uffd_connection_read(stage->connection, &handshake)) == 0) {
    check_pause();
  }
  CHECK_ERR(result, -ETIMEDOUT);
  CHECK_SAYS(says);
  uffd_handshake_release(&handshake);
  tear_down(stage);
}

static void no_fd_in_time(void) {
  struct stage stage;
  struct uffd_door_opts opts = door_opts();
  const uint64_t pages[] = {1};
  opts.connection.handshake_ms = 1;
  set_up_with(&stage, &opts, pages, 1);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.no_fd = true}), 0);
  check_times_out(&stage, "its userfaultfd is lacking");
}

static void silence(void) {
  struct stage stage;
  struct uffd_door_opts opts = door_opts();
  const uint64_t pages[] = {1};
  opts.connection.handshake_ms = 1;
  set_up_with(&stage, &opts, pages, 1);
  check_times_out(&stage, "not whole");
}

/* Bytes that do not count do not hold the time up either. */
static void an_endless_prelude(void) {
  struct stage stage;
  struct uffd_door_opts opts = door_opts();
  struct uffd_handshake handshake;
  const uint64_t pages[] = {1};
  char blanks[4096] = "";
  opts.connection.handshake_ms = 20;
  set_up_with(&stage, &opts, pages, 1);
  int result;
  do {
    (void)send(stage.vmm.socket, blanks, sizeof(blanks), MSG_DONTWAIT | MSG_NOSIGNAL);
  } while ((result = uffd_connection_read(stage.connection, &handshake)) == 0);
  CHECK_ERR(result, -ETIMEDOUT);
  tear_down(&stage);
}

static void too_many_fds_are_cut_off_by_the_kernel(void) {
  struct stage stage;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.extra_fds = UFFD_HANDSHAKE_FDS + 1}), 0);
  check_refused(&stage, -EMSGSIZE, "Descriptors of the handshake were lost");
}

static void too_many_fds_in_several_sends(void) {
  struct stage stage;
  char text[1024];
  int fds[VMM_FDS_MAX];
  one_page(&stage);
  for (unsigned i = 0; i < VMM_FDS_MAX; i++) {
    fds[i] = stage.vmm.uffd;
  }
  size_t length = vmm_list(&stage.vmm, VMM_PAGE_SIZE, text, sizeof(text));
  CHECK_EQ(vmm_send(stage.vmm.socket, text, 8, fds, 10), 0);
  CHECK_EQ(vmm_send(stage.vmm.socket, text + 8, length - 8, fds, 10), 0);
  check_refused(&stage, -E2BIG, "came with 20 descriptors");
}

static void fds_without_end(void) {
  struct stage stage;
  int fds[VMM_FDS_MAX];
  one_page(&stage);
  for (unsigned i = 0; i < VMM_FDS_MAX; i++) {
    fds[i] = stage.vmm.uffd;
  }
  for (unsigned i = 0; i < 3; i++) {
    CHECK_EQ(vmm_send(stage.vmm.socket, " ", 1, fds, 17), 0);
  }
  check_refused(&stage, -E2BIG, "came with 34 descriptors");
}

static void not_a_userfaultfd(void) {
  struct stage stage;
  int other = memfd_create("other", MFD_CLOEXEC);
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.instead = other, .extra_fds = 1}), 0);
  check_refused(&stage, -EINVAL, "is not a userfaultfd");
  close(other);
}

static void a_userfaultfd_without_its_handshake(void) {
  struct stage stage;
  int raw = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (raw < 0) raw = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
  if (raw < 0) SKIP("userfaultfd: %s", strerror(errno));
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.instead = raw}), 0);
  check_refused(&stage, -EINVAL, "no UFFDIO_API handshake");
  close(raw);
}

static void a_blocking_userfaultfd_is_made_non_blocking(void) {
  struct stage stage;
  one_page(&stage);
  int flags = fcntl(stage.vmm.uffd, F_GETFL);
  CHECK_EQ(fcntl(stage.vmm.uffd, F_SETFL, flags & ~O_NONBLOCK), 0);
  check_taken(&stage, NULL, 0); /* looks for O_NONBLOCK */
}

/*
 * The receiver's table of descriptors is full: the kernel drops some descriptors, which is reported, and those that it
 * installed are closed.
 */
static void our_own_table_is_full(void) {
  struct stage stage;
  struct uffd_handshake handshake;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.extra_fds = 3}), 0);
  struct rlimit limit, before;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);
  close(lowest);
  limit = before;
  limit.rlim_cur = (rlim_t)lowest + 2;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  CHECK_ERR(uffd_connection_read(stage.connection, &handshake), -EMSGSIZE);
  CHECK_SAYS("ulimit -n");
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  uffd_handshake_release(&handshake);
  await_fds(stage.fds);
  tear_down(&stage);
}

/* The end of a connection */

static void hung_up_before_anything(void) {
  struct stage stage;
  one_page(&stage);
  shutdown(stage.vmm.socket, SHUT_RDWR);
  check_refused(&stage, -EPIPE, "before the end");
}

static void hung_up_in_the_middle(void) {
  struct stage stage;
  one_page(&stage);
  CHECK_EQ(vmm_send(stage.vmm.socket, "[{", 2, &stage.vmm.uffd, 1), 0);
  shutdown(stage.vmm.socket, SHUT_RDWR);
  check_refused(&stage, -EPIPE, "before the end");
}

static void hung_up_after_its_handshake(void) {
  struct stage stage;
  struct uffd_handshake handshake;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, NULL), 0);
  shutdown(stage.vmm.socket, SHUT_RDWR);
  take_handshake(&stage, &handshake);
  uffd_handshake_release(&handshake);
  check_refused(&stage, -ECONNRESET, "has hung up");
}

static void says_goodbye(void) {
  struct stage stage;
  struct uffd_handshake handshake;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, NULL), 0);
  CHECK_EQ(vmm_send(stage.vmm.socket, "[]", 2, NULL, 0), 0);
  take_handshake(&stage, &handshake);
  uffd_handshake_release(&handshake);
  check_refused(&stage, -ESHUTDOWN, "needs no pager");
}

/* After a refusal the connection of an earlier client is still watched for its end. */
static void deaf_after_a_refusal(void) {
  struct stage stage;
  struct uffd_handshake handshake;
  one_page(&stage);
  CHECK_EQ(vmm_hand_over(&stage.vmm, NULL), 0);
  take_handshake(&stage, &handshake);
  uffd_handshake_release(&handshake);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.text = "what?"}), 0);
  CHECK_ERR(read_connection(&stage, &handshake), -EPROTO);
  CHECK_EQ(syscall(SYS_kcmp, getpid(), getpid(), 0, handshake.object_fd, stage.vmm.uffd), 0); /* not closed: zeros */
  uffd_handshake_release(&handshake);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){.keys = VMM_PAGE_SIZE, .extra_fds = 3}), 0);
  CHECK_EQ(read_connection(&stage, &handshake), 0);
  CHECK_EQ(handshake.object_fd, -1);
  await_fds(stage.fds);
  CHECK_EQ(uffd_connection_deadline(stage.connection), UFFD_NO_DEADLINE);
  shutdown(stage.vmm.socket, SHUT_RDWR);
  check_refused(&stage, -ECONNRESET, "has hung up");
}

/* The second has a time limit of its own. */
static void the_second_handshake_has_its_own_time(void) {
  struct stage stage;
  struct uffd_handshake handshake;
  one_page(&stage);
  uint64_t first = uffd_connection_deadline(stage.connection);
  CHECK_EQ(vmm_hand_over(&stage.vmm, NULL), 0);
  take_handshake(&stage, &handshake);
  uffd_handshake_release(&handshake);
  CHECK_EQ(uffd_connection_deadline(stage.connection), UFFD_NO_DEADLINE);
  CHECK_EQ(vmm_send(stage.vmm.socket, "[", 1, NULL, 0), 0);
  CHECK_EQ(read_connection(&stage, &handshake), 0);
  CHECK(uffd_connection_deadline(stage.connection) > first &&
        uffd_connection_deadline(stage.connection) != UFFD_NO_DEADLINE);
  tear_down(&stage);
}

/* The socket */

static unsigned mode_of(const char *path) {
  struct stat status;
  CHECK_EQ(lstat(path, &status), 0);
  return status.st_mode & 07777;
}

static void open_and_close(const struct uffd_door_opts *opts) {
  struct uffd_door *door = NULL;
  CHECK_OK(uffd_door_open(opts, &door));
  CHECK_EQ(mode_of(opts->path), opts->mode);
  uffd_door_close(door);
  CHECK_EQ(access(opts->path, F_OK), -1);
}

static void socket_has_the_mode_that_was_asked_for(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  static const mode_t modes[] = {0600, 0660, 0666, 0777}, masks[] = {0, 022, 077, 0777};
  for (size_t i = 0; i < 16; i++) {
    opts.mode = modes[i % 4];
    mode_t before = umask(masks[i / 4]);
    open_and_close(&opts);
    umask(before);
  }
  rmdir(directory);
}

static void make_stale_socket(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  CHECK(strlen(path) < sizeof(address.sun_path));
  memcpy(address.sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
  close(fd);
}

static void stale_socket_is_replaced(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  make_stale_socket(opts.path);
  open_and_close(&opts);
  rmdir(directory);
}

static void socket_in_use_is_left_alone(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  struct uffd_door *door = NULL, *second = NULL;
  CHECK_OK(uffd_door_open(&opts, &door));
  CHECK_ERR(uffd_door_open(&opts, &second), -EADDRINUSE);
  CHECK_SAYS("Another program listens");
  CHECK(second == NULL);
  int client = vmm_connect(opts.path);
  CHECK(client >= 0);
  close(client);
  uffd_door_close(door);
  rmdir(directory);
}

static void what_is_no_socket_is_left_alone(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  struct uffd_door *door = NULL;
  int file = open(opts.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  CHECK_EQ(write(file, "precious", 8), 8);
  CHECK_ERR(uffd_door_open(&opts, &door), -EEXIST);
  CHECK_SAYS("not a socket");
  struct stat status;
  CHECK_EQ(fstat(file, &status), 0);
  CHECK_EQ(status.st_size, 8);
  CHECK_EQ(status.st_nlink, 1);
  close(file);
  unlink(opts.path);
  CHECK_EQ(symlink("nowhere", opts.path), 0);
  CHECK_ERR(uffd_door_open(&opts, &door), -EEXIST);
  unlink(opts.path);
  rmdir(directory);
}

static void path_is_too_long_or_lacking(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  struct uffd_door *door = NULL;
  char name[200];
  memset(name, 'x', sizeof(name));
  name[199] = '\0';
  opts.path = name;
  CHECK_ERR(uffd_door_open(&opts, &door), -ENAMETOOLONG);
  opts.path = "";
  CHECK_ERR(uffd_door_open(&opts, &door), -EINVAL);
  opts.path = at("nowhere/door");
  CHECK_ERR(uffd_door_open(&opts, &door), -ENOENT);
  rmdir(directory);
}

/* Somebody else's socket at our path is not ours to remove. */
static void a_newer_socket_survives_our_close(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  struct uffd_door *door = NULL, *newer = NULL;
  CHECK_OK(uffd_door_open(&opts, &door));
  unlink(opts.path);
  CHECK_OK(uffd_door_open(&opts, &newer));
  uffd_door_close(door);
  CHECK_EQ(access(opts.path, F_OK), 0);
  uffd_door_close(newer);
  rmdir(directory);
}

static void a_forked_child_leaves_the_socket(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  struct uffd_door *door = NULL;
  CHECK_OK(uffd_door_open(&opts, &door));
  pid_t child = fork();
  if (child == 0) {
    uffd_door_close(door);
    _exit(0);
  }
  check_child(child);
  CHECK_EQ(access(opts.path, F_OK), 0);
  uffd_door_close(door);
  rmdir(directory);
}

/* Who may connect */

static void connect_as_nobody(void *ctx) {
  check_drop_privileges();
  int fd = vmm_connect(ctx);
  CHECK(fd >= 0);
  char byte;
  CHECK(read(fd, &byte, 1) <= 0); /* until it is closed */
}

static void who_connects(int64_t uid, bool allowed) {
  if (getuid() != 0) SKIP("needs root, to be somebody else");
  make_directory();
  CHECK_EQ(chmod(directory, 0711), 0);
  struct uffd_door_opts opts = door_opts();
  struct uffd_connection *connection = NULL;
  struct uffd_door *door = NULL;
  opts.mode = 0666;
  opts.uid = uid;
  CHECK_OK(uffd_door_open(&opts, &door));
  char path[PATH_MAX + 64];
  snprintf(path, sizeof(path), "%s", opts.path);
  pid_t child = fork();
  if (child == 0) {
    connect_as_nobody(path);
    _exit(0);
  }
  wait_readable(uffd_door_fd(door));
  int result = uffd_door_accept(door, &connection);
  if (allowed) {
    CHECK_EQ(CHECK_OK(result), 1);
    CHECK_EQ(uffd_connection_peer(connection)->pid, child);
    uffd_connection_close(connection);
  } else {
    CHECK_ERR(result, -EACCES);
    CHECK_SAYS("may not connect");
    CHECK(connection == NULL);
  }
  check_child(child);
  CHECK_EQ(uffd_door_accept(door, &connection), 0);
  uffd_door_close(door);
  rmdir(directory);
}

static void another_user_is_refused(void) {
  who_connects(-1, false);
}
static void the_allowed_user_is_let_in(void) {
  who_connects(65534, true);
}

static struct {
  pthread_t thread;
  _Atomic bool stop;
} signalled;

static void take_signal(int number) {
  (void)number;
}

static void signal_on_and_on(void *ctx) {
  (void)ctx;
  while (!atomic_load(&signalled.stop)) {
    pthread_kill(signalled.thread, SIGUSR1);
    sched_yield();
  }
}

/* A poll that does not wait says EINTR as well; a program that is told to reload takes its clients in meanwhile. */
static void signals_keep_nobody_out(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  struct uffd_connection *connection = NULL;
  struct uffd_door *door = NULL;
  struct check_thread thread;
  struct sigaction action = {.sa_handler = take_signal, .sa_flags = SA_RESTART};
  CHECK_OK(uffd_door_open(&opts, &door));
  CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
  signalled.thread = pthread_self();
  check_thread_start(&thread, signal_on_and_on, NULL);
  for (unsigned i = 0; i < 2000; i++) {
    int client = vmm_connect(opts.path), result;
    CHECK(client >= 0);
    while ((result = CHECK_OK(uffd_door_accept(door, &connection))) == 0) {
      check_pause();
    }
    CHECK_EQ(result, 1);
    uffd_connection_close(connection);
    close(client);
  }
  atomic_store(&signalled.stop, true);
  check_thread_join(&thread);
  uffd_door_close(door);
  rmdir(directory);
}

/* Its memory may belong to somebody, but nobody could tell when it ends. */
static void who_is_gone_already_is_refused(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  struct uffd_connection *connection = NULL;
  struct uffd_door *door = NULL;
  CHECK_OK(uffd_door_open(&opts, &door));
  unsigned fds = count_fds_at_first();
  pid_t child = fork();
  if (child == 0) _exit(vmm_connect(opts.path) < 0);
  check_child(child);
  wait_readable(uffd_door_fd(door));
  CHECK_ERR(uffd_door_accept(door, &connection), -ESRCH);
  await_fds(fds);
  CHECK_EQ(uffd_door_accept(door, &connection), 0);
  uffd_door_close(door);
  rmdir(directory);
}

/* The queue of connections is emptied all the same, or the supervisor would find it readable for ever. */
static void refused_for_want_of_descriptors(void) {
  make_directory();
  struct uffd_door_opts opts = door_opts();
  struct uffd_connection *connection = NULL;
  struct uffd_door *door = NULL;
  CHECK_OK(uffd_door_open(&opts, &door));
  int clients[3];
  for (int i = 0; i < 3; i++) {
    clients[i] = vmm_connect(opts.path);
    CHECK(clients[i] >= 0);
  }
  struct rlimit limit, before;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);
  close(lowest);
  limit = before;
  limit.rlim_cur = (rlim_t)lowest;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  for (int i = 0; i < 3; i++) {
    CHECK_ERR(uffd_door_accept(door, &connection), -EMFILE);
  }
  CHECK_EQ(uffd_door_accept(door, &connection), 0);
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  for (int i = 0; i < 3; i++) {
    close(clients[i]);
  }
  uffd_door_close(door);
  rmdir(directory);
}

/* Damage of every kind, again and again */

/* One connection: up to two messages, then its end at once, or after what came of it. 1 when one was taken in. */
/* What Linux before 6.5 says. */
static void hide_peerpidfd(const char *name, void *ctx) {
  if (strcmp(name, "peerpidfd") == 0) *(int *)ctx = 9999;
}

static void who_connects_is_told_by_the_connection_before_6_5(void) {
  struct stage stage;
  const uint64_t pages[] = {3};
  set_up(&stage, pages, 1);
  uffd_connection_close(stage.connection);
  close(stage.vmm.socket);
  atomic_store(&uffd_barrier_hook, hide_peerpidfd);
  int there = vmm_connect(at("door"));
  CHECK(there >= 0 && shutdown(there, SHUT_WR) == 0); /* it has no more to say, and is there */
  await_connection(&stage);
  CHECK_EQ(uffd_connection_peer(stage.connection)->pid, getpid());
  CHECK(uffd_connection_peer(stage.connection)->pidfd >= 0);
  uffd_connection_close(stage.connection);
  close(there);
  /* Who has hung up is named: what it hands over proves who it is. */
  struct uffd_handshake handshake;
  stage.vmm.socket = vmm_connect(at("door"));
  CHECK(stage.vmm.socket >= 0);
  CHECK_EQ(vmm_hand_over(&stage.vmm, &(struct vmm_message){0}), 0);
  close(stage.vmm.socket);
  await_connection(&stage);
  CHECK_EQ(uffd_connection_peer(stage.connection)->pidfd, -1);
  CHECK_EQ(uffd_connection_read(stage.connection, &handshake), 1);
  CHECK_EQ(handshake.owner.pid, getpid());
  CHECK_EQ(handshake.pidfd, -1);
  uffd_handshake_release(&handshake);
  uffd_connection_close(stage.connection);
  uffd_door_close(stage.door);
  /* Another socket, such as the one for orders, has nothing to prove it by. */
  struct uffd_listener orders;
  struct uffd_peer peer;
  CHECK_OK(uffd_listener_open(&orders, at("orders"), 0600));
  int gone = vmm_connect(at("orders"));
  CHECK(gone >= 0);
  close(gone);
  wait_readable(orders.fd);
  CHECK_ERR(uffd_listener_accept(&orders, UFFD_ANYBODY, &peer), -ESRCH);
  CHECK_SAYS("is gone already");
  uffd_listener_close(&orders);
  vmm_unmap(&stage.vmm);
  rmdir(directory);
}

static bool meet_damaged(uint64_t *random, struct stage *stage, int other) {
  struct uffd_handshake handshake;
  bool taken = false, early = damage_draw(random, 2) == 0;
  stage->vmm.socket = vmm_connect(at("door"));
  CHECK(stage->vmm.socket >= 0);
  for (uint64_t i = damage_draw(random, 8) == 0 ? 2 : 1; i > 0; i--) {
    damage_send(random, &stage->vmm, other);
  }
  if (early) {
    close(stage->vmm.socket);
  } else {
    shutdown(stage->vmm.socket, SHUT_WR);
  }
  wait_readable(uffd_door_fd(stage->door));
  CHECK_EQ(CHECK_OK(uffd_door_accept(stage->door, &stage->connection)), 1);
  int result;
  while ((result = uffd_connection_read(stage->connection, &handshake)) >= 0) {
    if (result == 0) continue;
    taken = true;
    uffd_handshake_release(&handshake);
  }
  uffd_handshake_release(&handshake);
  CHECK(strlen(uffd_errmsg()) > 10);
  uffd_connection_close(stage->connection);
  stage->connection = NULL;
  if (!early) close(stage->vmm.socket);
  stage->vmm.socket = -1;
  return taken;
}

static void ten_thousand_damaged_handshakes(void) {
  struct stage stage;
  const uint64_t pages[] = {3, 5};
  uint64_t random = 1;
  unsigned taken = 0;
  int other = memfd_create("other", MFD_CLOEXEC);
  set_up(&stage, pages, 2);
  uffd_connection_close(stage.connection);
  close(stage.vmm.socket);
  unsigned fds = count_fds_at_first();
  for (int i = 0; i < DAMAGED / 10; i++) { /* what is allocated once */
    meet_damaged(&random, &stage, other);
  }
  size_t allocated = mallinfo2().uordblks;
  for (int i = 0; i < DAMAGED; i++) {
    taken += meet_damaged(&random, &stage, other);
  }
  await_fds(fds);
  CHECK(mallinfo2().uordblks <= allocated + (size_t)DAMAGED); /* what malloc keeps for later counts as allocated */
  CHECK(taken > DAMAGED / 20 && taken < DAMAGED / 2);         /* neither all of it damaged, nor none */
  uffd_door_close(stage.door);
  vmm_unmap(&stage.vmm);
  close(other);
  rmdir(directory);
}

static const struct check_test tests[] = {
    TEST(one_region),
    TEST(label_and_socket_are_known),
    TEST(labels_that_are_none_are_refused),
    TEST(signals_keep_nobody_out),
    TEST(two_regions_with_offsets_and_a_gap),
    TEST(regions_come_sorted_by_offset),
    TEST(extra_unknown_keys),
    TEST(only_page_size_kib_in_bytes),
    TEST(neither_size_means_4096),
    TEST(page_size_counts_before_page_size_kib),
    TEST(split_over_three_sends_fd_on_the_first),
    TEST(split_over_sends_fd_on_a_later_one),
    TEST(split_into_single_bytes),
    TEST(fd_after_the_list),
    TEST(list_beyond_1024_bytes),
    TEST(two_fds),
    TEST(three_fds),
    TEST(as_many_fds_as_are_taken),
    TEST(two_handshakes_on_one_connection),
    TEST(an_fd_belongs_to_the_last_byte_of_its_read),
    TEST(not_a_list),
    TEST(bad_json),
    TEST(nested_too_deep),
    TEST(more_bytes_than_allowed),
    TEST(exactly_the_bytes_allowed),
    TEST(more_regions_than_allowed),
    TEST(no_regions),
    TEST(keys_that_lack),
    TEST(numbers_that_are_none),
    TEST(ranges_that_cannot_be),
    TEST(ranges_beyond_the_address_space),
    TEST(page_sizes_that_cannot_be),
    TEST(regions_that_overlap),
    TEST(sum_of_regions_is_the_image),
    TEST(image_ends_within_the_last_page),
    TEST(sum_right_but_with_a_hole),
    TEST(no_fd_and_hung_up),
    TEST(no_fd_and_another_follows),
    TEST(no_fd_in_time),
    TEST(silence),
    TEST(an_endless_prelude),
    TEST(too_many_fds_are_cut_off_by_the_kernel),
    TEST(too_many_fds_in_several_sends),
    TEST(fds_without_end),
    TEST(not_a_userfaultfd),
    TEST(a_userfaultfd_without_its_handshake),
    TEST(a_blocking_userfaultfd_is_made_non_blocking),
    TEST(our_own_table_is_full),
    TEST(hung_up_before_anything),
    TEST(hung_up_in_the_middle),
    TEST(hung_up_after_its_handshake),
    TEST(says_goodbye),
    TEST(deaf_after_a_refusal),
    TEST(the_second_handshake_has_its_own_time),
    TEST(socket_has_the_mode_that_was_asked_for),
    TEST(stale_socket_is_replaced),
    TEST(socket_in_use_is_left_alone),
    TEST(what_is_no_socket_is_left_alone),
    TEST(path_is_too_long_or_lacking),
    TEST(a_newer_socket_survives_our_close),
    TEST(a_forked_child_leaves_the_socket),
    TEST(another_user_is_refused),
    TEST(the_allowed_user_is_let_in),
    TEST(who_is_gone_already_is_refused),
    TEST(refused_for_want_of_descriptors),
    TEST(ten_thousand_damaged_handshakes),
    TEST(who_connects_is_told_by_the_connection_before_6_5),
};

CHECK_MAIN(tests)
