/*
 * The first failure is written once; every failure is said to the log.
 */
#include "loop/pages/failure.h"

#include <stdio.h>

static bool keep_first(struct uffd_failure *failure, int error) {
  int none = 0;
  if (!atomic_compare_exchange_strong(&failure->state, &none, 1)) return false;
  failure->error = error;
  snprintf(failure->text, sizeof(failure->text), "%s", uffd_errmsg());
  atomic_store_explicit(&failure->state, 2, memory_order_release);
  return true;
}

void uffd_failure_say(const struct uffd_failure *failure) {
  uffd_log(UFFD_LOG_ERROR, "%s", uffd_errmsg());
  if (failure->log != NULL) failure->log(failure->log_ctx, UFFD_LOG_ERROR, uffd_errmsg());
}

void uffd_failure_note(struct uffd_failure *failure, int error, bool repeats) {
  bool first = keep_first(failure, error);
  if (!repeats || first) uffd_failure_say(failure);
}

int uffd_failure_tell(const struct uffd_failure *failure, char *text, size_t length) {
  bool failed = atomic_load_explicit(&failure->state, memory_order_acquire) == 2;
  if (text != NULL && length != 0) snprintf(text, length, "%s", failed ? failure->text : "");
  return failed ? failure->error : 0;
}
