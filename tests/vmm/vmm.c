/*
 * The stand-in VMM: see vmm.h.
 */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
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

#define HUGE_SIZE        (UINT64_C(2) << 20)
#define USER_MODE_ONLY   1
#define NEW_BY_DEVICE    _IO(0xAA, 0x00)
#define REMOVE_PAGES_MAX 64

/* Memory */

/* The regions lie in one reservation, so that nothing is mapped into the gaps. */
int vmm_map(struct vmm *vmm, uint64_t page_size, const uint64_t *pages, unsigned count) {
  memset(vmm, 0, sizeof(*vmm));
  vmm->uffd = vmm->socket = -1;
  vmm->page_size = page_size;
  uint64_t total = 0, offset = 0;
  for (unsigned i = 0; i < count; i++) {
    total += (pages[i] + 1) * page_size;
  }
  unsigned char *base = mmap(NULL, total + HUGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return -errno;
  unsigned char *at = base + (HUGE_SIZE - (uintptr_t)base % HUGE_SIZE) % HUGE_SIZE;
  int huge = page_size == HUGE_SIZE ? MAP_HUGETLB | 21 << MAP_HUGE_SHIFT : 0;
  for (unsigned i = 0; i < count; i++) {
    uint64_t length = pages[i] * page_size;
    if (mmap(at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | huge, -1, 0) != at) {
      return -errno;
    }
    vmm->regions[vmm->count++] = (struct vmm_region){at, (uint64_t)(uintptr_t)at, length, offset};
    offset += length;
    at += length + page_size;
  }
  vmm->removed = calloc(offset / page_size, 1);
  return vmm->removed != NULL ? 0 : -ENOMEM;
}

uint64_t vmm_length(const struct vmm *vmm) {
  uint64_t length = 0;
  for (unsigned i = 0; i < vmm->count; i++) {
    length += vmm->regions[i].length;
  }
  return length;
}

static int create_userfaultfd(void) {
  int flags = O_CLOEXEC | O_NONBLOCK;
  int fd = (int)syscall(SYS_userfaultfd, flags);
  if (fd >= 0) return fd;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    fd = ioctl(device, NEW_BY_DEVICE, flags);
    close(device);
    if (fd >= 0) return fd;
  }
  fd = (int)syscall(SYS_userfaultfd, flags | USER_MODE_ONLY);
  return fd >= 0 ? fd : -errno;
}

int vmm_register(struct vmm *vmm, uint64_t features, uint64_t modes) {
  vmm->uffd = create_userfaultfd();
  if (vmm->uffd < 0) return vmm->uffd;
  struct uffdio_api api = {.api = UFFD_API, .features = features};
  if (ioctl(vmm->uffd, UFFDIO_API, &api) != 0) return -errno;
  for (unsigned i = 0; i < vmm->count; i++) {
    struct uffdio_register range = {.range = {vmm->regions[i].address, vmm->regions[i].length}, .mode = modes};
    if (ioctl(vmm->uffd, UFFDIO_REGISTER, &range) != 0) return -errno;
  }
  return 0;
}

void vmm_unmap(struct vmm *vmm) {
  if (vmm->socket >= 0) close(vmm->socket);
  if (vmm->uffd >= 0) close(vmm->uffd);
  for (unsigned i = 0; i < vmm->count; i++) {
    if (vmm->regions[i].at != NULL) munmap(vmm->regions[i].at, vmm->regions[i].length);
  }
  free((void *)vmm->removed);
  memset(vmm, 0, sizeof(*vmm));
  vmm->uffd = vmm->socket = -1;
}

/* The handshake */

