/*
 * uffd.loop and uffd.region: regions, the engine that serves them, statistics, messages of policies, traces. Closing a
 * loop joins its handlers. After that, handles of its regions raise.
 */
#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"
#include "ring.h"

enum { MESSAGES = 256, TRACES = 4096 };

struct loop {
  uffd_loop *loop; /* NULL: closed */
  uint64_t process;
  uint32_t engine;
  struct uffd_lua_ring *messages;
  struct uffd_lua_ring *traces;         /* NULL: never traced */
  struct uffd_lua_object_ref **objects; /* given to regions, each held once a region */
  size_t object_count;
};

struct region {
  uffd_region *region;
  struct loop *loop; /* in a user value of the region, so it stays */
  bool over;         /* complete or removed */
  uint64_t offset;
  uint64_t length;
  uint64_t page_size;
  lua_Integer index;
};

/* The user values of a region's handle: its loop; its memory's handle, as long as the region is served. */
enum { REGION_LOOP = 1, REGION_MEMORY = 2, REGION_VALUES = 2 };

static const char *const engines[] = {"auto", "threads", "pump", "inline", NULL};
static const char *const placements[] = {"companion", "none", NULL};
static const char *const verdicts[] = {"default", "zero", "poison", "stop", "retry", NULL};

static struct loop *check(lua_State *L, int arg) {
  struct loop *loop = luaL_checkudata(L, arg, LOOP_TYPE);
  uffd_lua_check_handle(L, LOOP_TYPE, loop->loop != NULL, loop->process);
  return loop;
}

static struct region *check_region(lua_State *L, int arg) {
  struct region *region = luaL_checkudata(L, arg, REGION_TYPE);
  uffd_lua_check_handle(L, "uffd.region (its loop is closed)", region->loop->loop != NULL, region->loop->process);
  return region;
}

/* Called in the handler: makes a message of a failure. */
static void on_failure(void *messages, int level, const char *sentence) {
  (void)level;
  struct uffd_lua_message message = {.failure = true};
  size_t length = strlen(sentence);
  message.length = (uint32_t)(length < sizeof(message.text) ? length : sizeof(message.text));
  memcpy(message.text, sentence, message.length);
  uffd_lua_ring_push(messages, &message);
}

/* core.loop_create(engine, handlers, on_error, open_flags, route, features, paused, placement, retry_ms, retry_then) */
static int create(lua_State *L) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.engine = uffd_lua_choice(L, 1, UFFD_ENGINE_AUTO, engines, "engine");
  opts.handlers = uffd_lua_opt_u32(L, 2, 0);
  opts.on_error = uffd_lua_choice(L, 3, UFFD_ON_ERROR_DEFAULT, verdicts, "on_error");
  opts.open_flags = uffd_lua_opt_u32(L, 4, 0);
  opts.route = uffd_lua_choice(L, 5, UFFD_ROUTE_AUTO, uffd_lua_routes, "route");
  opts.features = uffd_lua_mask(L, 6, &uffd_lua_features);
  opts.flags = lua_toboolean(L, 7) ? UFFD_LOOP_PAUSED : 0;
  opts.placement = uffd_lua_choice(L, 8, UFFD_PLACEMENT_COMPANION, placements, "placement");
  opts.retry_ms = uffd_lua_opt_u32(L, 9, 0);
  opts.retry_then = uffd_lua_choice(L, 10, UFFD_ON_ERROR_DEFAULT, verdicts, "retry_then");
  struct loop *loop = lua_newuserdatauv(L, sizeof(*loop), 1);
  memset(loop, 0, sizeof(*loop));
  loop->process = uffd_lua_process();
  luaL_setmetatable(L, LOOP_TYPE);
  lua_newtable(L);
  lua_setiuservalue(L, -2, 1);
  loop->messages = uffd_lua_ring_new(sizeof(struct uffd_lua_message), MESSAGES);
  if (loop->messages == NULL) uffd_lua_no_memory(L);
  opts.failed = on_failure;
  opts.failed_ctx = loop->messages;
  int result = uffd_loop_create(&opts, &loop->loop);
  if (result < 0) return uffd_lua_fail(L, result);
  loop->engine = (uint32_t)uffd_loop_engine(loop->loop, NULL);
  return 1;
}

