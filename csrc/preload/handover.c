/*
 * The userfaultfd of this program, and the pager's door. The handshake is Firecracker's, as uffd_handoff_send() writes
 * it: a list of regions in JSON, and the userfaultfd beside its first byte. Our own pager answers with one line, others
 * with nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernel/uapi.h"
#include "preload/preload.h"

#define EVENT_FORK     (UINT64_C(1) << 1)
#define EVENT_REMAP    (UINT64_C(1) << 2)
#define EVENT_REMOVE   (UINT64_C(1) << 3)
#define EVENT_UNMAP    (UINT64_C(1) << 6)
#define MODE_MISSING   UINT64_C(1)
#define DESCRIPTOR_MIN 512 /* high, because programs may rely on the numbers of their own descriptors */
#define SEND_SECONDS   5
#define REGION_BYTES   192  /* of the handshake's text */
#define ANSWER_MS      2000 /* that a pager's answer is waited for: others than ours send none */

static int move_up(int fd) {
  int moved = fcntl(fd, F_DUPFD_CLOEXEC, DESCRIPTOR_MIN);
  if (moved < 0) return fd; /* the limit is lower */
  close(fd);
  return moved;
}

static int create(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  int error = errno;
  if (fd >= 0) return fd;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    fd = ioctl(device, RAW_USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    close(device);
    if (fd >= 0) return fd;
  }
  if (error == EPERM) {
    uffd_preload_die(UFFD_PRELOAD_LACKING,
                     "This user may not serve the faults of system calls: set vm.unprivileged_userfaultfd to 1, or "
                     "allow /dev/userfaultfd.");
  }
  uffd_preload_die(UFFD_PRELOAD_LACKING, "There is no userfaultfd: %e.", error);
}

static bool enable(int fd, uint64_t features) {
  struct uffd_raw_api api = {.api = RAW_API, .features = features};
  return ioctl(fd, RAW_UFFDIO_API, &api) == 0;
}

/* EVENT_FORK needs CAP_SYS_PTRACE. */
int uffd_preload_open(bool *forks) {
  const uint64_t features = EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP;
  int fd = create();
  *forks = enable(fd, features | EVENT_FORK);
  if (!*forks && !enable(fd, features)) {
    uffd_preload_die(UFFD_PRELOAD_LACKING, "userfaultfd has no events for mremap, munmap and madvise: %e.", errno);
  }
  return move_up(fd);
}

/* Once more changes nothing; the kernel refuses what another object has. */
bool uffd_preload_is_registered(int object, const struct uffd_mapping *mapping) {
  struct uffd_raw_register range = {.range = {mapping->address, mapping->length}, .mode = MODE_MISSING};
  return ioctl(object, RAW_UFFDIO_REGISTER, &range) == 0;
}

void uffd_preload_register(int object, const struct uffd_mapping *mapping) {
  if (uffd_preload_is_registered(object, mapping)) return;
  if (errno == EPERM) {
    uffd_preload_die(UFFD_PRELOAD_FAILED, "The mapping at %x of %u bytes cannot be registered: its file is read-only.",
                     mapping->address, mapping->length);
  }
  uffd_preload_die(UFFD_PRELOAD_FAILED, "The mapping at %x of %u bytes cannot be registered with userfaultfd: %e.",
                   mapping->address, mapping->length, errno);
}

void uffd_preload_unregister(int object, const struct uffd_mapping *mapping) {
  struct uffd_raw_range range = {mapping->address, mapping->length};
  (void)ioctl(object, RAW_UFFDIO_UNREGISTER, &range);
}

/* The pager */

static size_t write_list(char *text, size_t size, const struct uffd_match *matches, unsigned count, bool answered) {
  uint64_t offset = 0;
  size_t length = uffd_preload_format(text, size, "[");
  for (unsigned i = 0; i < count; i++) {
    const struct uffd_mapping *mapping = &matches[i].mapping;
    if (matches[i].has_offset) offset = matches[i].offset;
    length += uffd_preload_format(
        text + length, size - length,
        "%s{%s\"base_host_virt_addr\":%u,\"size\":%u,\"offset\":%u,\"page_size\":%u,\"page_size_kib\":%u}",
        i == 0 ? "" : ",", i == 0 && answered ? "\"uffd_answer\":true," : "", mapping->address, mapping->length, offset,
        mapping->page_size, mapping->page_size);
    offset += mapping->length;
  }
  return length + uffd_preload_format(text + length, size - length, "]");
}

int uffd_preload_connect(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct timeval patience = {.tv_sec = SEND_SECONDS};
  uffd_preload_format(address.sun_path, sizeof(address.sun_path), "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) uffd_preload_die(UFFD_PRELOAD_FAILED, "Cannot make a socket: %e.", errno);
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)); /* of connect, too */
  while (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
    if (errno == EINTR) continue;
    if (errno == ENOENT || errno == ECONNREFUSED) {
      uffd_preload_die(UFFD_PRELOAD_FAILED, "Nobody listens at %s: start the pager first.", path);
    }
    uffd_preload_die(UFFD_PRELOAD_FAILED, "Cannot connect to the pager at %s: %e.", path, errno);
  }
  return move_up(fd);
}

/* The descriptor goes with the first byte. */
static void send_all(int socket, const char *text, size_t length, int object) {
  union {
    struct cmsghdr header; /* for its alignment */
    char room[CMSG_SPACE(sizeof(int))];
  } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
  memcpy(CMSG_DATA(&control.header), &object, sizeof(object));
  for (size_t sent = 0; sent < length;) {
    struct iovec data = {(char *)(uintptr_t)text + sent, length - sent};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (sent == 0) {
      message.msg_control = control.room;
      message.msg_controllen = sizeof(control.room);
    }
    ssize_t count = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) {
      uffd_preload_die(UFFD_PRELOAD_FAILED, "The pager does not take the handshake: %e.", errno);
    }
    if (count > 0) sent += (size_t)count;
  }
}

/* What stands behind "error" in the answer, without its escapes; false: there is no such key. */
static bool read_refusal(const char *answer, char *why, size_t size) {
  const char *at = strstr(answer, "\"error\"");
  size_t length = 0;
  if (at == NULL) return false;
  at += strlen("\"error\"");
  at += strcspn(at, "\"");
  for (at += *at != '\0'; *at != '\0' && *at != '"' && length + 1 < size; at++) {
    if (*at == '\\' && at[1] != '\0') at++;
    why[length++] = *at;
  }
  why[length] = '\0';
  return true;
}

/* A program whose memory was refused would sleep for ever at its first page. */
static void await_answer(int socket) {
  char answer[1024], why[1024];
  size_t length = 0;
  struct pollfd connection = {.fd = socket, .events = POLLIN};
  while (length + 1 < sizeof(answer) && poll(&connection, 1, ANSWER_MS) > 0) {
    ssize_t count = recv(socket, answer + length, sizeof(answer) - 1 - length, MSG_DONTWAIT);
    if (count <= 0) return; /* it has hung up, as some pagers do */
    length += (size_t)count;
    answer[length] = '\0';
    if (strchr(answer, '\n') == NULL) continue;
    if (read_refusal(answer, why, sizeof(why))) {
      uffd_preload_die(UFFD_PRELOAD_FAILED, "The pager refuses this memory: %s", why);
    }
    return;
  }
}

void uffd_preload_send(int object, int socket, const struct uffd_match *matches, unsigned count, bool answered) {
  char text[UFFD_MATCHES_MAX * REGION_BYTES];
  size_t length = write_list(text, sizeof(text), matches, count, answered);
  send_all(socket, text, length, object);
  if (answered) await_answer(socket);
}
