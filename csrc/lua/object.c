/*
 * uffd.object: one userfaultfd, call by call. It remembers the ranges that were registered here and their page sizes,
 * so that an event names whole pages and a short string fills one. It keeps events that were read and not yet taken.
 */
#include "util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 64 };

struct range {
  uint64_t start;
  uint64_t end;
  uint64_t page_size;
};

struct object {
  struct uffd_lua_object_ref *ref; /* NULL: closed */
  uint64_t process;
  bool blocking;
  struct range *ranges;
  size_t range_count;
  size_t range_room;
  struct uffd_event events[BATCH]; /* read from the kernel, not yet handed out: events[first .. first + count) */
  unsigned first;
  unsigned count;
};

static struct object *check(lua_State *L, int arg) {
  struct object *object = luaL_checkudata(L, arg, OBJECT_TYPE);
  uffd_lua_check_handle(L, OBJECT_TYPE, object->ref != NULL && object->ref->object != NULL, object->process);
  return object;
}

struct uffd_lua_object_ref *uffd_lua_check_object(lua_State *L, int arg) {
  return check(L, arg)->ref;
}

/* Ranges */

static uint64_t base_page_size(void) {
  return (uint64_t)sysconf(_SC_PAGESIZE);
}

static const struct range *range_of(const struct object *object, uint64_t address) {
  for (size_t i = 0; i < object->range_count; i++) {
    if (address >= object->ranges[i].start && address < object->ranges[i].end) return &object->ranges[i];
  }
  return NULL;
}

static uint64_t page_size_at(const struct object *object, uint64_t address) {
  const struct range *range = range_of(object, address);
  return range != NULL ? range->page_size : base_page_size();
}

/* Makes room for two more: one cut can make two ranges of one. */
static bool reserve_ranges(struct object *object) {
  if (object->range_count + 2 <= object->range_room) return true;
  size_t room = object->range_room * 2 + 4;
  struct range *ranges = realloc(object->ranges, room * sizeof(*ranges));
  if (ranges == NULL) return false;
  object->ranges = ranges;
  object->range_room = room;
  return true;
}

static void forget_range(struct object *object, uint64_t start, uint64_t end) {
  size_t kept = 0;
  for (size_t i = 0; i < object->range_count; i++) {
    struct range range = object->ranges[i];
    if (range.end <= start || range.start >= end) {
      object->ranges[kept++] = range;
      continue;
    }
    if (range.start < start && range.end > end) {
      /* Both ends can lie in the same range only if nothing else overlaps. */
      object->ranges[i].end = start;
      object->ranges[object->range_count++] = (struct range){end, range.end, range.page_size};
      return;
    }
    if (range.start < start)
      object->ranges[kept++] = (struct range){range.start, start, range.page_size};
    else if (range.end > end)
      object->ranges[kept++] = (struct range){end, range.end, range.page_size};
  }
  object->range_count = kept;
}

static void remember_range(struct object *object, uint64_t start, uint64_t end, uint64_t page_size) {
  forget_range(object, start, end);
  object->ranges[object->range_count++] = (struct range){start, end, page_size};
}

/* Making, closing */

static struct object *push_object(lua_State *L) {
  struct object *object = lua_newuserdatauv(L, sizeof(*object), 0);
  memset(object, 0, sizeof(*object));
  object->process = uffd_lua_process();
  luaL_setmetatable(L, OBJECT_TYPE);
  return object;
}

static struct object *new_object(lua_State *L) {
  struct object *object = push_object(L);
  object->ref = calloc(1, sizeof(*object->ref));
  if (object->ref == NULL) uffd_lua_no_memory(L);
  object->ref->count = 1;
  return object;
}

struct uffd_lua_object_ref *uffd_lua_lend_object(lua_State *L, uffd_object *owned, struct uffd_lua_object_ref *ref) {
  struct object *object = ref == NULL ? new_object(L) : push_object(L);
  if (ref == NULL) *object->ref = (struct uffd_lua_object_ref){.object = owned, .count = 1, .lent = true};
  if (ref != NULL) object->ref = ref;
  object->ref->count++;
  return object->ref;
}

