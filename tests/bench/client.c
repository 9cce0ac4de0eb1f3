/*
 * Memory of another process: this program started again, so that it shares nothing with its server.
 */
#include "client.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "baseline.h"
#include "raw.h"

#define REGION_TEXT 192 /* bytes of a region in the handshake */

/* The client's descriptors. */
enum { PARENT = 3, IMAGE_FILE = 4 };

/* The message to the client; it answers with its figures. */
struct errand {
  uint64_t length, part;
  enum order order;
  unsigned share;
  enum contents contents;
  unsigned regions;
  bool told, check;
  struct sockaddr_un server;
};

/* The client */

static struct errand errand;
static int uffd;

static size_t write_regions(char *text, const char *memory, uint64_t length) {
  size_t written = 0;
  for (uint64_t offset = 0; offset < errand.length; offset += length) {
    written += (size_t)snprintf(text + written, REGION_TEXT,
                                "%c{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,\"page_size\":4096,"
                                "\"page_size_kib\":4096}",
                                offset == 0 ? '[' : ',', (unsigned long long)(uintptr_t)(memory + offset),
                                (unsigned long long)length, (unsigned long long)offset);
  }
  text[written++] = ']';
  return written;
}

static void send_handshake(int connection, const char *memory, uint64_t length) {
  char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
  char *text = malloc(errand.length / length * REGION_TEXT + 1);
  struct iovec bytes = {text, write_regions(text, memory, length)};
  struct msghdr message = {
      .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &uffd, sizeof(int));
  if (sendmsg(connection, &message, MSG_NOSIGNAL) != (ssize_t)bytes.iov_len) die("the client's handshake: %m");
  free(text);
}

/* The connection stays open until the process ends. */
static void hand_over(const struct plan *plan, const char *memory) {
  char byte;
  int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(connection, (struct sockaddr *)&errand.server, sizeof(errand.server)) != 0) die("the client: %m");
  send_handshake(connection, memory, plan->regions != 0 ? plan->length / plan->regions : plan->length);
  if (errand.told && read(connection, &byte, 1) != 1) die("the server has ended");
}

int client_main(void) {
  double figures[FIGURES] = {0};
  if (read(PARENT, &errand, sizeof(errand)) != (ssize_t)sizeof(errand)) die("the client is not told what to do");
  struct image image = {.fd = IMAGE_FILE, .length = errand.length};
  const struct plan plan = {
      .length = errand.length,
      .part = errand.part,
      .order = errand.order,
      .share = errand.share,
      .contents = errand.contents,
      .regions = errand.regions,
      .image = &image,
      .begin = hand_over,
  };
  char *memory = map_fresh(plan.length, false);
  (void)plan_split(&plan, memory);
  uffd = raw_open(UFFD_FEATURE_EVENT_REMOVE);
  raw_register(uffd, memory, plan.length, UFFDIO_REGISTER_MODE_MISSING);
  plan_touch(&plan, memory, figures);
  if (errand.check) {
    image.mapping = mmap(NULL, image.length, PROT_READ, MAP_SHARED, image.fd, 0);
    if (image.mapping == MAP_FAILED) die("the client cannot map the image: %m");
    plan_check(&plan, memory);
  }
  return write(PARENT, figures, sizeof(figures)) == (ssize_t)sizeof(figures) ? 0 : 1;
}

/* Who starts it */

/* Each descriptor may have the number that the other one is to get: move both away first. */
static void become_client(int parent, int image) {
  int high = fcntl(parent, F_DUPFD, IMAGE_FILE + 1), high_image = fcntl(image, F_DUPFD, IMAGE_FILE + 1);
  if (dup2(high, PARENT) < 0 || dup2(high_image, IMAGE_FILE) < 0) _exit(3);
  close(high);
  close(high_image);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  execl("/proc/self/exe", "uffd-bench", CLIENT_OPTION, (char *)NULL);
  _exit(3);
}

void client_run(const struct plan *plan, const char *path, bool told, bool check, double figures[FIGURES]) {
  struct errand order = {.length = plan->length,
                         .part = plan->part,
                         .order = plan->order,
                         .share = plan->share,
                         .contents = plan->contents,
                         .regions = plan->regions,
                         .told = told,
                         .check = check,
                         .server.sun_family = AF_UNIX};
  int pair[2], status;
  snprintf(order.server.sun_path, sizeof(order.server.sun_path), "%s", path);
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) die("socketpair: %m");
  pid_t pid = fork();
  if (pid < 0) die("fork: %m");
  if (pid == 0) become_client(pair[1], plan->image->fd);
  close(pair[1]);
  if (write(pair[0], &order, sizeof(order)) != (ssize_t)sizeof(order)) die("the client has ended");
  ssize_t length = read(pair[0], figures, FIGURES * sizeof(*figures));
  close(pair[0]);
  if (waitpid(pid, &status, 0) != pid || status != 0 || length != (ssize_t)(FIGURES * sizeof(*figures)))
    die("the client has failed (wait status 0x%x)", (unsigned)status);
}
