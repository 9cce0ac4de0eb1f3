/*
 * The images of the pager: new clients get the current one, the others go on with theirs.
 */
#ifndef UFFD_SERVE_SUPERVISOR_IMAGE_H
#define UFFD_SERVE_SUPERVISOR_IMAGE_H

#include "serve/paper/backing.h"
#include "serve/supervisor/worker.h"

struct uffd_image {
  struct uffd_image *next; /* an older one */
  struct uffd_backing backing;
  enum uffd_backing_state state; /* when it was last looked at */
  uint32_t clients_count;
};

/* Opens an image, and a working set of it (NULL: none). Waits for the disk. Errors: those of opening them. */
int uffd_image_load(const char *const *paths, const char *replay, struct uffd_backing *backing);
/*
 * An image that a helper has opened, as its answer; takes the descriptors. *taken is the one that is held already where
 * it is the same file, unchanged; it stays while it has clients.
 */
int uffd_image_take(uffd_pager *pager, const struct uffd_message *message, int *fds, struct uffd_image **taken);
void uffd_images_drop_unused(uffd_pager *pager); /* those that no client has and no new one gets */
/*
 * Makes the layers, whose paths are up to NULL, the current image. replay: path of a working set of it, or NULL.
 * Errors: those of opening them.
 */
int uffd_image_change(uffd_pager *pager, const char *const *paths, const char *replay);
/* An image that a dead supervisor had: its message to workers. Takes the descriptors when it succeeds. */
int uffd_image_adopt(uffd_pager *pager, const struct uffd_message *message, int *fds);
/* The same by a helper, as uffd_pager_images() does. -EBUSY one is being opened; -ENOMEM; ... */
int uffd_image_begin(uffd_pager *pager, const char *const *paths);
struct uffd_image *uffd_image_find(const uffd_pager *pager, uint64_t number); /* NULL: none */
/* The one whose shared pages have this token. -ESTALE with a sentence: there is none. */
int uffd_image_of_token(const uffd_pager *pager, uint64_t token, struct uffd_image **found);
/* A descriptor, for a client, of the pages that the current image shares. -ENODATA, -EOPNOTSUPP it shares none. */
int uffd_image_lend(const uffd_pager *pager, int *fd);
/* Does a helper open another one: see uffd_pager_image()? False, and the sentence of the last failure, or "". */
bool uffd_images_opening(const uffd_pager *pager, const char **why);
void uffd_image_drop(uffd_pager *pager, struct uffd_image *image); /* a client of it has ended. NULL is allowed */
void uffd_images_look(uffd_pager *pager, uint64_t now); /* has one been changed, or does somebody want to? Reports it */
uint64_t uffd_images_due(const uffd_pager *pager);      /* when to look again */
/* Tells a worker of the images that it does not know. False: not all of it fits now. */
bool uffd_images_tell(uffd_pager *pager, struct uffd_worker *worker);
void uffd_images_forget(uffd_pager *pager); /* closes and frees all */

#endif
