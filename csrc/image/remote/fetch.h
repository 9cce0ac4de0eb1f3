/*
 * What the readers of a remote source and its fetch thread share. Units are what the cache knows: frames of a zstd
 * file, chunks of 64 KiB of any other.
 */
#ifndef UFFD_IMAGE_REMOTE_FETCH_H
#define UFFD_IMAGE_REMOTE_FETCH_H

#include "image/remote/remote.h"

/* How much somebody wants a unit. */
enum { UFFD_WANT_NOT = 0, UFFD_WANT_SOON = 1, UFFD_WANT_NOW = 2, UFFD_WANT_AGAIN = 3 /* the cache cannot be read */ };

/* One unit. */
struct uffd_unit {
  _Atomic uint32_t next;  /* in the stack of what was asked for: the unit after it + 1, 0 the last */
  _Atomic uint8_t queued; /* is in that stack */
  _Atomic uint8_t want;   /* UFFD_WANT_*: raised by readers, taken by the fetch thread */
  _Atomic uint8_t mark;   /* its first reader asks the fetch thread to go on ahead */
  _Atomic uint8_t failed; /* there is a failure of it */
  /* The fetch thread's own: */
  uint8_t phase;
  uint8_t listed;  /* is in the list of demands, perhaps although its phase is another by now */
  uint8_t level;   /* of what is wanted */
  uint8_t alone;   /* another process takes too long: it is fetched here too */
  uint32_t follow; /* in the list of demands: the unit after it + 1 */
  uint64_t since;  /* when it was demanded first, ns */
};

/*
 * Why a unit could not be fetched. Failures are not remembered: who sleeps is told of those since it asked, who has a
 * bell of those of the last UFFD_FAILURE_NS, since it is asked again by others.
 */
#define UFFD_FAILURE_NS UINT64_C(2000000000)
struct uffd_unit_failure {
  uint64_t unit; /* + 1; 0: none */
  uint64_t at_ns;
  int error;
  char words[512];
};
#define UFFD_FAILURES 64u

/* Units that the cache has no room for: a slot each, the same for units that are so many apart. */
struct uffd_spill {
  int fd; /* -1: not needed so far */
  uint64_t slots, slot_bytes;
  _Atomic uint64_t *holds; /* unit + 1 in the low 40 bits, a count above; 0 there: nothing */
};

struct uffd_fetching {
  struct uffd_source head;
  struct uffd_remote *remote;
  struct uffd_cache *cache;
  struct uffd_frames frames;         /* count 0: the bytes themselves */
  struct uffd_chunk_digests digests; /* count 0: none */
  uint64_t process;
  uint64_t count; /* of units */
  struct uffd_unit *units;
  struct uffd_spill spill;
  _Atomic uint32_t asked; /* the top of the stack: unit + 1 */
  _Atomic uint32_t news;  /* counts what became known; a futex for readers that sleep */
  _Atomic bool stop;
  int wake_fd;
  pthread_t thread;
  bool started;
  _Atomic uint64_t requests, retries, fetched_bytes;
  pthread_mutex_t lock; /* of what follows; never held while served memory is touched */
  struct uffd_bell **bells;
  size_t bells_count, bells_room;
  struct uffd_unit_failure failures[UFFD_FAILURES];
};

/* units.c: where a unit lies in the stream, and which bytes of the file it is made of. */
struct uffd_extent {
  uint64_t offset, length;
};
struct uffd_extent uffd_unit_stream(const struct uffd_fetching *fetching, uint64_t unit);
struct uffd_extent uffd_unit_file(const struct uffd_fetching *fetching, uint64_t unit);
uint64_t uffd_unit_at(const struct uffd_fetching *fetching, uint64_t offset);

/* Any thread: asks for a unit. */
void uffd_fetching_ask(struct uffd_fetching *fetching, uint64_t number, uint8_t want);

/* spill.c: true, and the bytes, if they are there. Any thread. */
bool uffd_spill_read(const struct uffd_spill *spill, uint64_t unit, uint64_t from, void *buffer, uint64_t length);
bool uffd_spill_has(const struct uffd_spill *spill, uint64_t unit);
/* The fetch thread: 0, or -errno and a sentence. */
int uffd_spill_make(struct uffd_spill *spill, uint64_t longest);
int uffd_spill_put(struct uffd_spill *spill, uint64_t unit, const void *bytes, uint64_t length);
void uffd_spill_free(struct uffd_spill *spill);

/* fetch.c: the thread. */
void *uffd_fetching_run(void *fetching);

#endif
