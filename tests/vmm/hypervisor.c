#define _GNU_SOURCE
#include "hypervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define PAGE  4096u
#define FRAME 16

/* Of one machine that is being received. */
struct receiving {
  struct hypervisor *machine;
  int control, fault, uffd;
  int files[HYPERVISOR_SLOTS]; /* by index of the slot */
  unsigned char *mapped[HYPERVISOR_SLOTS];
  unsigned char *there; /* of each page of the image: it was asked for */
  pthread_t handler;
  bool handles;
};

/* Frames */

static bool receive_all(int socket, void *bytes, size_t length, int *fd) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  for (size_t got = 0; got < length;) {
    struct iovec data = {(char *)bytes + got, length - got};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
    ssize_t count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    if (part != NULL && fd != NULL) memcpy(fd, CMSG_DATA(part), sizeof(*fd));
    got += (size_t)count;
  }
  return true;
}

static bool send_all(int socket, const void *bytes, size_t length, int fd) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
  memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
  for (size_t sent = 0; sent < length;) {
    struct iovec data = {(char *)(uintptr_t)bytes + sent, length - sent};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (fd >= 0 && sent == 0) {
      message.msg_control = control.room;
      message.msg_controllen = sizeof(control.room);
    }
    ssize_t count = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) return false;
    if (count > 0) sent += (size_t)count;
  }
  return true;
}

/* The wire is little-endian, as this machine is. */
static void frame(unsigned char *bytes, unsigned word, unsigned version, uint64_t length) {
  uint16_t head[4] = {(uint16_t)word, (uint16_t)version, 0, 0};
  memcpy(bytes, head, sizeof(head));
  memcpy(bytes + 8, &length, sizeof(length));
}

static bool respond(int socket, unsigned status) {
  unsigned char bytes[FRAME];
  frame(bytes, status, 0, 0);
  return send_all(socket, bytes, sizeof(bytes), -1);
}

static unsigned read_status(int socket) {
  unsigned char bytes[FRAME];
  uint16_t status;
  uint64_t length;
  if (!receive_all(socket, bytes, sizeof(bytes), NULL)) return 0;
  memcpy(&status, bytes, sizeof(status));
  memcpy(&length, bytes + 8, sizeof(length));
  return length == 0 ? status : 0;
}

unsigned hypervisor_say(int socket, unsigned command, unsigned version, const void *payload, size_t length, int fd) {
  unsigned char bytes[FRAME];
  frame(bytes, command, version, length);
  if (!send_all(socket, bytes, sizeof(bytes), -1)) return 0;
  if (length != 0 && !send_all(socket, payload, length, fd)) return 0;
  return read_status(socket);
}

static int make_socket(const char *path, struct sockaddr_un *address) {
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof(address->sun_path)) return -ENAMETOOLONG;
  memcpy(address->sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return fd >= 0 ? fd : -errno;
}

int hypervisor_listen(const char *path) {
  struct sockaddr_un address;
  int fd = make_socket(path, &address);
  if (fd < 0) return fd;
  if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, 4) == 0) return fd;
  int error = errno;
  close(fd);
  return -error;
}

int hypervisor_connect(const char *path) {
  struct sockaddr_un address;
  int fd = make_socket(path, &address);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) return fd;
  int error = errno;
  close(fd);
  return -error;
}

size_t hypervisor_config(const struct hypervisor *machine, char *text, size_t size) {
  size_t length = (size_t)snprintf(text, size,
                                   "{\"vm_config\":{\"cpus\":{\"boot_vcpus\":1},\"serial\":18446744073709551615},"
                                   "\"common_cpuid\":[{\"eax\":4294967295}],\n \"memory_manager_data\":{"
                                   "\"selected_slot\":9,\"guest_ram_mappings\":[");
  for (unsigned i = 0; i < machine->count; i++) {
    const struct hypervisor_slot *slot = &machine->slots[i];
    length += (size_t)snprintf(text + length, size > length ? size - length : 0,
                               "%s{\"slot\":%u,\"gpa\":%llu,\"size\":%llu,\"zone_id\":\"mem0\",\"virtio_mem\":false,"
                               "\"file_offset\":%llu}",
                               i != 0 ? "," : "", slot->number, (unsigned long long)slot->address,
                               (unsigned long long)slot->length, (unsigned long long)slot->file_offset);
  }
  length += (size_t)snprintf(text + length, size > length ? size - length : 0, "]}}\n");
  return length;
}

