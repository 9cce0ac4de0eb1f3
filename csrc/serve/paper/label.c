/*
 * Labels of clients: checked where they come in, because they are shown on terminals and become parts of paths.
 */
#include "serve/paper/label.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/base.h"
#include "uffd_pager.h"

/* The character at text and its bytes, of at most `room`; 0 bytes: it is not UTF-8. */
static size_t read_character(const unsigned char *text, size_t room, uint32_t *character) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t length = text[0] < 0x80 ? 1 : text[0] < 0xc0 ? 0 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
  if (length == 0 || length > room || text[0] > 0xf4) return 0;
  *character = length == 1 ? text[0] : text[0] & (0x7fu >> length);
  for (size_t i = 1; i < length; i++) {
    if ((text[i] & 0xc0) != 0x80) return 0;
    *character = *character << 6 | (text[i] & 0x3fu);
  }
  bool valid = *character >= least[length] && *character <= 0x10ffff && (*character < 0xd800 || *character > 0xdfff);
  return valid ? length : 0;
}

/* C0, DEL and C1: a terminal obeys them. */
static bool is_control(uint32_t character) {
  return character < ' ' || (character >= 0x7f && character < 0xa0);
}

int uffd_label_check(const char *label, size_t length) {
  bool good = length < UFFD_LABEL;
  for (size_t at = 0; good && at < length;) {
    uint32_t character = 0;
    size_t bytes = read_character((const unsigned char *)label + at, length - at, &character);
    good = bytes != 0 && !is_control(character);
    at += bytes;
  }
  return good ? 0 : fail(EINVAL, "A label has at most %d bytes of UTF-8, and no control characters.", UFFD_LABEL - 1);
}
