/*
 * Firecracker's handshake, as its releases since 1.1 send it: a JSON list of regions, with no length before it and no
 * end mark after it, and one userfaultfd.
 *
 *   [{"base_host_virt_addr": 1, "size": 2, "offset": 3, "page_size": 4096, "page_size_kib": 4096}, ...]
 *
 * All numbers are bytes, that of page_size_kib too. Releases from 1.7 to 1.11 send page_size_kib alone, 2.0 is to drop
 * it, and releases before 1.7 send neither. Unknown keys are ignored, they are extensions. The brackets are counted
 * byte by byte to find the end of the list, so that many small pieces cost no more than one; the JSON library reads
 * the list once, when it is whole.
 *
 * nydus' clients wrap the list: {"type": 0, "regions": [...], "policy": 1}. Policy 1 is to copy pages in, as is done
 * here; policy 0 is that the client maps files which the server names. {"type": 2} asks for the size of the image.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "serve/door/door_firecracker.h"
#include "serve/paper/printable.h"

#define DEPTH_MAX 64 /* of brackets; the list of regions has 2 */
#define ROOM      1024

enum { NYDUS_HANDSHAKE = 0, NYDUS_STAT = 2, NYDUS_STAT_ANSWER = 3 }; /* types of nydus' messages */
enum { NYDUS_COPY = 1 };                                             /* its policies; 0 is zero copy */

struct firecracker {
  char *text; /* the list or object so far */
  size_t length, capacity;
  uint64_t lists; /* bit i: the bracket at depth i is a list's */
  uint32_t depth;
  bool quoted, escaped;
};

/* Between two lists: JSON's white space, and the zero byte that some clients send with a descriptor. */
static bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\0';
}

static int refuse_byte(const struct firecracker *state, char c, const char *what) {
  unsigned char byte = (unsigned char)c;
  return fail(EPROTO,
              "The handshake is not a list of regions: byte %zu is '%c' (0x%02x), %s. Expected is Firecracker's "
              "[{\"base_host_virt_addr\":..., \"size\":..., \"offset\":..., \"page_size\":...}, ...], or nydus' "
              "{\"type\":0, \"regions\":[...], \"policy\":1}.",
              state->length, byte >= 0x20 && byte < 0x7f ? c : '?', byte, what);
}

/* Is the innermost open bracket a list's? */
static bool is_in_list(const struct firecracker *state) {
  return (state->lists >> (state->depth - 1) & 1) != 0;
}

static int open_bracket(struct firecracker *state, char c) {
  if (state->depth == 0 && c != '[' && c != '{') return refuse_byte(state, c, "where the list should begin");
  if (state->depth == 1 && is_in_list(state) && c != '{') return refuse_byte(state, c, "where a region should begin");
  if (state->depth == DEPTH_MAX) {
    return fail(EPROTO, "The handshake is not a list of regions: it is nested %u deep.", DEPTH_MAX);
  }
  uint64_t bit = UINT64_C(1) << state->depth++;
  state->lists = c == '[' ? state->lists | bit : state->lists & ~bit;
  return 0;
}

static int close_bracket(struct firecracker *state, char c) {
  if (is_in_list(state) != (c == ']')) return refuse_byte(state, c, "which closes what was not opened");
  return --state->depth == 0;
}

/* Looks at the next byte of the list or object: 1 it is the last one, 0 it is not, or -errno. */
static int scan(struct firecracker *state, char c) {
  if (state->quoted) {
    if (state->escaped) {
      state->escaped = false;
    } else if (c == '\\') {
      state->escaped = true;
    } else if (c == '"') {
      state->quoted = false;
    }
    return 0;
  }
  if (c == '[' || c == '{' || state->depth == 0) return open_bracket(state, c);
  if (c == ']' || c == '}') return close_bracket(state, c);
  if (state->depth == 1 && is_in_list(state) && c != ',' && (c == '\0' || !is_blank(c))) {
    return refuse_byte(state, c, "where a region should begin");
  }
  state->quoted = c == '"';
  return 0;
}

