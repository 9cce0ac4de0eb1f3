/*
 * uffd.prefetch: ranges of a region that are filled in the background. The handle stays valid after its loop, which
 * ends the prefetch.
 */
#include "util.h"

struct prefetch {
  uffd_prefetch *prefetch; /* NULL: closed */
  uint64_t process;
};

static uffd_prefetch *check(lua_State *L, int arg) {
  struct prefetch *prefetch = luaL_checkudata(L, arg, PREFETCH_TYPE);
  uffd_lua_check_handle(L, PREFETCH_TYPE, prefetch->prefetch != NULL, prefetch->process);
  return prefetch->prefetch;
}

uffd_prefetch **uffd_lua_new_prefetch(lua_State *L) {
  struct prefetch *prefetch = lua_newuserdatauv(L, sizeof(*prefetch), 0);
  *prefetch = (struct prefetch){.process = uffd_lua_process()};
  luaL_setmetatable(L, PREFETCH_TYPE);
  return &prefetch->prefetch;
}

static int close(lua_State *L) {
  struct prefetch *prefetch = luaL_checkudata(L, 1, PREFETCH_TYPE);
  uffd_prefetch_close(prefetch->prefetch);
  prefetch->prefetch = NULL;
  lua_pushboolean(L, 1);
  return 1;
}

static int status(lua_State *L) {
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  int result = uffd_prefetch_status(check(L, 1), &status);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_createtable(L, 0, 4);
  lua_pushboolean(L, status.done);
  lua_setfield(L, -2, "done");
  if (status.error != 0) uffd_lua_set_integer(L, "error", (uint64_t)status.error);
  uffd_lua_set_integer(L, "bytes_wanted", status.bytes_wanted);
  uffd_lua_set_integer(L, "bytes_done", status.bytes_done);
  return 1;
}

static int wait(lua_State *L) {
  int result = uffd_prefetch_wait(check(L, 1), uffd_lua_timeout(L, 2, -1));
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushboolean(L, result);
  return 1;
}

static int tostring(lua_State *L) {
  const struct prefetch *prefetch = luaL_checkudata(L, 1, PREFETCH_TYPE);
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  if (prefetch->prefetch == NULL) return uffd_lua_push_closed(L, PREFETCH_TYPE);
  uffd_prefetch_status(prefetch->prefetch, &status);
  lua_pushfstring(L, "%s (%I of %I bytes)", PREFETCH_TYPE, (lua_Integer)status.bytes_done,
                  (lua_Integer)status.bytes_wanted);
  return 1;
}

static const luaL_Reg methods[] = {{"status", status}, {"wait", wait}, {"close", close}, {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", close}, {"__close", close}, {"__tostring", tostring}, {NULL, NULL}};

void uffd_lua_open_prefetch(lua_State *L) {
  uffd_lua_class(L, PREFETCH_TYPE, NULL, meta, methods);
}
