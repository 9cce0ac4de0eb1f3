/*
 * No control characters.
 */
#include "serve/paper/printable.h"

void uffd_printable(const char *from, char *to, size_t room) {
  size_t length = 0;
  for (const char *at = from; *at != '\0' && length + 1 < room; at++) {
    to[length++] = (char)(*at >= 0x20 && *at < 0x7f ? *at : '?');
  }
  to[length] = '\0';
}
