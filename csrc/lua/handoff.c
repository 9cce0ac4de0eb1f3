/*
 * uffd.handoff: memory of this process that a pager serves. The handoff owns the object and closes it, and only the
 * pager reads its events.
 */
#include <stdlib.h>
#include <string.h>

#include "util.h"

#include "uffd_pager.h"

struct handoff {
  uffd_handoff *handoff; /* NULL: closed */
  uint64_t process;
  struct uffd_lua_memory_ref **memories; /* each held once */
  size_t memory_count;
  struct uffd_lua_object_ref *object; /* NULL: never asked for */
};

static struct handoff *check(lua_State *L, int arg) {
  struct handoff *handoff = luaL_checkudata(L, arg, HANDOFF_TYPE);
  uffd_lua_check_handle(L, HANDOFF_TYPE, handoff->handoff != NULL, handoff->process);
  return handoff;
}

static void close_handoff(struct handoff *handoff) {
  if (handoff->object != NULL) {
    handoff->object->object = NULL; /* handles of it are closed from now on */
    uffd_lua_object_release(handoff->object);
    handoff->object = NULL;
  }
  uffd_handoff_close(handoff->handoff);
  handoff->handoff = NULL;
  for (size_t i = 0; i < handoff->memory_count; i++)
    uffd_lua_memory_release(handoff->memories[i]);
  free(handoff->memories);
  handoff->memories = NULL;
  handoff->memory_count = 0;
}

/* {memory, offset} on top of the stack. */
static void read_part(lua_State *L, lua_Integer index, struct handoff *handoff, struct uffd_handoff_part *part) {
  int exact = 1;
  if (!lua_istable(L, -1))
    luaL_error(L, "part %I is a %s; it must be a table: { memory, offset }", index, luaL_typename(L, -1));
  lua_geti(L, -1, 1);
  if (!uffd_lua_is_memory(L, -1)) luaL_error(L, "part %I: its memory is a %s", index, luaL_typename(L, -1));
  struct uffd_lua_memory_ref *memory = uffd_lua_check_source(L, lua_gettop(L));
  lua_geti(L, -2, 2);
  lua_Integer offset = lua_isnil(L, -1) ? 0 : lua_tointegerx(L, -1, &exact);
  if (!exact || offset < 0) luaL_error(L, "part %I: its offset must be an integer from 0 on", index);
  lua_pop(L, 2);
  atomic_fetch_add(&memory->count, 1);
  handoff->memories[handoff->memory_count++] = memory;
  *part = (struct uffd_handoff_part){memory->memory, (uint64_t)offset};
}

/* core.handoff(socket, parts, timeout_ms, features, open_flags, no_answer, label, part, later) */
static int hand_over(lua_State *L) {
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  const char *socket = luaL_checkstring(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  opts.timeout_ms = uffd_lua_opt_u32(L, 3, 0);
  opts.features = uffd_lua_mask(L, 4, &uffd_lua_features);
  opts.open_flags = uffd_lua_opt_u32(L, 5, 0);
  opts.flags = (lua_toboolean(L, 6) ? UFFD_HANDOFF_NO_ANSWER : 0) | (lua_toboolean(L, 8) ? UFFD_HANDOFF_PART : 0) |
               (lua_toboolean(L, 9) ? UFFD_HANDOFF_LATER : 0);
  size_t length = 0;
  opts.label = luaL_optlstring(L, 7, NULL, &length);
  luaL_argcheck(L, opts.label == NULL || strlen(opts.label) == length, 7, "a label has no zero byte");
  lua_Integer count = luaL_len(L, 2);
  luaL_argcheck(L, count >= 0 && count < 1 << 16, 2, "too many parts");
  struct uffd_handoff_part *parts = lua_newuserdatauv(L, ((size_t)count + 1) * sizeof(*parts), 0);
  struct handoff *handoff = lua_newuserdatauv(L, sizeof(*handoff), 0);
  *handoff = (struct handoff){.process = uffd_lua_process()};
  luaL_setmetatable(L, HANDOFF_TYPE);
  handoff->memories = calloc((size_t)count + 1, sizeof(struct uffd_lua_memory_ref *));
  if (handoff->memories == NULL) uffd_lua_no_memory(L);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_geti(L, 2, i);
    read_part(L, i, handoff, &parts[i - 1]);
    lua_pop(L, 1);
  }
  int result = uffd_handoff_send(socket, parts, (size_t)count, &opts, &handoff->handoff);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* core.handoff_map(socket, timeout_ms, fork) */
static int map(lua_State *L) {
  struct uffd_handoff_map_opts opts = UFFD_HANDOFF_MAP_OPTS_INIT;
  const char *socket = luaL_checkstring(L, 1);
  opts.timeout_ms = uffd_lua_opt_u32(L, 2, 0);
  opts.flags = lua_toboolean(L, 3) ? UFFD_MAP_FORK : 0;
  struct uffd_lua_memory_ref *ref = uffd_lua_push_memory(L);
  int result = uffd_handoff_map(socket, &opts, &ref->memory);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int handoff_close(lua_State *L) {
  close_handoff(luaL_checkudata(L, 1, HANDOFF_TYPE));
  lua_pushboolean(L, 1);
  return 1;
}

static int handoff_complete(lua_State *L) {
  uffd_handoff *handoff = check(L, 1)->handoff;
  uffd_lua_waiting(L, true);
  int result = uffd_handoff_complete(handoff);
  uffd_lua_waiting(L, false);
  return uffd_lua_done(L, result);
}

static int handoff_fill(lua_State *L) {
  return uffd_lua_done(L, uffd_handoff_fill(check(L, 1)->handoff));
}

static int handoff_attach(lua_State *L) {
  uffd_handoff *handoff = check(L, 1)->handoff;
  return uffd_lua_done(L, uffd_handoff_attach(handoff, luaL_checkstring(L, 2)));
}

static int handoff_object(lua_State *L) {
  struct handoff *handoff = check(L, 1);
  handoff->object = uffd_lua_lend_object(L, uffd_handoff_object(handoff->handoff), handoff->object);
  return 1;
}

static int handoff_tostring(lua_State *L) {
  struct handoff *handoff = luaL_checkudata(L, 1, HANDOFF_TYPE);
  if (handoff->handoff == NULL) return uffd_lua_push_closed(L, HANDOFF_TYPE);
  lua_pushfstring(L, "%s (%d %s)", HANDOFF_TYPE, (int)handoff->memory_count,
                  handoff->memory_count == 1 ? "memory" : "memories");
  return 1;
}

static const luaL_Reg methods[] = {{"complete", handoff_complete}, {"fill", handoff_fill},   {"attach", handoff_attach},
                                   {"object", handoff_object},     {"close", handoff_close}, {NULL, NULL}};

static const luaL_Reg meta[] = {
    {"__gc", handoff_close}, {"__close", handoff_close}, {"__tostring", handoff_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"handoff", hand_over}, {"handoff_map", map}, {NULL, NULL}};

void uffd_lua_open_handoff(lua_State *L) {
  uffd_lua_class(L, HANDOFF_TYPE, NULL, meta, methods);
  luaL_setfuncs(L, functions, 0);
}
