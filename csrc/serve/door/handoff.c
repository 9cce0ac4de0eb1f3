/*
 * The client's side of the front door: hands memory of this process to a pager. It speaks Firecracker's handshake, so
 * any pager that serves Firecracker serves this too. Our own pager answers with one line, others with nothing.
 */
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "memory/lending.h"
#include "serve/door/door_firecracker.h"
#include "serve/door/handoff.h"
#include "serve/door/regions.h"
#include "serve/paper/descriptors.h"

#define TIMEOUT_MS 5000

struct uffd_handoff {
  uint64_t process;
  uffd_object
      *object; /* our own copy: while it is open, missing pages do not become zeros when the pager refuses or dies */
  int socket;  /* -1: the pager has been told that we are done */
  uint32_t flags, timeout_ms;
  char label[UFFD_LABEL]; /* "": none */
  uint64_t token;         /* of the memory, if a pager has lent it; 0: it is our own */
  uint32_t count;
  uffd_memory **memories;             /* in the caller's order */
  struct uffd_client_region *regions; /* by offset */
};

static int check(const uffd_handoff *handoff) {
  if (handoff == NULL) return fail(EBADF, "There is no handoff: the handle is NULL.");
  if (handoff->process == uffd_process()) return 0;
  return fail(EOWNERDEAD, "This handoff belongs to the parent process.");
}

static void free_handoff(uffd_handoff *handoff) {
  uffd_close(handoff->object); /* unregisters what is registered */
  if (handoff->socket >= 0) close(handoff->socket);
  uffd_release(handoff->memories, handoff->count * sizeof(uffd_memory *));
  uffd_release(handoff->regions, handoff->count * sizeof(*handoff->regions));
  DELETE(handoff);
}

static int take_parts(uffd_handoff *handoff, const struct uffd_handoff_part *parts) {
  static const struct uffd_door_limits any = {.max_regions = UINT32_MAX};
  for (uint32_t i = 0; i < handoff->count; i++) {
    if (parts[i].memory == NULL) return fail(EINVAL, "Part %" PRIu32 " has no memory.", i);
    uint64_t token = uffd_memory_token(parts[i].memory);
    if (token != 0 && (handoff->count != 1 || parts[i].offset != 0)) {
      return fail(EINVAL, "Memory that a pager has lent is handed over as the only part, from offset 0 on.");
    }
    handoff->token = token;
    handoff->memories[i] = parts[i].memory;
    handoff->regions[i] = (struct uffd_client_region){.address = (uintptr_t)uffd_memory_address(parts[i].memory),
                                                      .length = uffd_memory_length(parts[i].memory),
                                                      .offset = parts[i].offset,
                                                      .page_size = uffd_memory_page_size(parts[i].memory)};
  }
  return uffd_regions_check(handoff->regions, handoff->count, &any);
}

static int make_object(uffd_handoff *handoff, const struct uffd_handoff_opts *opts) {
  struct uffd_open_opts open = UFFD_OPEN_OPTS_INIT;
  open.features = opts->features;
  open.optional = UFFD_FEAT_EVENT_REMOVE;
  open.flags = opts->open_flags;
  uint64_t modes = UFFD_MODE_MISSING | (handoff->token != 0 ? UFFD_MODE_MINOR : 0);
  int result = uffd_open(&open, &handoff->object);
  for (uint32_t i = 0; i < handoff->count && result == 0; i++) {
    const struct uffd_client_region *region = &handoff->regions[i];
    result = uffd_register(handoff->object, region->address, region->length, modes, NULL);
  }
  return result;
}

static json_t *describe(const struct uffd_client_region *region) {
  json_int_t page_size = (json_int_t)region->page_size;
  return json_pack("{s:I, s:I, s:I, s:I, s:I}", "base_host_virt_addr", (json_int_t)region->address, "size",
                   (json_int_t)region->length, "offset", (json_int_t)region->offset, "page_size", page_size,
                   "page_size_kib", page_size); /* in bytes as well, for those that know it alone */
}

static bool is_answered(const uffd_handoff *handoff) {
  return (handoff->flags & UFFD_HANDOFF_NO_ANSWER) == 0;
}

