/*
 * Decoding ahead: threads of an image decode what handlers have said that they will ask for, while the handlers install
 * what was decoded before. For prefetch alone: whoever waits for a page does not wait for these threads.
 */
#ifndef UFFD_IMAGE_AHEAD_H
#define UFFD_IMAGE_AHEAD_H

#include "image/image.h"

struct uffd_ahead;       /* an image's threads */
struct uffd_ahead_queue; /* one handler's: what it will ask for, and what of it is decoded */

/*
 * Starts threads that read image. NULL, when none is of use (nothing is compressed, frames are long, or a layer lies
 * elsewhere, whose fetch thread decodes), or none can be started: then handlers decode by themselves.
 */
struct uffd_ahead *uffd_ahead_start(const uffd_image *image);
/* No queue is left. In a forked child the threads are not there. NULL is allowed. */
void uffd_ahead_end(struct uffd_ahead *ahead);

/* A queue for a handler with this bell, which is rung in any thread; NULL: no memory. Not in handlers. */
struct uffd_ahead_queue *uffd_ahead_join(struct uffd_ahead *ahead, const struct uffd_bell *bell);
/* Waits for the threads that decode for it. NULL is allowed. Not in handlers. */
void uffd_ahead_leave(struct uffd_ahead_queue *queue);

/* The handler's, none of which waits. [offset, offset+length) of the image will be asked for soon. */
void uffd_ahead_want(struct uffd_ahead_queue *queue, uint64_t offset, uint64_t length);
/*
 * 1: the answer holds the fault's page, as much of the cover as is there, and its bytes stay until the next call. 0:
 * the page was not decoded ahead. -EAGAIN: a thread is decoding it, and will ring the handler. reader: the handler's,
 * with which it may decode something that comes later.
 */
int uffd_ahead_take(struct uffd_ahead_queue *queue, struct uffd_reader *reader, const struct uffd_fault *fault,
                    struct uffd_answer *answer);
/* The handler has nothing to do: what was decoded, and nobody asked for, is dropped. 1: call it again, 0: all is tidy.
 */
int uffd_ahead_tidy(struct uffd_ahead_queue *queue);

#endif
