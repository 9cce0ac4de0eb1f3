/*
 * Templates of paths. What a client says of itself becomes part of a path here: a value is one name of a directory or
 * file, or a part of one, and never leads elsewhere.
 */
#include "serve/paper/template.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "uffd_pager.h"

#define FIELDS "{label}, {socket}, {uid}, {gid} and {pid}"

bool uffd_is_template(const char *path) {
  return path != NULL && strpbrk(path, "{}") != NULL;
}

/* The socket's name without its directory and without ".socket" or ".sock". */
static void name_socket(const char *path, char *name, size_t size) {
  const char *slash = strrchr(path, '/');
  snprintf(name, size, "%s", slash != NULL ? slash + 1 : path);
  char *end = strrchr(name, '.');
  if (end != NULL && end != name && (strcmp(end, ".sock") == 0 || strcmp(end, ".socket") == 0)) *end = '\0';
}

/* False: there is no such field. */
static bool find_value(const char *field, size_t length, const struct uffd_client *client, char *value, size_t size) {
  const struct {
    const char *name;
    uint64_t number;
  } numbers[] = {{"uid", client->uid}, {"gid", client->gid}, {"pid", (uint64_t)client->pid}};
  for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
    if (strlen(numbers[i].name) != length || memcmp(numbers[i].name, field, length) != 0) continue;
    snprintf(value, size, "%" PRIu64, numbers[i].number);
    return true;
  }
  if (length == 5 && memcmp(field, "label", 5) == 0) {
    snprintf(value, size, "%s", client->label != NULL ? client->label : "");
    return true;
  }
  if (length != 6 || memcmp(field, "socket", 6) != 0) return false;
  name_socket(client->socket != NULL ? client->socket : "", value, size);
  return true;
}

/* A dot at its beginning is refused: the template may have another one before it. */
static int check_value(const char *field, size_t length, const char *value) {
  int width = (int)length;
  if (value[0] == '\0') return fail(EINVAL, "{%.*s} is empty: the client has sent none.", width, field);
  if (value[0] == '.' || strchr(value, '/') != NULL) {
    return fail(EINVAL, "{%.*s} is no name of a file: \"%s\" begins with a dot, or has a slash.", width, field, value);
  }
  return 0;
}

/* The length of the field that begins after the brace; 0: it is not closed. */
static size_t field_length(const char *field) {
  size_t length = strcspn(field, "{}");
  return field[length] == '}' ? length : 0;
}

static int expand(const char *what, const char *path, const struct uffd_client *client, bool checked, char *out,
                  size_t size) {
  size_t used = 0;
  for (const char *at = path; *at != '\0';) {
    char value[256] = {*at, '\0'};
    size_t taken = 1;
    if ((at[0] == '{' || at[0] == '}') && at[1] == at[0]) {
      taken = 2;
    } else if (at[0] == '}') {
      return fail(EINVAL, "%s: a brace is closed and was not opened: %s. Two of them stand for one.", what, path);
    } else if (at[0] == '{') {
      size_t length = field_length(at + 1);
      if (length == 0 || !find_value(at + 1, length, client, value, sizeof(value))) {
        return fail(EINVAL, "%s: the fields of a template are " FIELDS ", and two braces stand for one: %s", what,
                    path);
      }
      int result = checked ? check_value(at + 1, length, value) : 0;
      if (result < 0) return result;
      taken = length + 2;
    }
    size_t length = strlen(value);
    if (used + length >= size) return fail(ENAMETOOLONG, "%s: the path is longer than %zu bytes.", what, size - 1);
    memcpy(out + used, value, length);
    used += length;
    at += taken;
  }
  out[used] = '\0';
  return 0;
}

int uffd_template_check(const char *what, const char *path) {
  static const struct uffd_client nobody = {.label = "x", .socket = "x"};
  char out[4096];
  return expand(what, path, &nobody, false, out, sizeof(out));
}

int uffd_client_path(const char *path, const struct uffd_client *client, char *out, size_t size) {
  if (path == NULL || client == NULL || out == NULL || size == 0) {
    return fail(EINVAL, "uffd_client_path: it needs a template, a client, and room.");
  }
  return expand("The template", path, client, true, out, size);
}
