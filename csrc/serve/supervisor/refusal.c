/*
 * Why connections and handshakes are refused: errnos, and the words for them.
 */
#include "serve/supervisor/refusal.h"

#include <errno.h>
#include <stdbool.h>

/* The last word is for all other errnos. */
static const struct {
  const char *name;
  int errors[6];
} reasons[UFFD_REFUSALS] = {
    {"not_allowed", {EACCES, EPERM}}, /* the peer's user */
    {"limit", {EBUSY}},               /* more clients or connections than max_clients lets in */
    {"descriptors", {EMFILE, ENFILE}},
    {"memory", {ENOMEM}},
    {"draining", {ESHUTDOWN}},
    {"twice", {EEXIST}},                          /* a userfaultfd that is served already, with other regions */
    {"image", {ESTALE, ENOENT, ENOTDIR, EISDIR}}, /* it is being changed, or there is none for this client */
    {"timeout", {ETIMEDOUT}},                     /* no whole handshake in time */
    {"handshake", {EINVAL, EPROTO, EMSGSIZE, EBADF, E2BIG, ESRCH}},
    {"other", {0}},
};

const char *uffd_refusal_name(uint32_t reason) {
  return reasons[reason].name;
}

static bool has(uint32_t reason, int error) {
  for (int i = 0; i < 6; i++) {
    if (reasons[reason].errors[i] == error) return true;
  }
  return false;
}

uint32_t uffd_refusal_of(int error) {
  uint32_t reason = 0;
  while (reason < UFFD_REFUSALS - 1 && !has(reason, error)) {
    reason++;
  }
  return reason;
}