size_t vmm_list(const struct vmm *vmm, unsigned keys, char *text, size_t size) {
  size_t length = (size_t)snprintf(text, size, "[");
  for (unsigned i = 0; i < vmm->count; i++) {
    const struct vmm_region *region = &vmm->regions[i];
    char sizes[128] = "", extra[256] = "";
    if ((keys & VMM_PAGE_SIZE) != 0) {
      snprintf(sizes, sizeof(sizes), ",\"page_size\":%" PRIu64, vmm->page_size);
    }
    if ((keys & VMM_PAGE_SIZE_KIB) != 0) {
      size_t used = strlen(sizes);
      snprintf(sizes + used, sizeof(sizes) - used, ",\"page_size_kib\":%" PRIu64, vmm->page_size);
    }
    if ((keys & VMM_EXTRA_KEYS) != 0) {
      snprintf(
          extra, sizeof(extra), "%s",
          ",\"gpa_start\":0,\"is_guest_memfd\":false,\"note\":\"]}\\\"[{\\\\\",\"nested\":{\"list\":[[1.5],null]}");
    }
    length +=
        (size_t)snprintf(text + length, length < size ? size - length : 0,
                         "%s{\"base_host_virt_addr\":%" PRIu64 ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64 "%s%s}",
                         i == 0 ? "" : ",", region->address, region->length, region->offset, sizes, extra);
  }
  return length + (size_t)snprintf(text + length, length < size ? size - length : 0, "]");
}

int vmm_connect(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) return fd;
  int error = errno;
  close(fd);
  return -error;
}

int vmm_send(int socket, const char *text, size_t length, const int *fds, unsigned count) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(VMM_FDS_MAX * sizeof(int))];
  } control;
  memset(&control, 0, sizeof(control));
  struct iovec data = {(void *)(uintptr_t)text, length};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
  if (count != 0) {
    message.msg_control = control.room;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
  }
  ssize_t sent;
  while ((sent = sendmsg(socket, &message, MSG_NOSIGNAL)) < 0 && errno == EINTR) {
  }
  if (sent < 0) return -errno;
  return (size_t)sent == length ? 0 : -EMSGSIZE;
}

int vmm_hand_over(struct vmm *vmm, const struct vmm_message *message) {
  static const struct vmm_message ordinary = {.keys = VMM_PAGE_SIZE | VMM_PAGE_SIZE_KIB};
  if (message == NULL) message = &ordinary;
  char list[1 << 18];
  size_t length = vmm_list(vmm, message->keys, list, sizeof(list));
  const char *text = message->text != NULL ? message->text : list;
  if (message->text != NULL) length = strlen(text);
  int fds[VMM_FDS_MAX], result = 0;
  unsigned count = 0, pieces = message->pieces != 0 ? message->pieces : 1;
  if (!message->no_fd) fds[count++] = message->instead != 0 ? message->instead : vmm->uffd;
  for (unsigned i = 0; i < message->extra_fds; i++) {
    fds[count++] = memfd_create("extra", MFD_CLOEXEC);
  }
  for (unsigned i = 0; i < pieces && result == 0; i++) {
    size_t from = length * i / pieces, to = length * (i + 1) / pieces;
    result = vmm_send(vmm->socket, text + from, to - from, fds, i == message->fd_piece ? count : 0);
  }
  for (unsigned i = 0; i < message->extra_fds; i++) {
    close(fds[count - 1 - i]);
  }
  return result;
}

/* What the guest does */

unsigned char *vmm_at(const struct vmm *vmm, uint64_t offset) {
  for (unsigned i = 0; i < vmm->count; i++) {
    const struct vmm_region *region = &vmm->regions[i];
    if (offset >= region->offset && offset - region->offset < region->length) {
      return region->at + (offset - region->offset);
    }
  }
  return NULL;
}

/* The image's contents there, and zeros behind its end. */
static unsigned char expected(const struct vmm_work *work, uint64_t offset) {
  return offset < work->image_length ? work->image[offset] : 0;
}

static bool is_image(const unsigned char *at, const struct vmm_work *work, uint64_t offset, uint64_t length) {
  uint64_t inside = offset >= work->image_length ? 0 : work->image_length - offset;
  if (inside > length) inside = length;
  if (memcmp(at, work->image + offset, inside) != 0) return false;
  for (uint64_t i = inside; i < length; i++) {
    if (at[i] != 0) return false;
  }
  return true;
}

static bool is_zero(const unsigned char *at, uint64_t length) {
  return at[0] == 0 && memcmp(at, at + 1, length - 1) == 0;
}

int vmm_page(const struct vmm *vmm, const struct vmm_work *work, uint64_t offset) {
  const unsigned char *at = vmm_at(vmm, offset);
  if (is_image(at, work, offset, vmm->page_size)) return 1;
  return is_zero(at, vmm->page_size) ? 2 : 0;
}