/* What is said of all regions stands in the first. */
static void describe_all(const uffd_handoff *handoff, json_t *first) {
  if (is_answered(handoff)) json_object_set_new(first, UFFD_ANSWER_KEY, json_true());
  if (handoff->label[0] != '\0') json_object_set_new(first, UFFD_LABEL_KEY, json_string(handoff->label));
  if ((handoff->flags & UFFD_HANDOFF_PART) != 0) json_object_set_new(first, UFFD_PART_KEY, json_true());
  if (handoff->token != 0) json_object_set_new(first, UFFD_TOKEN_KEY, json_integer((json_int_t)handoff->token));
  if ((handoff->flags & UFFD_HANDOFF_LATER) != 0) json_object_set_new(first, UFFD_FILL_KEY, json_string("later"));
}

/* The list of regions as text of *length bytes, or NULL. */
static char *write_list(const uffd_handoff *handoff, size_t *length) {
  json_t *list = json_array();
  for (uint32_t i = 0; i < handoff->count; i++) {
    json_t *region = describe(&handoff->regions[i]);
    if (i == 0) describe_all(handoff, region);
    if (json_array_append_new(list, region) != 0) {
      json_decref(list);
      return NULL;
    }
  }
  *length = json_dumpb(list, NULL, 0, JSON_COMPACT);
  char *text = *length != 0 ? uffd_alloc(*length) : NULL;
  if (text != NULL) (void)json_dumpb(list, text, *length, JSON_COMPACT);
  json_decref(list);
  return text;
}

static int explain_connect(int error, const char *path) {
  switch (error) {
  case ENOENT:
    return fail(error, "There is no socket %s: start the pager first.", path);
  case ECONNREFUSED:
    return fail(error, "Nobody listens at %s: start the pager first.", path);
  case EACCES:
    return fail(error, "The socket %s may not be used: the pager's options socket_mode and uid decide who may.", path);
  case EAGAIN:
    return fail(ETIMEDOUT, "The pager at %s does not take in connections.", path);
  default:
    return fail(error, "Cannot connect to %s: %s.", path, strerror(error));
  }
}

static int connect_to(int *connection, const char *path, uint32_t timeout_ms) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
  size_t length = strlen(path);
  if (length == 0) return fail(EINVAL, "The socket has no path.");
  if (length >= sizeof(address.sun_path)) {
    return fail(ENAMETOOLONG, "The socket's path has %zu bytes, and the kernel takes %zu: %s", length,
                sizeof(address.sun_path) - 1, path);
  }
  memcpy(address.sun_path, path, length);
  *connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (*connection < 0) return fail(errno, "Cannot make a socket: %s.", strerror(errno));
  (void)setsockopt(*connection, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)); /* of connect, too */
  while (connect(*connection, (struct sockaddr *)&address, sizeof(address)) != 0) {
    if (errno != EINTR) return explain_connect(errno, path);
  }
  return 0;
}

static int explain_send(int error) {
  if (error == EAGAIN) return fail(ETIMEDOUT, "The pager does not read the handshake.");
  if (error == EPIPE || error == ECONNRESET) return fail(EPIPE, "The pager has hung up: its report says why.");
  return fail(error, "Cannot send the handshake: %s.", strerror(error));
}

/* The descriptor is sent with the first byte; our own copy stays open. -1: none is. */
static int send_all(int socket, const char *text, size_t length, int fd) {
  union {
    struct cmsghdr header; /* for its alignment */
    char room[CMSG_SPACE(sizeof(int))];
  } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
  memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
  for (size_t sent = 0; sent < length;) {
    struct iovec data = {(char *)(uintptr_t)text + sent, length - sent};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (sent == 0 && fd >= 0) {
      message.msg_control = control.room;
      message.msg_controllen = sizeof(control.room);
    }
    ssize_t count = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) return explain_send(errno);
    if (count > 0) sent += (size_t)count;
  }
  return 0;
}