/* Messages that nobody has read would be lost, and with them the reason why a page is poisoned. */
static void print_messages(const struct loop *loop) {
  struct uffd_lua_message message;
  if (loop->messages == NULL || loop->process != uffd_lua_process()) return;
  while (uffd_lua_ring_pop(loop->messages, &message))
    fprintf(stderr, "%s: %.*s\n", message.failure ? "uffd" : "policy", (int)message.length, message.text);
  uint64_t dropped = uffd_lua_ring_dropped(loop->messages);
  if (dropped > 0) fprintf(stderr, "policy: (%llu lines were lost)\n", (unsigned long long)dropped);
}

/* Frees everything that only the running loop needs. */
static void release(struct loop *loop) {
  print_messages(loop);
  for (size_t i = 0; i < loop->object_count; i++) {
    loop->objects[i]->loops--;
    uffd_lua_object_release(loop->objects[i]);
  }
  free(loop->objects);
  loop->objects = NULL;
  loop->object_count = 0;
  uffd_lua_ring_release(loop->messages);
  uffd_lua_ring_release(loop->traces);
  loop->messages = loop->traces = NULL;
}

static int close_loop(struct loop *loop) {
  int result = loop->loop != NULL ? uffd_loop_close(loop->loop) : 0;
  if (result < 0) return result;
  loop->loop = NULL;
  release(loop);
  return 0;
}

/* The list of region handles, in the loop's user value. */
static void push_regions(lua_State *L, int loop) {
  lua_getiuservalue(L, loop, 1);
}

/*
 * A memory that a variable holds keeps the loop that serves it alive: if the collector closed the loop, missing pages
 * would read as zeros. The memory's handle has a set of its regions, and the regions hold their loops.
 */
static void tie(lua_State *L, int memory, int region) {
  if (lua_getiuservalue(L, memory, UFFD_LUA_MEMORY_REGIONS) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, memory, UFFD_LUA_MEMORY_REGIONS);
  }
  lua_pushvalue(L, region);
  lua_pushboolean(L, 1);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  lua_pushvalue(L, memory);
  lua_setiuservalue(L, region, REGION_MEMORY);
}