/* Receiving: pages */

static bool is_image(const struct hypervisor *machine, const unsigned char *page, uint64_t offset) {
  return memcmp(page, machine->image + offset, machine->page_size) == 0;
}

/* 1: the page is there; 2: the answer was an error; 0: there was none, or the page is not there after all. */
static unsigned ask(const struct receiving *receiving, unsigned slot, uint64_t offset) {
  const struct hypervisor *machine = receiving->machine;
  unsigned char bytes[2 * FRAME];
  uint64_t range[2] = {machine->slots[slot].address + offset, machine->page_size};
  frame(bytes, 9, 0, sizeof(range));
  memcpy(bytes + FRAME, range, sizeof(range));
  size_t first = machine->pieces ? FRAME : sizeof(bytes);
  if (!send_all(receiving->fault, bytes, first, -1)) return 0;
  if (first < sizeof(bytes)) {
    sched_yield();
    if (!send_all(receiving->fault, bytes + first, sizeof(bytes) - first, -1)) return 0;
  }
  unsigned status = read_status(receiving->fault);
  if (status != 1) return status;
  struct uffdio_continue present = {.range = {(uintptr_t)receiving->mapped[slot] + offset, machine->page_size}};
  if (ioctl(receiving->uffd, UFFDIO_CONTINUE, &present) == 0) return 1;
  if (errno != EEXIST) {
    fprintf(stderr, "the machine: CONTINUE of a page that was promised: %s\n", strerror(errno)); /* EFAULT: a hole */
    return 0;
  }
  return ioctl(receiving->uffd, UFFDIO_WAKE, &present.range) == 0 ? 1 : 0;
}

static _Noreturn void die(const char *why) {
  fprintf(stderr, "the machine ends: %s\n", why);
  _exit(3);
}

static void answer_fault(struct receiving *receiving, uint64_t address) {
  const struct hypervisor *machine = receiving->machine;
  for (unsigned i = 0; i < machine->count; i++) {
    uint64_t offset = (address & ~(machine->page_size - 1)) - (uintptr_t)receiving->mapped[i];
    if (offset >= machine->slots[i].length) continue;
    unsigned told = ask(receiving, i, offset);
    if (told == 2) die("a page that the guest waits for was refused");
    if (told != 1) die("a page that the guest waits for did not come");
    receiving->there[(machine->slots[i].image_offset + offset) / machine->page_size] = 1;
    atomic_fetch_add(&machine->seen->demanded, 1);
  }
}

static bool take_fault(struct receiving *receiving, int timeout_ms) {
  struct pollfd descriptor = {.fd = receiving->uffd, .events = POLLIN};
  struct uffd_msg message;
  if (poll(&descriptor, 1, timeout_ms) != 1) return false;
  if (read(receiving->uffd, &message, sizeof(message)) != (ssize_t)sizeof(message)) return false;
  if (message.event == UFFD_EVENT_PAGEFAULT) answer_fault(receiving, message.arg.pagefault.address);
  return true;
}

/* Faults first; between them one page after the other, until one is refused. */
static void *handle(void *argument) {
  struct receiving *receiving = argument;
  const struct hypervisor *machine = receiving->machine;
  unsigned slot = 0;
  uint64_t offset = 0;
  bool prefaults = true;
  while (slot < machine->count) {
    bool holds = atomic_load(&machine->seen->hold) != 0;
    if (take_fault(receiving, holds ? 10 : 0) || holds) continue;
    uint64_t page = (machine->slots[slot].image_offset + offset) / machine->page_size;
    unsigned status = receiving->there[page] == 0 && prefaults ? ask(receiving, slot, offset) : 1;
    if (status == 0) die("its pager has hung up");
    if (status == 2) atomic_fetch_add(&machine->seen->refused, 1);
    if (status == 2) prefaults = false;
    if (receiving->there[page] == 0 && prefaults) atomic_fetch_add(&machine->seen->prefaulted, 1);
    offset += machine->page_size;
    if (offset < machine->slots[slot].length) continue;
    offset = 0;
    slot++;
  }
  uint64_t pages = 0;
  for (unsigned i = 0; i < machine->count; i++) {
    pages += machine->slots[i].length / machine->page_size;
  }
  while (!prefaults && atomic_load(&machine->seen->walked) < pages * machine->threads) {
    (void)take_fault(receiving, 10);
  }
  shutdown(receiving->fault, SHUT_RDWR);
  return NULL;
}

