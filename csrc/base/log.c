/*
 * The user's log hook. Silence unless one is set.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/base.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* keeps the pair together; never held over the hook */
static uffd_log_fn *hook;
static void *hook_ctx;

void uffd_set_log(uffd_log_fn *fn, void *ctx) {
  pthread_mutex_lock(&lock);
  hook = fn;
  hook_ctx = ctx;
  pthread_mutex_unlock(&lock);
}

void uffd_log(int level, const char *format, ...) {
  pthread_mutex_lock(&lock);
  uffd_log_fn *fn = hook;
  void *ctx = hook_ctx;
  pthread_mutex_unlock(&lock);
  if (fn == NULL) return;
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  fn(ctx, level, text);
}