/* The region is over: its memory need not keep the loop any more. */
static void untie(lua_State *L, int region) {
  ((struct region *)lua_touserdata(L, region))->over = true;
  if (lua_getiuservalue(L, region, REGION_MEMORY) == LUA_TUSERDATA &&
      lua_getiuservalue(L, -1, UFFD_LUA_MEMORY_REGIONS) == LUA_TTABLE) {
    lua_pushvalue(L, region);
    lua_pushnil(L);
    lua_rawset(L, -3);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  lua_pushnil(L);
  lua_setiuservalue(L, region, REGION_MEMORY);
}

/* Marks all regions as over. Returns how many of them were not. */
static lua_Integer untie_all(lua_State *L, int loop) {
  push_regions(L, loop);
  int list = lua_gettop(L);
  lua_Integer count = luaL_len(L, list), served = 0;
  for (lua_Integer i = 1; i <= count; i++) {
    if (lua_geti(L, list, i) == LUA_TUSERDATA) {
      served += !((struct region *)lua_touserdata(L, -1))->over;
      untie(L, lua_gettop(L));
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return served;
}

static int loop_close(lua_State *L) {
  int result = close_loop(luaL_checkudata(L, 1, LOOP_TYPE));
  if (result == 0) untie_all(L, 1);
  return uffd_lua_done(L, result);
}

/* The collector closes the loop: the program has not closed it, and may still read pages that were not filled. */
static int loop_gc(lua_State *L) {
  struct loop *loop = luaL_checkudata(L, 1, LOOP_TYPE);
  bool open = loop->loop != NULL && loop->process == uffd_lua_process();
  close_loop(loop);
  lua_Integer served = open ? untie_all(L, 1) : 0;
  if (served > 0) {
    const char *text = lua_pushfstring(
        L, "uffd: a loop with %I region%s was collected before loop:close(): pages still missing read as zeros now",
        served, served == 1 ? "" : "s");
    lua_warning(L, text, 0);
  }
  return 0;
}

static void reserve_object(lua_State *L, struct loop *loop) {
  size_t bytes = (loop->object_count + 1) * sizeof(struct uffd_lua_object_ref *);
  struct uffd_lua_object_ref **objects = realloc(loop->objects, bytes);
  if (objects == NULL) uffd_lua_no_memory(L);
  loop->objects = objects;
}

static void hold_object(struct loop *loop, struct uffd_lua_object_ref *object) {
  object->count++;
  object->loops++;
  loop->objects[loop->object_count++] = object;
}

/* core.loop_add(loop, memory, resolver, offset, length, from, modes, around, on_error, object, retry_ms, retry_then) */
static int add(lua_State *L) {
  struct loop *loop = check(L, 1);
  uffd_memory *memory = uffd_lua_check_source(L, 2)->memory;
  uffd_resolver *resolver = uffd_lua_check_resolver(L, 3);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.offset = uffd_lua_opt_unsigned(L, 4, 0);
  opts.length = uffd_lua_opt_unsigned(L, 5, 0);
  opts.resolver_offset = uffd_lua_opt_unsigned(L, 6, 0);
  opts.modes = uffd_lua_mask(L, 7, &uffd_lua_modes);
  bool follows = lua_isnoneornil(L, 8) || (lua_type(L, 8) == LUA_TSTRING && strcmp(lua_tostring(L, 8), "auto") == 0);
  uint64_t around = follows ? UFFD_AROUND_AUTO : uffd_lua_unsigned(L, 8);
  opts.around = around != 0 ? around : UFFD_AROUND_PAGE;
  opts.on_error = uffd_lua_choice(L, 9, UFFD_ON_ERROR_DEFAULT, verdicts, "on_error");
  opts.retry_ms = uffd_lua_opt_u32(L, 11, 0);
  opts.retry_then = uffd_lua_choice(L, 12, UFFD_ON_ERROR_DEFAULT, verdicts, "retry_then");
  struct uffd_lua_object_ref *object = lua_isnoneornil(L, 10) ? NULL : uffd_lua_check_object(L, 10);
  if (object != NULL) {
    luaL_argcheck(L, !object->lent, 10, "a pager reads the events of this object");
    opts.object = object->object;
    reserve_object(L, loop);
  }
  push_regions(L, 1);
  int regions = lua_gettop(L);
  struct region *region = lua_newuserdatauv(L, sizeof(*region), REGION_VALUES);
  uint64_t size = uffd_memory_length(memory);
  uint64_t rest = opts.offset < size ? size - opts.offset : 0;
  *region = (struct region){.loop = loop,
                            .offset = opts.offset,
                            .length = opts.length != 0 ? opts.length : rest,
                            .page_size = uffd_memory_page_size(memory),
                            .index = luaL_len(L, regions) + 1};
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, REGION_LOOP);
  tie(L, 2, lua_gettop(L));
  opts.cookie = (void *)(uintptr_t)region->index;
  /* Makes room in the list first: nothing may fail after the region is served. */
  lua_pushboolean(L, 0);
  lua_seti(L, regions, region->index);
  struct uffd_lua_ring *before = uffd_lua_policy_messages(loop->messages);
  int result = uffd_loop_add(loop->loop, memory, resolver, &opts, &region->region);
  uffd_lua_policy_messages(before);
  if (result < 0) {
    untie(L, regions + 1);
    lua_pushnil(L);
    lua_seti(L, regions, region->index);
    return uffd_lua_fail(L, result);
  }
  if (object != NULL) hold_object(loop, object);
  luaL_setmetatable(L, REGION_TYPE);
  lua_pushvalue(L, -1);
  lua_seti(L, regions, region->index);
  return 1;
}

static int loop_regions(lua_State *L) {
  check(L, 1);
  push_regions(L, 1);
  lua_newtable(L);
  lua_Integer count = luaL_len(L, -2);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_geti(L, -2, i);
    lua_seti(L, -2, i);
  }
  return 1;
}

/* The argument as a region of this loop: a handle, an index, or nothing for the first. */
static struct region *region_argument(lua_State *L, int arg) {
  if (luaL_testudata(L, arg, REGION_TYPE) != NULL) {
    struct region *region = check_region(L, arg);
    luaL_argcheck(L, region->loop == lua_touserdata(L, 1), arg, "a region of another loop");
    return region;
  }
  lua_Integer index = luaL_optinteger(L, arg, 1);
  push_regions(L, 1);
  if (lua_geti(L, -1, index) != LUA_TUSERDATA)
    luaL_argerror(L, arg, lua_pushfstring(L, "the loop has no region %I", index));
  return check_region(L, lua_gettop(L));
}

static int prefetch(lua_State *L, const struct region *region, int first) {
  uint64_t offset = uffd_lua_opt_unsigned(L, first, 0);
  uint64_t length = uffd_lua_opt_unsigned(L, first + 1, 0);
  return uffd_lua_done(L, uffd_region_prefetch(region->region, offset, length));
}

static int loop_prefetch(lua_State *L) {
  check(L, 1);
  lua_settop(L, 4);
  return prefetch(L, region_argument(L, 4), 2);
}

static int ready(lua_State *L, const struct region *region, int first) {
  uint64_t offset = uffd_lua_opt_unsigned(L, first, 0);
  uint64_t length = uffd_lua_opt_unsigned(L, first + 1, 0);
  return uffd_lua_done(L, uffd_region_ready(region->region, offset, length));
}

static int loop_ready(lua_State *L) {
  check(L, 1);
  lua_settop(L, 4);
  return ready(L, region_argument(L, 4), 2);
}

static int loop_start(lua_State *L) {
  return uffd_lua_done(L, uffd_loop_start(check(L, 1)->loop));
}

static int loop_complete(lua_State *L) {
  int result = uffd_loop_complete(check(L, 1)->loop);
  if (result == 0) untie_all(L, 1);
  return uffd_lua_done(L, result);
}

static int region_prefetch(lua_State *L) {
  return prefetch(L, check_region(L, 1), 2);
}

static int region_ready(lua_State *L) {
  return ready(L, check_region(L, 1), 2);
}

/* core.prefetch_start(region, ranges, rate): ranges is a list of {offset, length}, nil: all of the region. */
static int prefetch_start(lua_State *L) {
  const struct region *region = check_region(L, 1);
  struct uffd_prefetch_opts opts = UFFD_PREFETCH_OPTS_INIT;
  opts.rate = uffd_lua_opt_unsigned(L, 3, 0);
  size_t count = lua_isnoneornil(L, 2) ? 0 : (luaL_checktype(L, 2, LUA_TTABLE), lua_rawlen(L, 2));
  bool all = lua_isnoneornil(L, 2);
  struct uffd_range *ranges = lua_newuserdatauv(L, (count + 1) * sizeof(*ranges), 0);
  ranges[0] = (struct uffd_range){0, 0};
  for (size_t i = 0; i < count; i++) {
    luaL_argcheck(L, lua_geti(L, 2, (lua_Integer)i + 1) == LUA_TTABLE, 2, "a list of ranges expected, each a table");
    lua_geti(L, -1, 1);
    lua_geti(L, -2, 2);
    ranges[i] = (struct uffd_range){uffd_lua_unsigned(L, -2), uffd_lua_unsigned(L, -1)};
    lua_pop(L, 3);
  }
  uffd_prefetch **prefetch = uffd_lua_new_prefetch(L);
  int result =
      uffd_region_prefetch_start(region->region, all ? NULL : ranges, all ? 0 : count + (count == 0), &opts, prefetch);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int region_complete(lua_State *L) {
  int result = uffd_region_complete(check_region(L, 1)->region);
  if (result == 0) untie(L, 1);
  return uffd_lua_done(L, result);
}

static int region_remove(lua_State *L) {
  int result = uffd_region_remove(check_region(L, 1)->region);
  if (result == 0) untie(L, 1);
  return uffd_lua_done(L, result);
}

static int region_set_resolver(lua_State *L) {
  const struct region *region = check_region(L, 1);
  uffd_resolver *resolver = uffd_lua_check_resolver(L, 2);
  struct uffd_lua_ring *before = uffd_lua_policy_messages(region->loop->messages);
  int result = uffd_region_set_resolver(region->region, resolver);
  uffd_lua_policy_messages(before);
  return uffd_lua_done(L, result);
}

static int region_index(lua_State *L) {
  static const char *const names[] = {"offset", "length", "page_size", "index"};
  if (uffd_lua_method(L)) return 1;
  const struct region *region = luaL_checkudata(L, 1, REGION_TYPE);
  const lua_Integer values[] = {(lua_Integer)region->offset, (lua_Integer)region->length,
                                (lua_Integer)region->page_size, region->index};
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
    if (strcmp(names[i], name) == 0) {
      lua_pushinteger(L, values[i]);
      return 1;
    }
  }
  lua_pushnil(L);
  return 1;
}

static int region_tostring(lua_State *L) {
  const struct region *region = luaL_checkudata(L, 1, REGION_TYPE);
  if (region->loop->loop == NULL) return uffd_lua_push_closed(L, REGION_TYPE);
  lua_pushfstring(L, "%s (%I bytes at %I, pages of %I)", REGION_TYPE, (lua_Integer)region->length,
                  (lua_Integer)region->offset, (lua_Integer)region->page_size);
  return 1;
}

static int loop_step(lua_State *L) {
  struct loop *loop = check(L, 1);
  int count = uffd_loop_step(loop->loop, uffd_lua_timeout(L, 2, 0));
  if (count < 0) return uffd_lua_fail(L, count);
  lua_pushinteger(L, count);
  return 1;
}

static int loop_fd(lua_State *L) {
  int fd = uffd_loop_fd(check(L, 1)->loop);
  if (fd < 0) return uffd_lua_fail(L, fd);
  lua_pushinteger(L, fd);
  return 1;
}

/* For cqueues: which events of the descriptor are waited for. */
static int loop_events(lua_State *L) {
  check(L, 1);
  lua_pushstring(L, "r");
  return 1;
}

/* Seconds, as cqueues counts; nil: no limit. */
static int loop_timeout(lua_State *L) {
  int timeout_ms = uffd_loop_timeout(check(L, 1)->loop);
  if (timeout_ms == -1)
    lua_pushnil(L);
  else if (timeout_ms < 0)
    return uffd_lua_fail(L, timeout_ms);
  else
    lua_pushnumber(L, timeout_ms / 1000.0);
  return 1;
}

/* For LuaSocket: true if something is buffered here. Never. */
static int loop_dirty(lua_State *L) {
  check(L, 1);
  lua_pushboolean(L, 0);
  return 1;
}

static int loop_stats(lua_State *L) {
  struct uffd_stats stats = UFFD_STATS_INIT;
  int result = uffd_loop_stats(check(L, 1)->loop, &stats);
  if (result < 0) return uffd_lua_fail(L, result);
  uffd_lua_push_stats(L, &stats);
  return 1;
}

/* A list of {up_to_ns=, count=}. */
static int push_buckets(lua_State *L, const struct uffd_bucket *buckets, int count) {
  if (count < 0) return uffd_lua_fail(L, count);
  lua_createtable(L, count, 1);
  for (int i = 0; i < count; i++) {
    lua_createtable(L, 0, 2);
    uffd_lua_set_integer(L, "up_to_ns", buckets[i].up_to_ns);
    uffd_lua_set_integer(L, "count", buckets[i].count);
    lua_seti(L, -2, i + 1);
  }
  return 1;
}

static int loop_histogram(lua_State *L) {
  struct uffd_bucket buckets[UFFD_HISTOGRAM_BUCKETS];
  return push_buckets(L, buckets, uffd_loop_histogram(check(L, 1)->loop, buckets, UFFD_HISTOGRAM_BUCKETS));
}

static int region_histogram(lua_State *L) {
  struct uffd_bucket buckets[UFFD_HISTOGRAM_BUCKETS];
  return push_buckets(L, buckets, uffd_region_histogram(check_region(L, 1)->region, buckets, UFFD_HISTOGRAM_BUCKETS));
}

static int loop_oldest(lua_State *L) {
  struct uffd_waiting waiting = UFFD_WAITING_INIT;
  int result = uffd_loop_oldest(check(L, 1)->loop, &waiting);
  if (result < 0) return uffd_lua_fail(L, result);
  if (result == 0) {
    lua_pushnil(L);
    return 1;
  }
  const struct {
    const char *name;
    uint64_t value;
  } fields[] = {{"offset", waiting.offset}, {"address", waiting.address}, {"flags", waiting.flags},
                {"tid", waiting.tid},       {"handler", waiting.handler}, {"region", (uintptr_t)waiting.cookie}};
  lua_createtable(L, 0, 8);
  for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
    lua_pushinteger(L, (lua_Integer)fields[i].value);
    lua_setfield(L, -2, fields[i].name);
  }
  lua_pushnumber(L, (lua_Number)waiting.age_ns / 1e9);
  lua_setfield(L, -2, "age");
  lua_pushstring(L, waiting.resolver);
  lua_setfield(L, -2, "resolver");
  return 1;
}