void vmm_remove(struct vmm *vmm, uint64_t offset, uint64_t length) {
  uint64_t first = offset / vmm->page_size, count = length / vmm->page_size;
  for (uint64_t i = 0; i < count; i++) {
    unsigned char never = 0; /* what is zeros already stays so */
    atomic_compare_exchange_strong(&vmm->removed[first + i], &never, 1);
  }
  madvise(vmm_at(vmm, offset), length, MADV_DONTNEED);
  for (uint64_t i = 0; i < count; i++) {
    atomic_store(&vmm->removed[first + i], 2);
  }
}

static uint64_t next_random(uint64_t *state) {
  *state += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t z = *state;
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

struct toucher {
  pthread_t thread;
  struct vmm *vmm;
  const struct vmm_work *work;
  const uint64_t *pages; /* to be touched */
  uint64_t count;
  unsigned index;
  uint64_t wrong;
};

static void tell_wrong(const struct toucher *toucher, uint64_t page, const char *what) {
  if (toucher->wrong != 0) return;
  const struct vmm *vmm = toucher->vmm;
  uint64_t offset = page * vmm->page_size, at = 0;
  const unsigned char *memory = vmm_at(vmm, offset);
  while (at + 1 < vmm->page_size && memory[at] == expected(toucher->work, offset + at)) {
    at++;
  }
  fprintf(stderr, "page %" PRIu64 " (offset %" PRIu64 ") %s: byte %" PRIu64 " is 0x%02x, the image has 0x%02x\n", page,
          offset, what, at, memory[at], expected(toucher->work, offset + at));
}

/* While a page is removed, each of its bytes is the image's or zero. */
static bool is_between(const unsigned char *at, const struct vmm_work *work, uint64_t offset, uint64_t length) {
  for (uint64_t i = 0; i < length; i++) {
    unsigned char byte = *(volatile const unsigned char *)&at[i];
    if (byte != 0 && byte != expected(work, offset + i)) return false;
  }
  return true;
}

static void look(struct toucher *toucher, uint64_t page) {
  const struct vmm *vmm = toucher->vmm;
  uint64_t size = vmm->page_size, offset = page * size;
  const unsigned char *at = vmm_at(vmm, offset);
  const char *wrong = NULL;
  if (atomic_load(&vmm->removed[page]) == 2) {
    if (!is_zero(at, size)) wrong = "is not zeros after its removal";
  } else if (!is_image(at, toucher->work, offset, size)) {
    if (atomic_load(&vmm->removed[page]) == 0) {
      wrong = "is not the image's";
    } else if (!is_between(at, toucher->work, offset, size)) {
      wrong = "is neither the image's nor zeros while it is removed";
    }
  }
  if (wrong == NULL) return;
  tell_wrong(toucher, page, wrong);
  toucher->wrong++;
}

/* Pages that thread index writes: each belongs to one thread, and its first access is the write. */
static bool writes(const struct toucher *toucher, uint64_t page) {
  unsigned threads = toucher->work->threads != 0 ? toucher->work->threads : 1;
  return toucher->work->write && page % 4 == 1 && page / 4 % threads == toucher->index;
}

static void write_and_look(struct toucher *toucher, uint64_t page) {
  const struct vmm *vmm = toucher->vmm;
  uint64_t size = vmm->page_size, offset = page * size, place = page * 61 % size;
  unsigned char *at = vmm_at(vmm, offset), written = (unsigned char)~expected(toucher->work, offset + place);
  *(volatile unsigned char *)(at + place) = written;
  bool kept = is_image(at, toucher->work, offset, place) && at[place] == written &&
              (place + 1 == size || is_image(at + place + 1, toucher->work, offset + place + 1, size - place - 1));
  if (kept) return;
  tell_wrong(toucher, page, "did not keep what was written");
  toucher->wrong++;
}

static bool is_others(const struct toucher *toucher, uint64_t page) {
  return toucher->work->write && page % 4 == 1 && !writes(toucher, page);
}

static void *touch(void *argument) {
  struct toucher *toucher = argument;
  uint64_t random = toucher->work->seed * UINT64_C(1000003) + toucher->index, *order = NULL;
  if (!toucher->work->in_order) order = malloc(toucher->count * sizeof(*order));
  if (order != NULL) {
    memcpy(order, toucher->pages, toucher->count * sizeof(*order));
    for (uint64_t i = toucher->count; i > 1; i--) {
      uint64_t j = next_random(&random) % i, page = order[j];
      order[j] = order[i - 1];
      order[i - 1] = page;
    }
  }
  for (uint64_t i = 0; i < toucher->count; i++) {
    uint64_t page = order != NULL ? order[i] : toucher->pages[i];
    if (is_others(toucher, page)) continue;
    if (writes(toucher, page)) {
      write_and_look(toucher, page);
    } else {
      look(toucher, page);
    }
  }
  free(order);
  return NULL;
}

struct remover {
  pthread_t thread;
  struct vmm *vmm;
  const struct vmm_work *work;
};

static void *remove_pages(void *argument) {
  struct remover *remover = argument;
  struct vmm *vmm = remover->vmm;
  uint64_t random = ~(uint64_t)remover->work->seed;
  for (uint64_t i = 0; i < remover->work->removes; i++) {
    const struct vmm_region *region = &vmm->regions[next_random(&random) % vmm->count];
    uint64_t pages = region->length / vmm->page_size, first = next_random(&random) % pages,
             count = 1 + next_random(&random) % REMOVE_PAGES_MAX;
    if (count > pages - first) count = pages - first;
    vmm_remove(vmm, region->offset + first * vmm->page_size, count * vmm->page_size);
  }
  return NULL;
}

static uint64_t choose_pages(const struct vmm *vmm, const struct vmm_work *work, uint64_t *pages) {
  uint64_t count = 0, random = work->seed, total = vmm_length(vmm) / vmm->page_size;
  for (uint64_t page = 0; page < total; page++) {
    if (work->one_of <= 1 || next_random(&random) % work->one_of == 0) pages[count++] = page;
  }
  return count;
}

uint64_t vmm_work(struct vmm *vmm, const struct vmm_work *work) {
  unsigned threads = work->threads != 0 ? work->threads : 1;
  struct toucher *touchers = calloc(threads, sizeof(*touchers));
  uint64_t *pages = malloc(vmm_length(vmm) / vmm->page_size * sizeof(*pages)), wrong = 0;
  if (touchers == NULL || pages == NULL) abort();
  struct remover remover = {.vmm = vmm, .work = work};
  uint64_t count = choose_pages(vmm, work, pages);
  if (work->removes != 0 && pthread_create(&remover.thread, NULL, remove_pages, &remover) != 0) abort();
  for (unsigned i = 0; i < threads; i++) {
    touchers[i] = (struct toucher){.vmm = vmm, .work = work, .pages = pages, .count = count, .index = i};
    if (pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]) != 0) abort();
  }
  for (unsigned i = 0; i < threads; i++) {
    pthread_join(touchers[i].thread, NULL);
    wrong += touchers[i].wrong;
  }
  if (work->removes != 0) pthread_join(remover.thread, NULL);
  free(pages);
  free(touchers);
  return wrong;
}

/* Images */

static const unsigned char *map_file(int fd, uint64_t length) {
  void *mapped = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  return mapped != MAP_FAILED ? mapped : NULL;
}

const unsigned char *vmm_make_image(const char *path, uint64_t length) {
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return NULL;
  unsigned char piece[65536];
  for (uint64_t at = 0; at < length; at += sizeof(piece)) {
    for (size_t i = 0; i < sizeof(piece); i += 8) {
      uint64_t word = at + i;
      word = next_random(&word) | UINT64_C(0x0101010101010101);
      memcpy(piece + i, &word, 8);
    }
    size_t size = length - at < sizeof(piece) ? (size_t)(length - at) : sizeof(piece);
    if (write(fd, piece, size) != (ssize_t)size) {
      close(fd);
      return NULL;
    }
  }
  return map_file(fd, length);
}

const unsigned char *vmm_open_image(const char *path, uint64_t *length) {
  struct stat status;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return NULL;
  if (fstat(fd, &status) != 0) {
    close(fd);
    return NULL;
  }
  *length = (uint64_t)status.st_size;
  return map_file(fd, *length);
}