static void close_object(struct object *object) {
  for (; object->count > 0; object->first++, object->count--) {
    if (object->events[object->first].type == UFFD_FORK) uffd_close(object->events[object->first].object);
  }
  if (object->ref != NULL) uffd_lua_object_release(object->ref);
  free(object->ranges);
  object->ref = NULL;
  object->ranges = NULL;
  object->range_count = object->range_room = 0;
}

static int open_object(lua_State *L) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.features = uffd_lua_mask(L, 1, &uffd_lua_features);
  opts.optional = uffd_lua_mask(L, 2, &uffd_lua_features);
  opts.flags = uffd_lua_opt_u32(L, 3, 0);
  opts.route = uffd_lua_choice(L, 4, UFFD_ROUTE_AUTO, uffd_lua_routes, "route");
  struct object *object = new_object(L);
  object->blocking = (opts.flags & UFFD_OPEN_BLOCKING) != 0;
  int result = uffd_open(&opts, &object->ref->object);
  if (result < 0) return uffd_lua_fail(L, result);
  return 1;
}

static int adopt_object(lua_State *L) {
  lua_Integer fd = luaL_checkinteger(L, 1);
  luaL_argcheck(L, fd >= 0 && fd <= INT32_MAX, 1, "not a file descriptor");
  struct object *object = new_object(L);
  int result = uffd_adopt((int)fd, &object->ref->object);
  if (result < 0) return uffd_lua_fail(L, result);
  return 1;
}

static int object_close(lua_State *L) {
  close_object(luaL_checkudata(L, 1, OBJECT_TYPE));
  lua_pushboolean(L, 1);
  return 1;
}

static int object_gc(lua_State *L) {
  close_object(luaL_checkudata(L, 1, OBJECT_TYPE));
  return 0;
}

/* What it is */

static int object_fd(lua_State *L) {
  int fd = uffd_fd(check(L, 1)->ref->object);
  if (fd < 0) return uffd_lua_fail(L, fd);
  lua_pushinteger(L, fd);
  return 1;
}

static int object_features(lua_State *L) {
  uffd_lua_push_names(L, uffd_features(check(L, 1)->ref->object), &uffd_lua_features);
  return 1;
}

static int object_available(lua_State *L) {
  uffd_lua_push_names(L, uffd_available(check(L, 1)->ref->object), &uffd_lua_features);
  return 1;
}

static int object_has(lua_State *L) {
  struct object *object = check(L, 1);
  uint64_t wanted = uffd_lua_mask(L, 2, &uffd_lua_features);
  lua_pushboolean(L, (uffd_features(object->ref->object) & wanted) == wanted);
  lua_pushboolean(L, (uffd_available(object->ref->object) & wanted) == wanted);
  return 2;
}

static int object_route(lua_State *L) {
  int route = uffd_route(check(L, 1)->ref->object);
  if (route < 0) return uffd_lua_fail(L, route);
  lua_pushstring(L, uffd_lua_routes[route]);
  return 1;
}

/* nil when the kernel does not tell, as for an adopted descriptor. */
static int object_user_mode_only(lua_State *L) {
  int only = uffd_user_mode_only(check(L, 1)->ref->object);
  if (only == -1)
    lua_pushnil(L);
  else
    lua_pushboolean(L, only);
  return 1;
}

static int object_pending(lua_State *L) {
  uint64_t pending = 0, total = 0;
  int result = uffd_pending(check(L, 1)->ref->object, &pending, &total);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushinteger(L, (lua_Integer)pending);
  lua_pushinteger(L, (lua_Integer)total);
  return 2;
}

static int object_tostring(lua_State *L) {
  struct object *object = luaL_checkudata(L, 1, OBJECT_TYPE);
  if (object->ref == NULL || object->ref->object == NULL) return uffd_lua_push_closed(L, OBJECT_TYPE);
  int ranges = (int)object->range_count;
  lua_pushfstring(L, "%s (fd %d, %d range%s)", OBJECT_TYPE, uffd_fd(object->ref->object), ranges,
                  ranges == 1 ? "" : "s");
  return 1;
}

