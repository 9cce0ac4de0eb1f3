/*
 * Spare objects for the children that FORK events bring. They lie in mapped pages, not in malloc's memory, because
 * glibc's fork() holds malloc's locks while it waits for the reader. The last object that leaves unmaps the pages.
 */
#include "kernel/object.h"

#define NURSERY_BYTES (8 * BASE_PAGE) /* touched only as far as it is used */

struct uffd_nursery {
  _Atomic uint32_t members; /* living children, and the parent while it takes spares from here */
  uint32_t taken, room;     /* the parent's reader */
  struct uffd_object objects[];
};

int uffd_reserve_spares(struct uffd_object *object, unsigned count) {
  if ((object->features & UFFD_FEAT_EVENT_FORK) == 0) return 0;
  struct uffd_nursery *present = object->nursery;
  if (present != NULL && present->room - present->taken >= count) return 0;
  struct uffd_nursery *made = uffd_pages_map(NURSERY_BYTES);
  if (made == NULL) return fail(ENOMEM, "No memory for the objects of forked children.");
  made->room = (uint32_t)((NURSERY_BYTES - sizeof(*made)) / sizeof(made->objects[0]));
  atomic_store(&made->members, 1);
  object->nursery = made;
  uffd_leave_nursery(present);
  return 0;
}

struct uffd_object *uffd_take_spare(struct uffd_object *object) {
  struct uffd_nursery *nursery = object->nursery;
  if (nursery == NULL || nursery->taken == nursery->room) return NULL;
  struct uffd_object *spare = &nursery->objects[nursery->taken++];
  atomic_fetch_add(&nursery->members, 1);
  spare->home = nursery;
  return spare;
}

void uffd_leave_nursery(struct uffd_nursery *nursery) {
  if (nursery != NULL && atomic_fetch_sub(&nursery->members, 1) == 1) uffd_pages_unmap(nursery, NURSERY_BYTES);
}

_Static_assert(NURSERY_BYTES / sizeof(struct uffd_object) > UFFD_READ_MAX, "a whole read of FORK messages finds room");