struct walker {
  struct receiving *receiving;
  uint64_t seed;
};

/* Every page once, in an order of its own: a step that shares no factor with their number. */
static void *walk(void *argument) {
  struct walker *walker = argument;
  const struct hypervisor *machine = walker->receiving->machine;
  uint64_t pages = 0;
  for (unsigned i = 0; i < machine->count; i++) {
    pages += machine->slots[i].length / machine->page_size;
  }
  uint64_t step = pages / 3 + 1 + walker->seed % 7;
  for (uint64_t a = step, b = pages;;) {
    while (b != 0) {
      uint64_t rest = a % b;
      a = b;
      b = rest;
    }
    if (a == 1) break;
    a = ++step;
    b = pages;
  }
  for (uint64_t i = 0, at = walker->seed % pages; i < pages; i++, at = (at + step) % pages) {
    uint64_t offset = at * machine->page_size;
    for (unsigned k = 0; k < machine->count; k++) {
      uint64_t inside = offset - machine->slots[k].image_offset;
      if (inside >= machine->slots[k].length) continue;
      const unsigned char *page = walker->receiving->mapped[k] + inside;
      if (!is_image(machine, page, offset)) atomic_fetch_add(&machine->seen->wrong, 1);
      atomic_fetch_add(&machine->seen->walked, 1);
    }
  }
  return NULL;
}

/* Receiving: steps */

static int open_uffd(struct receiving *receiving) {
  struct uffdio_api api = {.api = UFFD_API};
  api.features = receiving->machine->page_size == PAGE ? UFFD_FEATURE_MINOR_SHMEM : UFFD_FEATURE_MINOR_HUGETLBFS;
  receiving->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (receiving->uffd < 0 || ioctl(receiving->uffd, UFFDIO_API, &api) != 0) return 77;
  for (unsigned i = 0; i < receiving->machine->count; i++) {
    struct uffdio_register range = {.range = {(uintptr_t)receiving->mapped[i], receiving->machine->slots[i].length},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR};
    if (ioctl(receiving->uffd, UFFDIO_REGISTER, &range) != 0) return 2;
  }
  return 0;
}

static bool map(struct receiving *receiving) {
  const struct hypervisor *machine = receiving->machine;
  for (unsigned i = 0; i < machine->count; i++) {
    struct stat status;
    const struct hypervisor_slot *slot = &machine->slots[i];
    if (fstat(receiving->files[i], &status) != 0 || (uint64_t)status.st_blksize != machine->page_size) return false;
    void *at =
        mmap(NULL, slot->length, PROT_READ | PROT_WRITE, MAP_SHARED, receiving->files[i], (off_t)slot->file_offset);
    if (at == MAP_FAILED) return false;
    receiving->mapped[i] = at;
    for (unsigned k = 0; k < i; k++) {
      struct stat other;
      if (fstat(receiving->files[k], &other) == 0 && other.st_ino == status.st_ino)
        atomic_fetch_add(&machine->seen->same_file, 1);
    }
  }
  return true;
}

/* 1: all right; 2: an error is answered; 0: the other side is gone; 77. */
static unsigned begin(struct receiving *receiving) {
  uint16_t role = 0;
  receiving->fault = accept4(receiving->machine->listener, NULL, NULL, SOCK_CLOEXEC);
  if (!receive_all(receiving->fault, &role, sizeof(role), NULL) || role != 2 || !map(receiving)) return 2;
  int result = open_uffd(receiving);
  if (result != 0) return (unsigned)result;
  receiving->handles = pthread_create(&receiving->handler, NULL, handle, receiving) == 0;
  return 1;
}

static bool take_file(struct receiving *receiving) {
  uint32_t number;
  int fd = -1;
  if (!receive_all(receiving->control, &number, sizeof(number), &fd) || fd < 0) return false;
  for (unsigned i = 0; i < receiving->machine->count; i++) {
    if (receiving->machine->slots[i].number == number && receiving->files[i] < 0) {
      receiving->files[i] = fd;
      return true;
    }
  }
  return false;
}

static bool take_text(const struct receiving *receiving, uint64_t length, const char *expected) {
  char *text = malloc(length + 1);
  bool same = receive_all(receiving->control, text, length, NULL) &&
              (expected == NULL || (strlen(expected) == length && memcmp(text, expected, length) == 0));
  free(text);
  return same;
}

