/*
 * The sentence that goes with a failure: one for each thread, kept until the thread's next failure.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernel/support.h"

#define STRINGIFY(x)     #x
#define VERSION(x, y, z) STRINGIFY(x) "." STRINGIFY(y) "." STRINGIFY(z)

/* Reached from signal handlers: the ordinary model may allocate at a thread's first access. */
static _Thread_local __attribute__((tls_model("initial-exec"))) char sentence[768];

const char *uffd_version(void) {
  return VERSION(UFFD_VERSION_MAJOR, UFFD_VERSION_MINOR, UFFD_VERSION_PATCH);
}

const char *uffd_errmsg(void) {
  return sentence[0] != '\0' ? sentence : "no error";
}

int uffd_set_errmsg(int error, const char *format, ...) {
  /* Built aside, because an argument may well be the present sentence. */
  char text[sizeof(sentence)];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  memcpy(sentence, text, sizeof(sentence));
  return -error;
}