/* A piece of the answer; the descriptor that comes with it, where one is wanted, which then replaces *fd. */
static ssize_t receive(int socket, char *text, size_t size, int *fd) {
  union {
    struct cmsghdr header; /* for its alignment */
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec data = {text, size};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
  if (fd == NULL) return recv(socket, text, size, MSG_DONTWAIT);
  ssize_t count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  const struct cmsghdr *part = count > 0 ? CMSG_FIRSTHDR(&message) : NULL;
  if (part == NULL || part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) return count;
  uffd_close_fds(fd, 1);
  memcpy(fd, CMSG_DATA(part), sizeof(*fd));
  return count;
}

/* The line that the pager answers with: its length, 0 when none came in time, or -EPIPE. */
static int read_answer(int socket, char *line, size_t size, uint64_t until, int *fd) {
  for (size_t length = 0;;) {
    uint64_t now = uffd_now();
    struct pollfd descriptor = {.fd = socket, .events = POLLIN};
    int ready = now < until ? poll(&descriptor, 1, (int)((until - now) / 1000000) + 1) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return 0;
    ssize_t count = receive(socket, line + length, size - length, fd);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) return fail(EPIPE, "The pager has hung up: its report says why.");
    length += (size_t)count;
    if (memchr(line, '\n', length) != NULL || length == size) return (int)length;
  }
}

/* A pager that does not know of answers sends none: after the time limit the memory counts as taken. */
static int await_answer(int socket, uint32_t timeout_ms) {
  char line[2048];
  int length = read_answer(socket, line, sizeof(line), uffd_now() + timeout_ms * UINT64_C(1000000), NULL);
  if (length <= 0) return length;
  json_error_t error;
  json_t *answer = json_loadb(line, (size_t)length, JSON_DISABLE_EOF_CHECK, &error);
  const char *why = json_string_value(json_object_get(answer, "error"));
  int result = 0;
  if (!json_is_true(json_object_get(answer, "ok"))) {
    result = fail(EPIPE, "The pager refuses the memory: %s", why != NULL ? why : "it does not say why.");
  }
  json_decref(answer);
  return result;
}

/* Who listens there: 0 where that cannot be told, in another pid namespace for instance. */
static int32_t listener_of(int socket) {
  struct ucred peer = {.pid = 0};
  socklen_t length = sizeof(peer);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 ? (int32_t)peer.pid : 0;
}

/* Each of two pagers would hear of half of the pages that are dropped: the other would bring them back. */
static int check_alone(const uffd_handoff *handoff, int before) {
  if (before < 0 || uffd_ready(before, POLLRDHUP) != 0) return 0;
  int32_t old = listener_of(before);
  if (old == listener_of(handoff->socket) || BROKEN("attach-alone")) return 0;
  return fail(EBUSY,
              "The pager that serves the memory, process %" PRId32
              ", lives: two cannot serve it. Attach to another one when it is gone.",
              old);
}

/* before: the socket by which it was handed over last; -1: never. */
static int hand_over(uffd_handoff *handoff, const char *path, int before) {
  size_t length;
  char *text = write_list(handoff, &length);
  if (text == NULL) return fail(ENOMEM, "No memory for a handshake of %" PRIu32 " regions.", handoff->count);
  int result = connect_to(&handoff->socket, path, handoff->timeout_ms);
  if (result == 0) result = check_alone(handoff, before);
  if (result == 0) result = send_all(handoff->socket, text, length, uffd_fd(handoff->object));
  uffd_release(text, length);
  return result == 0 && is_answered(handoff) ? await_answer(handoff->socket, handoff->timeout_ms) : result;
}

static int make(uffd_handoff *handoff, const char *path, const struct uffd_handoff_part *parts, size_t count,
                const struct uffd_handoff_opts *opts) {
  handoff->process = uffd_process();
  handoff->socket = -1;
  handoff->flags = opts->flags;
  handoff->timeout_ms = opts->timeout_ms != 0 ? opts->timeout_ms : TIMEOUT_MS;
  handoff->count = (uint32_t)count;
  handoff->memories = uffd_alloc(count * sizeof(uffd_memory *));
  handoff->regions = uffd_alloc(count * sizeof(*handoff->regions));
  if (handoff->memories == NULL || handoff->regions == NULL) return fail(ENOMEM, "No memory for %zu regions.", count);
  int result = opts->label != NULL ? uffd_label_check(opts->label, strlen(opts->label)) : 0;
  if (result == 0 && opts->label != NULL) snprintf(handoff->label, sizeof(handoff->label), "%s", opts->label);
  if (result == 0) result = take_parts(handoff, parts);
  if (result == 0) result = make_object(handoff, opts);
  return result == 0 ? hand_over(handoff, path, -1) : result;
}