static int loop_error(lua_State *L) {
  char text[1024];
  int error = uffd_loop_error(check(L, 1)->loop, text, sizeof(text));
  if (error < 0) return uffd_lua_fail(L, error);
  if (error == 0) return 0;
  lua_pushstring(L, text);
  lua_pushinteger(L, error);
  return 2;
}

static int loop_user_mode_only(lua_State *L) {
  int only = uffd_loop_user_mode_only(check(L, 1)->loop);
  if (only < 0) return uffd_lua_fail(L, only);
  lua_pushboolean(L, only);
  return 1;
}

static int next_message(lua_State *L) {
  struct loop *loop = check(L, 1);
  struct uffd_lua_message message;
  uint64_t dropped = uffd_lua_ring_dropped(loop->messages);
  if (dropped > 0) {
    lua_pushfstring(L, "(%I lines were lost)", (lua_Integer)dropped);
    return 1;
  }
  if (!uffd_lua_ring_pop(loop->messages, &message)) return 0;
  lua_pushlstring(L, message.text, message.length);
  if (message.failure)
    lua_pushnil(L);
  else
    lua_pushinteger(L, message.handler);
  lua_pushstring(L, message.failure ? "failure" : "log");
  return 3;
}

static int loop_messages(lua_State *L) {
  check(L, 1);
  lua_pushcfunction(L, next_message);
  lua_pushvalue(L, 1);
  return 2;
}

