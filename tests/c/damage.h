/*
 * Handshakes that are damaged in every way, for tests of programs that receive them.
 */
#ifndef UFFD_TESTS_DAMAGE_H
#define UFFD_TESTS_DAMAGE_H

#include <stdint.h>

#include "vmm.h"

/* How many of them a test sends: fewer where a sanitizer makes each slow. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DAMAGED 2000
#else
#define DAMAGED 10000
#endif

uint64_t damage_draw(uint64_t *random, uint64_t below);
/*
 * Sends the VMM's list over its socket in up to three pieces, one time in four undamaged. With it goes its userfaultfd,
 * the descriptor other, several descriptors, or none.
 */
void damage_send(uint64_t *random, const struct vmm *vmm, int other);

#endif
