/*
 * Damaged handshakes: see damage.h.
 */
#define _GNU_SOURCE
#include "damage.h"

#include "base/base.h"
#include "check.h"

uint64_t damage_draw(uint64_t *random, uint64_t below) {
  *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (*random >> 33) % below;
}

/* A list, damaged in some way, or not at all. */
static size_t damage(uint64_t *random, char *text, size_t length, size_t size) {
  switch (damage_draw(random, 8)) {
  case 0: /* cut short */
    return damage_draw(random, length) + 1;
  case 1: /* a byte turned into another */
    text[damage_draw(random, length)] = (char)damage_draw(random, 256);
    return length;
  case 2: { /* a piece twice */
    size_t from = damage_draw(random, length),
           piece = min_u64(damage_draw(random, 64), min_u64(length - from, size - length));
    memmove(text + from + piece, text + from, length - from);
    return length + piece;
  }
  case 3: { /* a piece gone */
    size_t from = damage_draw(random, length - 1), piece = min_u64(damage_draw(random, 64), length - from - 1);
    memmove(text + from, text + from + piece, length - from - piece);
    return length - piece;
  }
  case 4: { /* digits in another order: other numbers */
    size_t at_byte = damage_draw(random, length);
    for (size_t i = at_byte; i < length; i++) {
      if (text[i] >= '0' && text[i] <= '9') text[i] = (char)('0' + damage_draw(random, 10));
    }
    return length;
  }
  case 5: /* noise */
    for (size_t i = 0; i < length; i++) {
      text[i] = (char)damage_draw(random, 256);
    }
    return length;
  default:
    return length;
  }
}

/* The userfaultfd, or something else, or nothing; and more of the kind. */
static unsigned choose_fds(uint64_t *random, const struct vmm *vmm, int other, int *fds) {
  unsigned count =
      (unsigned)damage_draw(random, 3) == 0 ? (unsigned)damage_draw(random, 24) : (unsigned)damage_draw(random, 3);
  for (unsigned i = 0; i < count; i++) {
    fds[i] = damage_draw(random, 4) != 0 ? vmm->uffd : other;
  }
  return count;
}

void damage_send(uint64_t *random, const struct vmm *vmm, int other) {
  char text[8192];
  int fds[VMM_FDS_MAX];
  unsigned keys = (unsigned)damage_draw(random, 8);
  size_t length = vmm_list(vmm, keys, text, sizeof(text) / 2);
  length = damage(random, text, length, sizeof(text));
  unsigned count = choose_fds(random, vmm, other, fds), pieces = 1 + (unsigned)damage_draw(random, 3),
           fd_piece = (unsigned)damage_draw(random, pieces);
  for (unsigned i = 0; i < pieces; i++) {
    size_t from = length * i / pieces, to = length * (i + 1) / pieces;
    if (from == to) continue;
    int result = vmm_send(vmm->socket, text + from, to - from, fds, i == fd_piece ? count : 0);
    CHECK(result == 0 || result == -EPIPE || result == -ECONNRESET); /* refused before its end */
  }
}