static void record(void *ctx, const struct uffd_trace *trace) {
  uffd_lua_ring_push(ctx, trace);
}

static int loop_trace(lua_State *L) {
  struct loop *loop = check(L, 1);
  bool on = lua_isnone(L, 2) || lua_toboolean(L, 2);
  uint64_t room = uffd_lua_opt_unsigned(L, 3, TRACES);
  luaL_argcheck(L, room >= 1 && room <= 1 << 24, 3, "1 to 16777216 records");
  if (on && loop->traces == NULL) {
    loop->traces = uffd_lua_ring_new(sizeof(struct uffd_trace), room);
    if (loop->traces == NULL) uffd_lua_no_memory(L);
  }
  return uffd_lua_done(L, uffd_loop_trace(loop->loop, on ? record : NULL, loop->traces));
}

/* core.methods.loop.trace_to(loop, path, format, append, room, number) */
static int loop_trace_to(lua_State *L) {
  static const char *const formats[] = {"auto", "ndjson", "csv", NULL};
  struct loop *loop = check(L, 1);
  const char *path = luaL_optstring(L, 2, NULL);
  struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
  opts.format = uffd_lua_choice(L, 3, UFFD_TRACE_AUTO, formats, "format");
  opts.flags = lua_toboolean(L, 4) ? UFFD_TRACE_APPEND : 0;
  opts.room = uffd_lua_opt_u32(L, 5, 0);
  opts.loop = uffd_lua_opt_u32(L, 6, 0);
  return uffd_lua_done(L, uffd_loop_trace_to(loop->loop, path, &opts));
}