/* Targets */

/* Where an operation goes: an address, or a memory and an offset in it. */
struct target {
  uint64_t address;
  uint64_t room;      /* bytes to the memory's end; UINT64_MAX for a bare address */
  uint64_t page_size; /* of the memory; 0 for a bare address */
  int arg;            /* of the offset or address, for messages */
  int next;           /* the argument after it */
};

static struct target check_target(lua_State *L, int arg) {
  if (!uffd_lua_is_memory(L, arg)) {
    if (lua_type(L, arg) != LUA_TNUMBER) luaL_typeerror(L, arg, "uffd.memory or address");
    return (struct target){uffd_lua_unsigned(L, arg), UINT64_MAX, 0, arg, arg + 1};
  }
  uffd_memory *memory = uffd_lua_check_memory(L, arg)->memory;
  uint64_t offset = uffd_lua_unsigned(L, arg + 1);
  uint64_t length = uffd_memory_length(memory);
  uffd_lua_check_range(L, arg + 1, offset, 0, length, "memory");
  return (struct target){(uint64_t)(uintptr_t)uffd_memory_address(memory) + offset, length - offset,
                         uffd_memory_page_size(memory), arg + 1, arg + 2};
}

static void check_room(lua_State *L, const struct target *target, uint64_t length) {
  if (length > target->room) uffd_lua_check_range(L, target->arg, 0, length, target->room, "rest of the memory");
}

/* address, length | memory [, offset, length]: by default the rest of the memory. */
struct span {
  uint64_t start;
  uint64_t length;
  uint64_t page_size;
  int next;
};

static struct span check_span(lua_State *L, int arg, bool whole) {
  if (whole && uffd_lua_is_memory(L, arg)) {
    uffd_memory *memory = uffd_lua_check_memory(L, arg)->memory;
    return (struct span){(uint64_t)(uintptr_t)uffd_memory_address(memory), uffd_memory_length(memory),
                         uffd_memory_page_size(memory), arg + 1};
  }
  struct target target = check_target(L, arg);
  uint64_t length = uffd_lua_unsigned(L, target.next);
  check_room(L, &target, length);
  return (struct span){target.address, length, target.page_size, target.next + 1};
}

/* Registering */

/* The page size of memory of which only the address is known: from the kernel's map. */
static uint64_t mapped_page_size(uint64_t start, uint64_t length) {
  uffd_memory *memory = NULL;
  if (uffd_memory_adopt((void *)(uintptr_t)start, length, &memory) < 0) return base_page_size();
  uint64_t page_size = uffd_memory_page_size(memory);
  uffd_memory_close(memory);
  return page_size;
}

static int object_register(lua_State *L) {
  struct object *object = check(L, 1);
  /* u:register(memory, modes) has no number between them, except in four arguments. */
  struct span span = check_span(L, 2, lua_gettop(L) <= 3);
  uint64_t modes = uffd_lua_mask(L, span.next, &uffd_lua_modes);
  uint64_t ioctls = 0;
  if (!reserve_ranges(object)) uffd_lua_no_memory(L);
  int result = uffd_register(object->ref->object, span.start, span.length, modes, &ioctls);
  if (result < 0) return uffd_lua_fail(L, result);
  uint64_t page_size = span.page_size != 0 ? span.page_size : mapped_page_size(span.start, span.length);
  remember_range(object, span.start, span.start + span.length, page_size);
  uffd_lua_push_names(L, ioctls, &uffd_lua_ioctls);
  return 1;
}

static int object_unregister(lua_State *L) {
  struct object *object = check(L, 1);
  struct span span = check_span(L, 2, lua_gettop(L) == 2);
  if (!reserve_ranges(object)) uffd_lua_no_memory(L);
  int result = uffd_unregister(object->ref->object, span.start, span.length);
  if (result >= 0) forget_range(object, span.start, span.start + span.length);
  return uffd_lua_done(L, result);
}

/* Filling */