static int make_room(struct firecracker *state, const struct uffd_door_limits *limits) {
  if (state->length == limits->max_bytes) {
    return fail(EMSGSIZE, "The handshake is longer than %u bytes: raise max_bytes if that can be.", limits->max_bytes);
  }
  if (state->length < state->capacity) return 0;
  size_t capacity = state->capacity == 0 ? ROOM : 2 * state->capacity;
  char *text = uffd_alloc(capacity);
  if (text == NULL) return fail(ENOMEM, "No memory for a handshake of %zu bytes.", capacity);
  if (state->length != 0) memcpy(text, state->text, state->length);
  uffd_release(state->text, state->capacity);
  state->text = text;
  state->capacity = capacity;
  return 0;
}

/* The library quotes what was sent. */
static int refuse_json(const json_error_t *error) {
  char text[sizeof(error->text)];
  uffd_printable(error->text, text, sizeof(text));
  return fail(EPROTO, "The handshake is not JSON: at byte %d: %s.", error->position, text);
}

/* 1: *value is set; 0: there is no such key; or -EINVAL. */
static int read_number(const json_t *region, size_t index, const char *key, uint64_t *value) {
  const json_t *number = json_object_get(region, key);
  if (number == NULL) return 0;
  if (!json_is_integer(number)) {
    return fail(EINVAL, "Region %zu of the handshake: %s is not an integer.", index, key);
  }
  json_int_t signed_value = json_integer_value(number);
  if (signed_value < 0) {
    return fail(EINVAL, "Region %zu of the handshake: %s is negative: %" JSON_INTEGER_FORMAT ".", index, key,
                signed_value);
  }
  *value = (uint64_t)signed_value;
  return 1;
}

static int read_needed(const json_t *region, size_t index, const char *key, uint64_t *value) {
  int result = read_number(region, index, key, value);
  return result != 0 ? result : fail(EINVAL, "Region %zu of the handshake has no %s.", index, key);
}

/* strict: the page size must be there. */
static int read_region(const json_t *json, size_t index, bool strict, struct uffd_client_region *region) {
  int result = read_needed(json, index, "base_host_virt_addr", &region->address);
  if (result > 0) result = read_needed(json, index, "size", &region->length);
  if (result > 0) result = read_needed(json, index, "offset", &region->offset);
  if (result < 0) return result;
  result = read_number(json, index, "page_size", &region->page_size);
  if (result == 0 && strict) return fail(EINVAL, "Region %zu of the handshake has no page_size.", index);
  if (result == 0) result = read_number(json, index, "page_size_kib", &region->page_size);
  if (result == 0) region->page_size = BASE_PAGE;
  return result < 0 ? result : 0;
}

/* The extensions. A key of a wrong type is refused: whoever sends it relies on it. */

static int read_bool(const json_t *object, const char *key, bool *value) {
  const json_t *found = json_object_get(object, key);
  if (found != NULL && !json_is_boolean(found))
    return fail(EINVAL, "The handshake's %s is neither true nor false.", key);
  *value = json_is_true(found);
  return 0;
}

static int read_int(const json_t *object, const char *key, int64_t low, int64_t high, int64_t *value) {
  const json_t *found = json_object_get(object, key);
  if (found == NULL) return 0;
  int64_t number = json_is_integer(found) ? json_integer_value(found) : low - 1;
  if (number < low || number > high) {
    return fail(EINVAL, "The handshake's %s is not an integer from %" PRId64 " to %" PRId64 ".", key, low, high);
  }
  *value = number;
  return 0;
}

/* *chosen: the index of one of the words, up to NULL; it is left alone where there is no such key. */
static int read_word(const json_t *object, const char *key, const char *const *words, unsigned *chosen) {
  const json_t *found = json_object_get(object, key);
  const char *text = json_string_value(found);
  if (found == NULL) return 0;
  for (unsigned i = 0; text != NULL && words[i] != NULL; i++) {
    if (strcmp(text, words[i]) != 0) continue;
    *chosen = i;
    return 0;
  }
  return words[2] == NULL ? fail(EINVAL, "The handshake's %s is neither \"%s\" nor \"%s\".", key, words[0], words[1])
                          : fail(EINVAL, "The handshake's %s is none of \"%s\", \"%s\" and \"%s\".", key, words[0],
                                 words[1], words[2]);
}