int uffd_handoff_send(const char *socket, const struct uffd_handoff_part *parts, size_t count,
                      const struct uffd_handoff_opts *user_opts, uffd_handoff **handoff) {
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  *handoff = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_handoff_opts");
  if (result < 0) return result;
  if ((opts.flags & ~(uint32_t)(UFFD_HANDOFF_NO_ANSWER | UFFD_HANDOFF_PART | UFFD_HANDOFF_LATER)) != 0)
    return fail(EINVAL, "Unknown flag of uffd_handoff_send 0x%x.", opts.flags);
  if (opts.reserved != 0) return fail(EINVAL, "reserved is not 0.");
  if (socket == NULL) return fail(EINVAL, "The socket has no path.");
  if (parts == NULL || count == 0) return fail(EINVAL, "There is nothing to hand over: give at least one part.");
  if (count > UINT32_MAX) return fail(EINVAL, "%zu parts are too many.", count);
  uffd_handoff *made = NEW(uffd_handoff);
  if (made == NULL) return fail(ENOMEM, "No memory for a handle.");
  result = make(made, socket, parts, count, &opts);
  if (result < 0) {
    free_handoff(made);
    return result;
  }
  *handoff = made;
  return 0;
}

/* ---- memory that the pager lends */

static int read_number(const json_t *answer, const char *key, uint64_t *number) {
  const json_t *found = json_object_get(answer, key);
  if (!json_is_integer(found) || json_integer_value(found) <= 0) {
    return fail(EPROTO, "The pager's answer is none of a pager that shares: it has no %s.", key);
  }
  *number = (uint64_t)json_integer_value(found);
  return 0;
}

static int read_lent(const json_t *answer, uint64_t *token, uint64_t *length, uint64_t *page_size) {
  const char *why = json_string_value(json_object_get(answer, "error"));
  if (!json_is_true(json_object_get(answer, "ok"))) {
    return fail(EPIPE, "The pager lends no memory: %s", why != NULL ? why : "it does not say why.");
  }
  int result = read_number(answer, UFFD_TOKEN_KEY, token);
  if (result == 0) result = read_number(answer, "size", length);
  if (result == 0) result = read_number(answer, "page_size", page_size);
  if (result == 0 && (*page_size != BASE_PAGE || *length % *page_size != 0)) {
    result = fail(EPROTO, "The pager lends %" PRIu64 " bytes in pages of %" PRIu64 ".", *length, *page_size);
  }
  return result;
}

/* Takes the descriptor. */
static int map_lent(const char *line, size_t length, int *fd, uint32_t flags, uffd_memory **memory) {
  json_error_t error;
  uint64_t token = 0, bytes = 0, page_size = 0;
  json_t *answer = json_loadb(line, length, JSON_DISABLE_EOF_CHECK, &error);
  int result = read_lent(answer, &token, &bytes, &page_size);
  json_decref(answer);
  if (result == 0 && *fd < 0) result = fail(EMFILE, "The pager's descriptor did not arrive: raise ulimit -n.");
  if (result < 0) return result;
  int lent = *fd;
  *fd = -1;
  return uffd_map_lent(lent, bytes, page_size, token, flags, memory);
}

static int ask_for_pages(int socket, uint32_t timeout_ms, uint32_t flags, uffd_memory **memory) {
  static const char asks[] = "[{\"" UFFD_NOTICE_KEY "\":\"share\",\"" UFFD_ANSWER_KEY "\":true}]";
  char line[2048];
  int fd = -1, result = send_all(socket, asks, sizeof(asks) - 1, -1);
  if (result == 0) result = read_answer(socket, line, sizeof(line), uffd_now() + timeout_ms * UINT64_C(1000000), &fd);
  if (result == 0) result = fail(ETIMEDOUT, "The pager does not say whether it shares pages: it knows nothing of it.");
  if (result > 0) result = map_lent(line, (size_t)result, &fd, flags, memory);
  uffd_close_fds(&fd, 1);
  return result;
}