static const struct uffd_lua_bit copy_bits[] = {{"dontwake", UFFD_COPY_DONTWAKE}, {"wp", UFFD_COPY_WP}, {NULL, 0}};
static const struct uffd_lua_bit continue_bits[] = {
    {"dontwake", UFFD_CONTINUE_DONTWAKE}, {"wp", UFFD_CONTINUE_WP}, {NULL, 0}};
static const struct uffd_lua_bit move_bits[] = {
    {"dontwake", UFFD_MOVE_DONTWAKE}, {"allow_src_holes", UFFD_MOVE_ALLOW_SRC_HOLES}, {NULL, 0}};
static const struct uffd_lua_bit wake_bits[] = {{"dontwake", UFFD_ZEROPAGE_DONTWAKE}, {NULL, 0}};
static const struct uffd_lua_bit protect_bits[] = {
    {"wp", UFFD_WRITEPROTECT_WP}, {"dontwake", UFFD_WRITEPROTECT_DONTWAKE}, {NULL, 0}};

static const struct uffd_lua_names copy_flags = {"copy flag", NULL, NULL, copy_bits};
static const struct uffd_lua_names continue_flags = {"continue flag", NULL, NULL, continue_bits};
static const struct uffd_lua_names move_flags = {"move flag", NULL, NULL, move_bits};
static const struct uffd_lua_names wake_flags = {"flag", NULL, NULL, wake_bits};
static const struct uffd_lua_names protect_flags = {"writeprotect flag", NULL, NULL, protect_bits};

/* The bytes done, or nil, the sentence, the errno, and the bytes done before it. */
static int push_progress(lua_State *L, int result, uint64_t done) {
  if (result < 0) {
    uffd_lua_fail(L, result);
    lua_pushinteger(L, (lua_Integer)done);
    return 4;
  }
  lua_pushinteger(L, (lua_Integer)done);
  return 1;
}

static int object_copy(lua_State *L) {
  struct object *object = check(L, 1);
  struct target target = check_target(L, 2);
  size_t length = 0;
  const char *data = luaL_checklstring(L, target.next, &length);
  uint64_t mode = uffd_lua_mask(L, target.next + 1, &copy_flags);
  uint64_t page_size = page_size_at(object, target.address);
  uint64_t tail = length % page_size;
  if (tail != 0) {
    size_t padded = length + (size_t)(page_size - tail);
    char *copy = lua_newuserdatauv(L, padded, 0);
    memcpy(copy, data, length);
    memset(copy + length, 0, padded - length);
    data = copy;
    length = padded;
  }
  check_room(L, &target, length);
  uint64_t done = 0;
  int result = uffd_copy(object->ref->object, target.address, data, length, mode, &done);
  return push_progress(L, result, done);
}

typedef int fill_fn(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode, uint64_t *done);

static int fill(lua_State *L, fill_fn *operation, const struct uffd_lua_names *flags) {
  struct object *object = check(L, 1);
  struct span span = check_span(L, 2, lua_gettop(L) == 2);
  uint64_t mode = uffd_lua_mask(L, span.next, flags);
  uint64_t done = 0;
  int result = operation(object->ref->object, span.start, span.length, mode, &done);
  return push_progress(L, result, done);
}

static int object_zeropage(lua_State *L) {
  return fill(L, uffd_zeropage, &wake_flags);
}
static int object_continue(lua_State *L) {
  return fill(L, uffd_continue, &continue_flags);
}
static int object_poison(lua_State *L) {
  return fill(L, uffd_poison, &wake_flags);
}

static int object_move(lua_State *L) {
  struct object *object = check(L, 1);
  struct target target = check_target(L, 2);
  struct target source = check_target(L, target.next);
  uint64_t length = uffd_lua_unsigned(L, source.next);
  check_room(L, &target, length);
  check_room(L, &source, length);
  uint64_t mode = uffd_lua_mask(L, source.next + 1, &move_flags);
  uint64_t done = 0;
  int result = uffd_move(object->ref->object, target.address, source.address, length, mode, &done);
  return push_progress(L, result, done);
}