static int read_owner(const json_t *object, struct uffd_owner *owner) {
  int64_t pid = 0, fd = -1;
  int result = read_bool(object, UFFD_PIDFD_KEY, &owner->by_pidfd);
  if (result == 0) result = read_int(object, UFFD_PID_KEY, 1, INT32_MAX, &pid);
  if (result == 0) result = read_int(object, UFFD_FD_KEY, 0, INT32_MAX, &fd);
  owner->pid = (int32_t)pid;
  owner->fd = (int32_t)fd;
  return result;
}

static int read_extensions(const json_t *object, struct uffd_handshake *handshake) {
  static const char *const whens[] = {"now", "later", NULL};
  unsigned when = 0;
  int64_t token = 0;
  handshake->wants_answer = json_is_true(json_object_get(object, UFFD_ANSWER_KEY));
  int result = read_owner(object, &handshake->owner);
  if (result == 0) result = read_bool(object, UFFD_PART_KEY, &handshake->part);
  if (result == 0) result = read_word(object, UFFD_FILL_KEY, whens, &when);
  if (result == 0) result = read_int(object, UFFD_TOKEN_KEY, 1, INT64_MAX, &token);
  handshake->later = when == 1;
  handshake->token = (uint64_t)token;
  return result;
}

static int take_notice(const json_t *list, struct uffd_handshake *handshake) {
  static const char *const kinds[] = {"fill", "done", "share", NULL};
  static const enum uffd_notice notices[] = {UFFD_NOTICE_FILL, UFFD_NOTICE_DONE, UFFD_NOTICE_SHARE};
  const json_t *object = json_array_get(list, 0);
  unsigned kind = 0;
  int64_t client = 0;
  if (json_array_size(list) != 1) return fail(EINVAL, "A notice is alone in its list: send a list for each.");
  int result = read_word(object, UFFD_NOTICE_KEY, kinds, &kind);
  if (result == 0) result = read_int(object, UFFD_CLIENT_KEY, 1, INT64_MAX, &client);
  if (result < 0) return result;
  handshake->notice = notices[kind];
  handshake->notice_client = (uint64_t)client;
  handshake->wants_answer = json_is_true(json_object_get(object, UFFD_ANSWER_KEY));
  return UFFD_FEED_NOTICE;
}

/* Control characters are no part of it, a zero byte neither; what is no UTF-8 is no JSON. */
static int read_label(const json_t *list, struct uffd_handshake *handshake) {
  const json_t *label = json_object_get(json_array_get(list, 0), UFFD_LABEL_KEY);
  if (label == NULL) return 0;
  if (!json_is_string(label)) return fail(EINVAL, "The label of the handshake is not a string.");
  int result = uffd_label_check(json_string_value(label), json_string_length(label));
  if (result < 0) return result;
  memcpy(handshake->label, json_string_value(label), json_string_length(label) + 1);
  return 0;
}

static int read_regions(const json_t *list, bool strict, struct uffd_client_region *regions) {
  size_t index;
  json_t *region;
  json_array_foreach(list, index, region) {
    int result = read_region(region, index, strict, &regions[index]);
    if (result < 0) return result;
  }
  return 0;
}

static int take_handshake(const json_t *list, const struct uffd_door_limits *limits, bool strict,
                          struct uffd_handshake *handshake) {
  size_t count = json_array_size(list);
  if (count > limits->max_regions) {
    return fail(E2BIG, "The handshake has %zu regions, and at most %u are taken: raise max_regions if that can be.",
                count, limits->max_regions);
  }
  struct uffd_client_region *regions = uffd_alloc(count * sizeof(*regions));
  if (regions == NULL) return fail(ENOMEM, "No memory for %zu regions.", count);
  int result = read_regions(list, strict, regions);
  if (result == 0) result = read_label(list, handshake);
  if (result == 0) result = read_extensions(json_array_get(list, 0), handshake);
  if (result < 0) {
    uffd_release(regions, count * sizeof(*regions));
    return result;
  }
  handshake->regions = regions;
  handshake->regions_count = (uint32_t)count;
  return UFFD_FEED_WHOLE;
}

static int take_list(const json_t *list, const struct uffd_door_limits *limits, struct uffd_handshake *handshake) {
  if (json_array_size(list) == 0) return UFFD_FEED_BYE;
  if (json_object_get(json_array_get(list, 0), UFFD_NOTICE_KEY) != NULL) return take_notice(list, handshake);
  return take_handshake(list, limits, false, handshake);
}

