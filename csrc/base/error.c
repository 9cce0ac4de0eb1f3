/*
 * The sentence that goes with a failure: one for each thread, kept until the thread's next failure.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

#define STRINGIFY(x)     #x
#define VERSION(x, y, z) STRINGIFY(x) "." STRINGIFY(y) "." STRINGIFY(z)

/* Signal handlers use these variables. The default TLS model may allocate at a thread's first access. */
static _Thread_local __attribute__((tls_model("initial-exec"))) char sentence[sizeof(struct uffd_sentence)];
static _Thread_local __attribute__((tls_model("initial-exec"))) uint32_t sentences;

const char *uffd_version(void) {
  return VERSION(UFFD_VERSION_MAJOR, UFFD_VERSION_MINOR, UFFD_VERSION_PATCH);
}

const char *uffd_errmsg(void) {
  return sentence[0] != '\0' ? sentence : "no error";
}

int uffd_set_errmsg(int error, const char *format, ...) {
  /* The text is made in a buffer first, because an argument may be the present sentence. */
  char text[sizeof(sentence)];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  memcpy(sentence, text, sizeof(sentence));
  sentences++;
  return -error;
}

/*
 * strerror() looks for a translation and takes locks for it, which the thread may hold that a signal handler has
 * interrupted.
 */
const char *uffd_error_text(int error) {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 32)
  const char *text = strerrordesc_np(error);
  return text != NULL ? text : "unknown error";
#else
  return strerror(error);
#endif
}

uint32_t uffd_count_sentences(void) {
  return sentences;
}

struct uffd_sentence uffd_keep_sentence(void) {
  struct uffd_sentence kept;
  snprintf(kept.text, sizeof(kept.text), "%s", uffd_errmsg());
  return kept;
}

void uffd_restore_sentence(const struct uffd_sentence *sentence_kept) {
  uffd_set_errmsg(0, "%s", sentence_kept->text);
}
