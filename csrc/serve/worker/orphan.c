/*
 * Forked children that the supervisor has not answered for yet.
 */
#include "serve/worker/orphan.h"

#include <unistd.h>

#include "base/base.h"
#include "serve/paper/channel.h"

uint64_t uffd_orphan_announce(struct uffd_orphans *orphans, const struct uffd_mouth *mouth, uint64_t parent,
                              int object_fd, uint32_t index) {
  struct uffd_message message = {.kind = UFFD_SAY_FORKED, .client = parent, .flags = index};
  message.number = atomic_fetch_add(&orphans->last_number, 1) + 1;
  BARRIER("announcing", orphans);
  (void)uffd_say_message(mouth, &message, &object_fd, 1);
  BARRIER("announced", orphans);
  return message.number;
}

int uffd_orphan_tell(struct uffd_orphans *orphans, const struct uffd_mouth *mouth, uint64_t parent, uint64_t number,
                     uint64_t image, int object_fd, int book_fd) {
  struct uffd_orphan *orphan = NEW(struct uffd_orphan);
  if (orphan == NULL) return -ENOMEM;
  struct uffd_message message = {.kind = UFFD_SAY_BOOK, .client = parent, .number = number};
  *orphan = (struct uffd_orphan){.number = number, .image = image, .object_fd = object_fd, .book_fd = book_fd};
  pthread_mutex_lock(&orphans->lock);
  orphan->next = orphans->list;
  orphans->list = orphan;
  pthread_mutex_unlock(&orphans->lock);
  if (uffd_say_message(mouth, &message, &book_fd, 1)) return 0;
  uint64_t one = 1; /* there is no supervisor: the main thread keeps the child */
  (void)!write(orphans->wake_fd, &one, sizeof(one));
  return 0;
}

static struct uffd_orphan *take(struct uffd_orphans *orphans, uint64_t number, bool any) {
  pthread_mutex_lock(&orphans->lock);
  struct uffd_orphan **at = &orphans->list;
  while (*at != NULL && (*at)->number != number && !any) {
    at = &(*at)->next;
  }
  struct uffd_orphan *orphan = *at;
  if (orphan != NULL) *at = orphan->next;
  pthread_mutex_unlock(&orphans->lock);
  return orphan;
}

struct uffd_orphan *uffd_orphan_take(struct uffd_orphans *orphans, uint64_t number) {
  return take(orphans, number, false);
}

struct uffd_orphan *uffd_orphan_take_any(struct uffd_orphans *orphans) {
  return take(orphans, 0, true);
}

bool uffd_orphans_of(struct uffd_orphans *orphans, uint64_t image) {
  pthread_mutex_lock(&orphans->lock);
  const struct uffd_orphan *orphan = orphans->list;
  while (orphan != NULL && orphan->image != image) {
    orphan = orphan->next;
  }
  pthread_mutex_unlock(&orphans->lock);
  return orphan != NULL;
}