/* What nydus' clients send. Whoever wants to be prefilled hears nothing of it: the pager's options say what is. */
static int take_object(const json_t *object, const struct uffd_door_limits *limits, struct uffd_handshake *handshake) {
  const json_t *list = json_object_get(object, "regions");
  int64_t type = -1, policy = 0;
  int result = read_int(object, "type", 0, INT64_MAX, &type);
  if (result == 0 && type == NYDUS_STAT) {
    handshake->notice = UFFD_NOTICE_STAT;
    handshake->wants_answer = true;
    return UFFD_FEED_NOTICE;
  }
  if (result == 0) result = read_int(object, "policy", 0, INT64_MAX, &policy);
  if (result < 0) return result;
  if (type != NYDUS_HANDSHAKE) {
    return fail(EPROTO, "The handshake's type is neither 0 (regions) nor 2 (the size of the image).");
  }
  if (policy != NYDUS_COPY) {
    return fail(EOPNOTSUPP,
                "The client asks for policy %" PRId64 " of nydus' protocol, zero copy, in which it maps files itself: "
                "this pager copies pages in, which is \"policy\":1.",
                policy);
  }
  if (!json_is_array(list) || json_array_size(list) == 0) return fail(EINVAL, "The handshake has no regions.");
  return take_handshake(list, limits, true, handshake);
}

static int parse(const struct firecracker *state, const struct uffd_door_limits *limits,
                 struct uffd_handshake *handshake) {
  json_error_t error;
  /* A key that comes twice has no certain meaning. Zero bytes in strings do no harm. */
  json_t *json = json_loadb(state->text, state->length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
  if (json == NULL) return refuse_json(&error);
  int result = json_is_array(json) ? take_list(json, limits, handshake) : take_object(json, limits, handshake);
  json_decref(json);
  return result;
}

static int feed(void *room, const struct uffd_door_limits *limits, const char *bytes, size_t length, size_t *used,
                struct uffd_handshake *handshake) {
  struct firecracker *state = room;
  for (size_t i = 0; i < length; i++) {
    *used = i + 1;
    if (state->depth == 0 && is_blank(bytes[i])) continue;
    int result = make_room(state, limits);
    if (result == 0) result = scan(state, bytes[i]);
    if (result < 0) return result;
    state->text[state->length++] = bytes[i];
    if (result == 0) continue;
    result = parse(state, limits, handshake);
    state->length = 0;
    return result;
  }
  return state->depth == 0 ? UFFD_FEED_NOTHING : UFFD_FEED_MORE;
}

static json_t *make_answer(const struct uffd_response *response) {
  if (response->is_stat) {
    return json_pack("{s:i, s:I, s:i, s:i, s:i}", "type", NYDUS_STAT_ANSWER, "size", (json_int_t)response->size,
                     "block_size", (int)BASE_PAGE, "flags", 0, "version", 1);
  }
  if (response->token != 0) {
    return json_pack("{s:b, s:I, s:I, s:I}", "ok", 1, UFFD_TOKEN_KEY, (json_int_t)response->token, "size",
                     (json_int_t)response->size, "page_size", (json_int_t)BASE_PAGE);
  }
  return response->client != 0 ? json_pack("{s:b, s:I}", "ok", 1, "client", (json_int_t)response->client)
                               : json_pack("{s:b, s:s}", "ok", 0, "error", response->why);
}

/* A line of JSON. Firecracker never reads from the connection. */
static size_t answer(const struct uffd_response *response, char *text, size_t size) {
  json_t *line = make_answer(response);
  if (response->known) json_object_set_new(line, "known", json_true());
  size_t length = line != NULL ? json_dumpb(line, text, size - 1, JSON_COMPACT | JSON_ENSURE_ASCII) : 0;
  json_decref(line);
  if (length == 0 || length >= size) return 0;
  text[length] = '\n';
  return length + 1;
}

static void release(void *room) {
  struct firecracker *state = room;
  uffd_release(state->text, state->capacity);
}

const struct uffd_door_kind uffd_door_firecracker = {
    .name = "firecracker",
    .state_size = sizeof(struct firecracker),
    .feed = feed,
    .answer = answer,
    .is_blank = is_blank,
    .release = release,
};
