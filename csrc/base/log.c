/*
 * The user's log hook. Nothing is logged unless one is set.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/base.h"

/*
 * The present pair is hooks[version % 2]. A new pair is written beside it before version changes. So a signal handler
 * that interrupts the writer reads a whole pair, and waits for nobody.
 */
static struct {
  _Atomic(uffd_log_fn *) fn;
  _Atomic(void *) ctx;
} hooks[2];
static _Atomic uint32_t version;
static struct uffd_lock writing = UFFD_LOCK_INIT;

void uffd_set_log(uffd_log_fn *fn, void *ctx) {
  uffd_lock(&writing);
  uint32_t next = atomic_load(&version) + 1;
  atomic_store(&hooks[next % 2].fn, fn);
  atomic_store(&hooks[next % 2].ctx, ctx);
  BARRIER("log", NULL);
  atomic_store(&version, next);
  uffd_unlock(&writing);
}

void uffd_log(int level, const char *format, ...) {
  uffd_log_fn *fn;
  void *ctx;
  uint32_t seen;
  do { /* a pair is overwritten only after version has gone on */
    seen = atomic_load(&version);
    fn = atomic_load(&hooks[seen % 2].fn);
    ctx = atomic_load(&hooks[seen % 2].ctx);
  } while (atomic_load(&version) != seen);
  if (fn == NULL) return;
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  fn(ctx, level, text);
}