static void push_trace(lua_State *L, const struct uffd_trace *trace) {
  lua_createtable(L, 0, 12);
  uffd_lua_set_integer(L, "time_ns", trace->time_ns);
  uffd_lua_set_integer(L, "latency_ns", trace->latency_ns);
  uffd_lua_set_integer(L, "region", (uint64_t)(uintptr_t)trace->cookie);
  uffd_lua_set_integer(L, "offset", trace->offset);
  uffd_lua_set_integer(L, "cover", trace->cover);
  uffd_lua_set_integer(L, "flags", trace->flags);
  uffd_lua_set_integer(L, "tid", trace->tid);
  uffd_lua_set_integer(L, "handler", trace->handler);
  lua_pushstring(L, uffd_answer_name(trace->answer));
  lua_setfield(L, -2, "answer");
  lua_pushstring(L, uffd_outcome_name(trace->outcome));
  lua_setfield(L, -2, "outcome");
  if (trace->error != 0) uffd_lua_set_integer(L, "error", (uint64_t)trace->error);
}

static int next_trace(lua_State *L) {
  struct loop *loop = check(L, 1);
  struct uffd_trace trace;
  if (loop->traces == NULL || !uffd_lua_ring_pop(loop->traces, &trace)) return 0;
  push_trace(L, &trace);
  uint64_t dropped = uffd_lua_ring_dropped(loop->traces);
  if (dropped > 0) uffd_lua_set_integer(L, "dropped", dropped);
  return 1;
}

