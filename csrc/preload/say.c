/*
 * Text without stdio: everything here may run in a signal handler.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "preload/preload.h"

#define LINE_MAX_BYTES 1024

struct text {
  char *at;
  size_t size, length; /* the last byte is for the end */
};

static void add(struct text *text, const char *piece) {
  while (*piece != '\0' && text->length + 1 < text->size) {
    text->at[text->length++] = *piece++;
  }
}

static void add_number(struct text *text, uint64_t number, unsigned base) {
  char digits[24];
  size_t at = sizeof(digits) - 1;
  digits[at] = '\0';
  do {
    digits[--at] = "0123456789abcdef"[number % base];
    number /= base;
  } while (number != 0);
  add(text, &digits[at]);
}

static void add_error(struct text *text, int error) {
#ifdef __GLIBC__
  const char *name = strerrordesc_np(error); /* strerror() may allocate */
  if (name != NULL) {
    add(text, name);
    return;
  }
#endif
  add(text, "errno ");
  add_number(text, (uint64_t)error, 10);
}

static void add_all(struct text *text, const char *format, va_list values) {
  for (; *format != '\0'; format++) {
    char letter[2] = {*format, '\0'};
    if (*format != '%') {
      add(text, letter);
      continue;
    }
    switch (*++format) {
    case 's':
      add(text, va_arg(values, const char *));
      break;
    case 'u':
      add_number(text, va_arg(values, uint64_t), 10);
      break;
    case 'x':
      add(text, "0x");
      add_number(text, va_arg(values, uint64_t), 16);
      break;
    default:
      add_error(text, va_arg(values, int));
    }
  }
  text->at[text->length] = '\0';
}

/* NOLINTNEXTLINE(readability-non-const-parameter): written through the struct */
size_t uffd_preload_format(char *text, size_t size, const char *format, ...) {
  struct text made = {text, size, 0};
  va_list values;
  va_start(values, format);
  add_all(&made, format, values);
  va_end(values);
  return made.length;
}

/* One write, so that the lines of two processes do not mix. */
static void say(const char *format, va_list values) {
  char line[LINE_MAX_BYTES];
  struct text text = {line, sizeof(line) - 1, 0};
  add(&text, "uffd-preload: ");
  add_all(&text, format, values);
  line[text.length++] = '\n';
  ssize_t written = write(STDERR_FILENO, line, text.length);
  (void)written; /* nobody else can be told */
}

void uffd_preload_say(const char *format, ...) {
  va_list values;
  va_start(values, format);
  say(format, values);
  va_end(values);
}

void uffd_preload_die(int code, const char *format, ...) {
  va_list values;
  va_start(values, format);
  say(format, values);
  va_end(values);
  _exit(code);
}