/* As begin(). */
static unsigned obey(struct receiving *receiving, unsigned command, unsigned version, uint64_t length) {
  struct hypervisor *machine = receiving->machine;
  atomic_fetch_add(&machine->seen->commands[command < 10 ? command : 0], 1);
  unsigned result = 1;
  if (command == HYPERVISOR_START && version != 0) result = 2;
  if (command == HYPERVISOR_MEMORY_FD && !take_file(receiving)) result = 2;
  if (command == HYPERVISOR_MEMORY_FD && machine->hangs_up) return 0;
  if (command == HYPERVISOR_CONFIG && !take_text(receiving, length, machine->config)) result = 2;
  if (command == machine->close_after) close(machine->listener);
  if (command == machine->refuse) {
    if (command == HYPERVISOR_STATE) (void)take_text(receiving, length, NULL);
    return 2;
  }
  if (command == HYPERVISOR_STATE) { /* its devices look at the memory before all of the state is there */
    result = begin(receiving);
    if (result == 1 && !take_text(receiving, length, machine->state)) result = 2;
    const unsigned char *first = receiving->mapped[0];
    if (result == 1 && *(const volatile unsigned char *)first != machine->image[machine->slots[0].image_offset])
      atomic_fetch_add(&machine->seen->wrong, 1);
  }
  return result;
}

static int end_guest(struct receiving *receiving) {
  struct hypervisor *machine = receiving->machine;
  pthread_t threads[8];
  struct walker walkers[8];
  while (atomic_load(&machine->seen->hold) != 0) {
    (void)poll(NULL, 0, 1);
  }
  for (unsigned i = 0; i < machine->threads; i++) {
    walkers[i] = (struct walker){receiving, 11 * i + 1};
    if (pthread_create(&threads[i], NULL, walk, &walkers[i]) != 0) return 2;
  }
  for (unsigned i = 0; i < machine->threads; i++) {
    pthread_join(threads[i], NULL);
  }
  pthread_join(receiving->handler, NULL);
  return 0;
}

static int receive(struct receiving *receiving) {
  for (;;) {
    unsigned char bytes[FRAME];
    uint16_t head[2];
    uint64_t length;
    if (!receive_all(receiving->control, bytes, sizeof(bytes), NULL)) return 2;
    memcpy(head, bytes, sizeof(head));
    memcpy(&length, bytes + 8, sizeof(length));
    unsigned result = obey(receiving, head[0], head[1], length);
    if (result == 77) return 77;
    if (result == 0 || !respond(receiving->control, result)) return 2;
    if (head[0] == HYPERVISOR_ABANDON) return 2;
    if (result == 1 && (head[0] == HYPERVISOR_COMPLETE || head[0] == HYPERVISOR_COMPLETE_PAUSED)) return 0;
  }
}

int hypervisor_receive(struct hypervisor *machine) {
  struct receiving receiving = {.machine = machine, .fault = -1, .uffd = -1};
  uint64_t pages = 0;
  for (unsigned i = 0; i < machine->count; i++) {
    receiving.files[i] = -1;
    pages += machine->slots[i].length / machine->page_size;
  }
  receiving.there = calloc(pages, 1);
  receiving.control = accept4(machine->listener, NULL, NULL, SOCK_CLOEXEC);
  int result = receive(&receiving);
  if (result == 0) {
    atomic_store(&machine->seen->runs, true);
    result = end_guest(&receiving);
  }
  if (result != 0 && receiving.handles) _exit(result); /* the threads wait for what never comes */
  free(receiving.there);
  close(receiving.control);
  if (receiving.fault >= 0) close(receiving.fault);
  return result;
}

/* Sending */

static bool is_zero(const unsigned char *bytes, uint64_t length) {
  uint64_t i = 0;
  while (i < length && bytes[i] == 0) {
    i++;
  }
  return i == length;
}

int hypervisor_memory(const struct hypervisor *machine, uint64_t length) {
  bool huge = machine->page_size != PAGE;
  int fd = memfd_create("machine", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
  if (fd < 0 || ftruncate(fd, (off_t)length) != 0) return -errno;
  unsigned char *all = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (all == MAP_FAILED) return -errno;
  for (unsigned i = 0; i < machine->count; i++) {
    const struct hypervisor_slot *slot = &machine->slots[i];
    for (uint64_t at = 0; at < slot->length; at += PAGE) {
      const unsigned char *page = machine->image + slot->image_offset + at;
      if (!is_zero(page, PAGE)) memcpy(all + slot->file_offset + at, page, PAGE);
    }
  }
  munmap(all, length);
  return fd;
}