static int object_writeprotect(lua_State *L) {
  struct object *object = check(L, 1);
  struct span span = check_span(L, 2, lua_gettop(L) == 2);
  uint64_t mode = UFFD_WRITEPROTECT_WP;
  if (lua_isboolean(L, span.next))
    mode = lua_toboolean(L, span.next) ? UFFD_WRITEPROTECT_WP : 0;
  else if (!lua_isnoneornil(L, span.next))
    mode = uffd_lua_mask(L, span.next, &protect_flags);
  return uffd_lua_done(L, uffd_writeprotect(object->ref->object, span.start, span.length, mode));
}

static int object_wake(lua_State *L) {
  struct object *object = check(L, 1);
  struct span span = check_span(L, 2, lua_gettop(L) == 2);
  return uffd_lua_done(L, uffd_wake(object->ref->object, span.start, span.length));
}

/* Events */

static void set_pagefault(lua_State *L, const struct object *object, const struct uffd_event *event) {
  uint64_t page_size = page_size_at(object, event->address);
  lua_pushstring(L, (event->flags & UFFD_FAULT_WP) ? "wp" : (event->flags & UFFD_FAULT_MINOR) ? "minor" : "missing");
  lua_setfield(L, -2, "kind");
  lua_pushboolean(L, (event->flags & UFFD_FAULT_WRITE) != 0);
  lua_setfield(L, -2, "write");
  uffd_lua_set_integer(L, "page", event->address - event->address % page_size);
  uffd_lua_set_integer(L, "page_size", page_size);
  uffd_lua_set_integer(L, "flags", event->flags);
  uffd_lua_set_integer(L, "tid", event->tid);
}

/* The child has the parent's ranges, so its events name whole pages too. */
static void set_fork(lua_State *L, const struct object *parent, struct uffd_event *event) {
  struct object *child = new_object(L);
  child->ref->object = event->object;
  event->object = NULL;
  if (parent->range_count > 0) {
    child->ranges = malloc(parent->range_room * sizeof(*child->ranges));
    if (child->ranges != NULL) {
      memcpy(child->ranges, parent->ranges, parent->range_count * sizeof(*child->ranges));
      child->range_count = parent->range_count;
      child->range_room = parent->range_room;
    }
  }
  lua_setfield(L, -2, "object");
}

/* Mappings move and end with their registrations. */
static void follow_mapping(struct object *object, const struct uffd_event *event) {
  if (!reserve_ranges(object)) return;
  if (event->type == UFFD_UNMAP) forget_range(object, event->address, event->address + event->length);
  const struct range *from = event->type == UFFD_REMAP ? range_of(object, event->address) : NULL;
  if (from != NULL) remember_range(object, event->to, event->to + event->length, from->page_size);
}

static void push_event(lua_State *L, struct object *object, struct uffd_event *event) {
  static const char *const types[] = {"pagefault", "fork", "remap", "remove", "unmap"};
  lua_createtable(L, 0, 8);
  if (event->type >= UFFD_PAGEFAULT && event->type <= UFFD_UNMAP)
    lua_pushstring(L, types[event->type - UFFD_PAGEFAULT]);
  else
    lua_pushinteger(L, event->type);
  lua_setfield(L, -2, "type");
  switch (event->type) {
  case UFFD_PAGEFAULT:
    uffd_lua_set_integer(L, "address", event->address);
    set_pagefault(L, object, event);
    return;
  case UFFD_FORK:
    set_fork(L, object, event);
    return;
  case UFFD_REMAP:
    uffd_lua_set_integer(L, "to", event->to);
    break;
  case UFFD_REMOVE:
  case UFFD_UNMAP:
    break;
  default: /* of a newer kernel: its fields as they are */
    uffd_lua_set_integer(L, "to", event->to);
    uffd_lua_set_integer(L, "flags", event->flags);
  }
  uffd_lua_set_integer(L, "address", event->address);
  uffd_lua_set_integer(L, "length", event->length);
  follow_mapping(object, event);
}

/* Pushes the oldest event that is kept. It is removed only after its table is complete, so an error loses no fault. */
static void push_kept(lua_State *L, struct object *object) {
  push_event(L, object, &object->events[object->first]);
  object->first++;
  object->count--;
}

