/*
 * Failures of a client's loop on their way to the supervisor.
 */
#include "serve/worker/flaws.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

void uffd_flaws_note(void *ctx, int level, const char *sentence) {
  struct uffd_flaws *flaws = ctx;
  uint64_t index = atomic_load_explicit(&flaws->written, memory_order_relaxed);
  (void)level;
  if (index - atomic_load_explicit(&flaws->told, memory_order_acquire) >= UFFD_FLAWS) {
    atomic_fetch_add_explicit(&flaws->missed, 1, memory_order_relaxed);
    return;
  }
  snprintf(flaws->texts[index % UFFD_FLAWS], UFFD_MESSAGE_TEXT, "%s", sentence);
  atomic_store_explicit(&flaws->written, index + 1, memory_order_release);
}

void uffd_flaws_tell(struct uffd_flaws *flaws, const struct uffd_mouth *mouth, uint64_t client, int error) {
  uint64_t told = atomic_load_explicit(&flaws->told, memory_order_relaxed);
  while (told < atomic_load_explicit(&flaws->written, memory_order_acquire)) {
    uffd_say(mouth, UFFD_SAY_ERROR, client, told == 0 && error != 0 ? error : EIO, flaws->texts[told % UFFD_FLAWS]);
    atomic_store_explicit(&flaws->told, ++told, memory_order_release);
  }
  uint64_t missed = atomic_load_explicit(&flaws->missed, memory_order_relaxed);
  if (missed == flaws->missed_told) return;
  char text[64];
  snprintf(text, sizeof(text), "Another %" PRIu64 " of its pages failed.", missed - flaws->missed_told);
  flaws->missed_told = missed;
  uffd_say(mouth, UFFD_SAY_ERROR, client, EIO, text);
}
