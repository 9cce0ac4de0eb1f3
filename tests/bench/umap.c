/*
 * UMap's way, written from its description: pread of a whole page of its own size into a buffer, then COPY that arrives
 * write-protected. A fault on a page that is being filled is dropped, because COPY wakes all who wait for it.
 */
#include "umap.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "baseline.h"
#include "image.h"
#include "raw.h"

#define FILLERS  2
#define MESSAGES 16
#define QUEUE    4096

struct umap {
  int fd;
  const struct plan *plan;
  const char *memory;
  uint64_t page; /* bytes */
  pthread_mutex_t lock;
  pthread_cond_t wanted;
  uint64_t queue[QUEUE]; /* offsets of pages; each is in it once, so it cannot run over */
  uint64_t first, last;
  bool stop;
  unsigned char *asked; /* one byte a page: it was queued */
};

static void *fill_pages(void *argument) {
  struct umap *umap = argument;
  char *buffer = aligned_alloc(PAGE, umap->page);
  if (buffer == NULL) die("no memory");
  pthread_mutex_lock(&umap->lock);
  for (;;) {
    while (umap->first == umap->last && !umap->stop) {
      pthread_cond_wait(&umap->wanted, &umap->lock);
    }
    if (umap->stop) break;
    uint64_t offset = umap->queue[umap->first++ % QUEUE];
    pthread_mutex_unlock(&umap->lock);
    if (pread(umap->plan->image->fd, buffer, umap->page, (off_t)offset) != (ssize_t)umap->page) die("pread: %m");
    struct uffdio_copy copy = {.dst = (uintptr_t)umap->memory + offset,
                               .src = (uintptr_t)buffer,
                               .len = umap->page,
                               .mode = UFFDIO_COPY_MODE_WP};
    if (ioctl(umap->fd, UFFDIO_COPY, &copy) != 0) die("UFFDIO_COPY: %m");
    pthread_mutex_lock(&umap->lock);
  }
  pthread_mutex_unlock(&umap->lock);
  free(buffer);
  return NULL;
}

static void take(struct umap *umap, const struct uffd_msg *message) {
  if (message->event != UFFD_EVENT_PAGEFAULT) return;
  uint64_t offset = (message->arg.pagefault.address - (uintptr_t)umap->memory) / umap->page * umap->page;
  if (umap->asked[offset / umap->page] != 0) { /* being filled, or filled since the message */
    struct uffdio_range range = {message->arg.pagefault.address & ~(PAGE - 1), PAGE};
    ioctl(umap->fd, UFFDIO_WAKE, &range);
    return;
  }
  umap->asked[offset / umap->page] = 1;
  pthread_mutex_lock(&umap->lock);
  umap->queue[umap->last++ % QUEUE] = offset;
  pthread_cond_signal(&umap->wanted);
  pthread_mutex_unlock(&umap->lock);
}

static void *read_faults(void *argument) {
  struct umap *umap = argument;
  for (;;) {
    struct pollfd poll_fd = {.fd = umap->fd, .events = POLLIN};
    struct uffd_msg messages[MESSAGES];
    if (poll(&poll_fd, 1, -1) != 1) die("poll: %m"); /* the thread is cancelled here */
    ssize_t length = read(umap->fd, messages, sizeof(messages));
    for (ssize_t i = 0; i < length / (ssize_t)sizeof(messages[0]); i++) {
      take(umap, &messages[i]);
    }
  }
  return NULL;
}

void umap(const struct plan *plan, bool check, double figures[FIGURES]) {
  struct umap *umap = calloc(1, sizeof(*umap));
  pthread_t reader, fillers[FILLERS];
  char *memory = map_fresh(plan->length, false);
  if (umap == NULL) die("no memory");
  umap->fd = raw_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
  umap->plan = plan;
  umap->memory = memory;
  umap->page = plan->around;
  umap->asked = calloc(plan->length / plan->around, 1);
  if (umap->asked == NULL) die("no memory");
  pthread_mutex_init(&umap->lock, NULL);
  pthread_cond_init(&umap->wanted, NULL);
  raw_register(umap->fd, memory, plan->length, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
  if (pthread_create(&reader, NULL, read_faults, umap) != 0) die("no thread");
  for (int i = 0; i < FILLERS; i++) {
    if (pthread_create(&fillers[i], NULL, fill_pages, umap) != 0) die("no thread");
  }
  plan_touch(plan, memory, figures);
  if (check) plan_check(plan, memory);
  pthread_cancel(reader);
  pthread_join(reader, NULL);
  pthread_mutex_lock(&umap->lock);
  umap->stop = true;
  pthread_cond_broadcast(&umap->wanted);
  pthread_mutex_unlock(&umap->lock);
  for (int i = 0; i < FILLERS; i++) {
    pthread_join(fillers[i], NULL);
  }
  close(umap->fd);
  unmap(memory, plan->length);
  free(umap->asked);
  free(umap);
}