static int loop_traces(lua_State *L) {
  check(L, 1);
  lua_pushcfunction(L, next_trace);
  lua_pushvalue(L, 1);
  return 2;
}

static int loop_tostring(lua_State *L) {
  struct loop *loop = luaL_checkudata(L, 1, LOOP_TYPE);
  if (loop->loop == NULL) return uffd_lua_push_closed(L, LOOP_TYPE);
  push_regions(L, 1);
  lua_Integer count = luaL_len(L, -1);
  lua_pushfstring(L, "%s (%s, %I region%s)", LOOP_TYPE, engines[loop->engine], count, count == 1 ? "" : "s");
  return 1;
}

static int loop_engine(lua_State *L) {
  const char *why;
  lua_pushstring(L, engines[uffd_loop_engine(check(L, 1)->loop, &why)]);
  lua_pushstring(L, why);
  return 2;
}

static int loop_placement(lua_State *L) {
  const char *why;
  lua_pushstring(L, placements[uffd_loop_placement(check(L, 1)->loop, &why)]);
  lua_pushstring(L, why);
  return 2;
}

static const luaL_Reg loop_methods[] = {{"engine", loop_engine},
                                        {"placement", loop_placement},
                                        {"start", loop_start},
                                        {"oldest", loop_oldest},
                                        {"regions", loop_regions},
                                        {"prefetch", loop_prefetch},
                                        {"ready", loop_ready},
                                        {"complete", loop_complete},
                                        {"step", loop_step},
                                        {"fd", loop_fd},
                                        {"getfd", loop_fd},
                                        {"pollfd", loop_fd},
                                        {"events", loop_events},
                                        {"timeout", loop_timeout},
                                        {"dirty", loop_dirty},
                                        {"stats", loop_stats},
                                        {"histogram", loop_histogram},
                                        {"error", loop_error},
                                        {"user_mode_only", loop_user_mode_only},
                                        {"messages", loop_messages},
                                        {"trace", loop_trace},
                                        {"traces", loop_traces},
                                        {"trace_to", loop_trace_to},
                                        {"close", loop_close},
                                        {NULL, NULL}};

static const luaL_Reg loop_meta[] = {
    {"__gc", loop_gc}, {"__close", loop_close}, {"__tostring", loop_tostring}, {NULL, NULL}};

static const luaL_Reg region_methods[] = {{"prefetch", region_prefetch},
                                          {"ready", region_ready},
                                          {"complete", region_complete},
                                          {"remove", region_remove},
                                          {"histogram", region_histogram},
                                          {"set_resolver", region_set_resolver},
                                          {NULL, NULL}};

static const luaL_Reg region_meta[] = {{"__tostring", region_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"loop_create", create}, {"loop_add", add}, {"prefetch_start", prefetch_start}, {NULL, NULL}};

void uffd_lua_open_loop(lua_State *L) {
  uffd_lua_class(L, LOOP_TYPE, NULL, loop_meta, loop_methods);
  uffd_lua_class(L, REGION_TYPE, region_index, region_meta, region_methods);
  luaL_setfuncs(L, functions, 0);
}