int uffd_handoff_map(const char *socket, const struct uffd_handoff_map_opts *user_opts, uffd_memory **memory) {
  struct uffd_handoff_map_opts opts = UFFD_HANDOFF_MAP_OPTS_INIT;
  *memory = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_handoff_map_opts");
  if (result < 0) return result;
  if ((opts.flags & ~(uint32_t)UFFD_MAP_FORK) != 0) {
    return fail(EINVAL, "Unknown flag of uffd_handoff_map 0x%x.", opts.flags);
  }
  if (socket == NULL) return fail(EINVAL, "The socket has no path.");
  if (opts.timeout_ms == 0) opts.timeout_ms = TIMEOUT_MS;
  int connection = -1;
  result = connect_to(&connection, socket, opts.timeout_ms);
  if (result == 0) result = ask_for_pages(connection, opts.timeout_ms, opts.flags, memory);
  const struct uffd_sentence why = uffd_keep_sentence();
  uffd_close_fds(&connection, 1);
  if (result < 0) uffd_restore_sentence(&why);
  return result;
}

int uffd_handoff_socket(const uffd_handoff *handoff) {
  return handoff->socket;
}

uffd_object *uffd_handoff_object(const uffd_handoff *handoff) {
  return handoff == NULL ? NULL : handoff->object;
}

int uffd_handoff_connected(const uffd_handoff *handoff) {
  int result = check(handoff);
  if (result < 0 || handoff->socket < 0) return result;
  return uffd_ready(handoff->socket, POLLRDHUP) == 0;
}

static int check_shared(const uffd_handoff *handoff) {
  int result = check(handoff);
  if (result < 0 || handoff->socket >= 0) return result;
  return fail(EINVAL, "The memory is complete, or its pager was told that we are done: no pager serves it.");
}

int uffd_handoff_fill(uffd_handoff *handoff) {
  static const char asks[] = "[{\"" UFFD_NOTICE_KEY "\":\"fill\",\"" UFFD_ANSWER_KEY "\":true}]";
  static const char tells[] = "[{\"" UFFD_NOTICE_KEY "\":\"fill\"}]";
  int result = check_shared(handoff);
  if (result < 0) return result;
  bool answered = is_answered(handoff);
  result = send_all(handoff->socket, answered ? asks : tells, answered ? sizeof(asks) - 1 : sizeof(tells) - 1, -1);
  return result == 0 && answered ? await_answer(handoff->socket, handoff->timeout_ms) : result;
}

int uffd_handoff_attach(uffd_handoff *handoff, const char *socket) {
  int result = check_shared(handoff);
  if (result < 0) return result;
  if (socket == NULL) return fail(EINVAL, "The socket has no path.");
  int before = handoff->socket;
  handoff->socket = -1;
  result = hand_over(handoff, socket, before);
  int unused = result == 0 ? before : handoff->socket;
  if (result < 0) handoff->socket = before;
  if (unused >= 0) close(unused);
  return result;
}

/*
 * An empty list tells the pager that it need not wait for this process to end. Closing the connection does not tell it:
 * some clients hang up right after their handshake, and a forked child may hold the connection open.
 */
static void say_goodbye(uffd_handoff *handoff) {
  if (handoff->socket < 0) return;
  (void)send(handoff->socket, "[]", 2, MSG_NOSIGNAL | MSG_DONTWAIT);
  close(handoff->socket);
  handoff->socket = -1;
}

int uffd_handoff_complete(uffd_handoff *handoff) {
  int result = check(handoff);
  if (result < 0 || handoff->socket < 0) return result;
  if (uffd_handoff_connected(handoff) == 0) {
    return fail(EPIPE, "The pager has hung up: its report says why. The memory cannot be completed.");
  }
  for (uint32_t i = 0; i < handoff->count && result == 0; i++) {
    result = uffd_memory_prefault(handoff->memories[i], 0, uffd_memory_length(handoff->memories[i]), 0);
  }
  for (uint32_t i = 0; i < handoff->count && result == 0; i++) {
    result = uffd_unregister(handoff->object, handoff->regions[i].address, handoff->regions[i].length);
  }
  if (result == 0) say_goodbye(handoff);
  return result;
}

void uffd_handoff_close(uffd_handoff *handoff) {
  if (handoff == NULL) return;
  if (handoff->process == uffd_process()) {
    uffd_close(handoff->object);
    handoff->object = NULL;
    say_goodbye(handoff);
  }
  free_handoff(handoff);
}