/* Reads as many as there is room for. */
static int fetch(struct object *object, unsigned most, int timeout_ms) {
  if (object->count == 0) object->first = 0;
  unsigned end = object->first + object->count;
  unsigned room = BATCH - end;
  int result = uffd_read(object->ref->object, object->events + end, most < room ? most : room, timeout_ms);
  if (result > 0) object->count += (unsigned)result;
  return result;
}

static void check_reader(lua_State *L, const struct object *object) {
  if (object->ref->lent) luaL_error(L, "a pager reads the events of this %s: nobody else may", OBJECT_TYPE);
  if (object->ref->loops > 0) luaL_error(L, "a loop reads the events of this %s: nobody else may", OBJECT_TYPE);
}

static int object_read(lua_State *L) {
  struct object *object = check(L, 1);
  int timeout_ms = uffd_lua_timeout(L, 2, object->blocking ? -1 : 0);
  lua_Integer most = luaL_optinteger(L, 3, BATCH);
  luaL_argcheck(L, most >= 1, 3, "must be 1 or more");
  check_reader(L, object);
  if (object->count == 0) {
    int result = fetch(object, most < BATCH ? (unsigned)most : BATCH, timeout_ms);
    if (result < 0 && result != -EAGAIN) return uffd_lua_fail(L, result);
  }
  lua_newtable(L);
  for (lua_Integer i = 1; i <= most && object->count > 0; i++) {
    push_kept(L, object);
    lua_seti(L, -2, i);
  }
  return 1;
}

/* Events before faults, each in their order: a fault cannot be answered while an older event waits (EAGAIN). */
static void events_first(struct object *object) {
  struct uffd_event sorted[BATCH];
  unsigned count = 0;
  for (int faults = 0; faults <= 1; faults++) {
    for (unsigned i = 0; i < object->count; i++) {
      const struct uffd_event *event = &object->events[object->first + i];
      if ((event->type == UFFD_PAGEFAULT) == (faults == 1)) sorted[count++] = *event;
    }
  }
  memcpy(object->events + object->first, sorted, count * sizeof(sorted[0]));
}

static int next_event(lua_State *L) {
  struct object *object = check(L, 1);
  check_reader(L, object);
  if (object->count == 0) {
    int result = fetch(object, BATCH, (int)lua_tointeger(L, lua_upvalueindex(1)));
    if (result < 0 && result != -EAGAIN) return luaL_error(L, "%s", uffd_errmsg());
    while (result > 0 && !object->blocking && object->count < BATCH)
      result = fetch(object, BATCH, 0);
    events_first(object);
  }
  if (object->count > 0)
    push_kept(L, object);
  else
    lua_pushnil(L);
  return 1;
}

static int object_events(lua_State *L) {
  check(L, 1);
  lua_pushinteger(L, uffd_lua_timeout(L, 2, -1));
  lua_pushcclosure(L, next_event, 1);
  lua_pushvalue(L, 1);
  return 2;
}

static const luaL_Reg methods[] = {{"fd", object_fd},
                                   {"getfd", object_fd},
                                   {"pollfd", object_fd},
                                   {"features", object_features},
                                   {"available", object_available},
                                   {"has", object_has},
                                   {"route", object_route},
                                   {"user_mode_only", object_user_mode_only},
                                   {"pending", object_pending},
                                   {"register", object_register},
                                   {"unregister", object_unregister},
                                   {"copy", object_copy},
                                   {"zeropage", object_zeropage},
                                   {"continue", object_continue},
                                   {"poison", object_poison},
                                   {"move", object_move},
                                   {"writeprotect", object_writeprotect},
                                   {"wake", object_wake},
                                   {"read", object_read},
                                   {"events", object_events},
                                   {"close", object_close},
                                   {NULL, NULL}};

static const luaL_Reg meta[] = {
    {"__gc", object_gc}, {"__close", object_gc}, {"__tostring", object_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"open", open_object}, {"adopt", adopt_object}, {NULL, NULL}};

void uffd_lua_open_object(lua_State *L) {
  uffd_lua_class(L, OBJECT_TYPE, NULL, meta, methods);
  luaL_setfuncs(L, functions, 0);
}
