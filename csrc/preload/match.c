/*
 * The mappings that the user named. uffd-lua has checked what it put into the environment: a line for each match, of
 * fields that are separated by tabs, numbers decimal: "size=268435456", "name=ram", "order=2", "low=0", "high=4096",
 * "offset=0".
 */
#include <string.h>

#include "preload/preload.h"

static uint64_t read_number(const char *digits) {
  uint64_t number = 0;
  while (*digits >= '0' && *digits <= '9') {
    number = number * 10 + (uint64_t)(*digits++ - '0');
  }
  return number;
}

static const char *value_of(const char *field, const char *key) {
  size_t length = strlen(key);
  return strncmp(field, key, length) == 0 && field[length] == '=' ? field + length + 1 : NULL;
}

static void read_field(struct uffd_match *match, const char *field) {
  const char *value;
  if ((value = value_of(field, "size")) != NULL) {
    match->size = read_number(value);
  } else if ((value = value_of(field, "low")) != NULL) {
    match->low = read_number(value);
  } else if ((value = value_of(field, "high")) != NULL) {
    match->high = read_number(value);
  } else if ((value = value_of(field, "order")) != NULL) {
    match->order = (uint32_t)read_number(value);
  } else if ((value = value_of(field, "offset")) != NULL) {
    match->offset = read_number(value);
    match->has_offset = true;
  } else if ((value = value_of(field, "name")) != NULL) {
    uffd_preload_format(match->name, sizeof(match->name), "%s", value);
  }
}

unsigned uffd_matches_read(const char *text, struct uffd_match *matches) {
  unsigned count = 0;
  while (*text != '\0' && count < UFFD_MATCHES_MAX) {
    struct uffd_match *match = &matches[count];
    size_t line = strcspn(text, "\n");
    for (size_t at = 0; at < line;) {
      char field[UFFD_NAME_MAX + 16] = "";
      size_t length = strcspn(text + at, "\t\n");
      memcpy(field, text + at, length < sizeof(field) ? length : sizeof(field) - 1);
      read_field(match, field);
      at += length + 1;
    }
    count++;
    text += line + (text[line] == '\n');
  }
  return count;
}

/* A memfd's name, a file's path, or the last part of the path. */
static bool is_name(const char *name, const char *path) {
  const char *slash = strrchr(path, '/');
  return strcmp(name, path) == 0 || (slash != NULL && strcmp(name, slash + 1) == 0);
}

bool uffd_match_fits(const struct uffd_match *match, const struct uffd_mapping *mapping, bool mapped) {
  if (match->size != 0 && match->size != mapping->length) return false;
  if (match->name[0] != '\0' && !is_name(match->name, mapping->name)) return false;
  if (!mapped || match->high == 0) return true;
  return mapping->address >= match->low && mapping->address + mapping->length <= match->high;
}
