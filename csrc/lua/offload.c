/* core.offload_restore, core.offload_snapshot: virtual machines of Cloud Hypervisor, by its offload protocol. */
#include "util.h"

#include "uffd_pager.h"

/* What happened, as a table on top of the stack. */
static int push_result(lua_State *L, const struct uffd_offload_result *result, bool restores) {
  lua_createtable(L, 0, 7);
  uffd_lua_set_integer(L, "slots", result->slots);
  uffd_lua_set_integer(L, "bytes", result->bytes);
  if (!restores) return 1;
  uffd_lua_set_integer(L, "requests", result->requests);
  uffd_lua_set_integer(L, "failed", result->failed);
  uffd_lua_set_integer(L, "restarts", result->restarts);
  uffd_lua_set_integer(L, "doubts", result->doubts);
  lua_pushboolean(L, result->paused != 0);
  lua_setfield(L, -2, "paused");
  return 1;
}

/* The function at index 8. What it raises is dropped: the machine needs its pages. */
static void tell_restored(void *ctx) {
  lua_State *L = ctx;
  if (lua_isnil(L, 8)) return;
  lua_pushvalue(L, 8);
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) lua_pop(L, 1);
  uffd_lua_before_fork(L); /* the function may have waited for a page */
}

/* core.offload_restore(socket, directory, door, label, page_size, timeout_ms, paused, restored) */
static int restore(lua_State *L) {
  struct uffd_offload_opts opts = UFFD_OFFLOAD_OPTS_INIT;
  struct uffd_offload_result result = UFFD_OFFLOAD_RESULT_INIT;
  opts.socket = luaL_checkstring(L, 1);
  opts.directory = luaL_checkstring(L, 2);
  opts.door = luaL_checkstring(L, 3);
  opts.label = luaL_optstring(L, 4, NULL);
  opts.page_size = lua_isnoneornil(L, 5) ? 0 : uffd_lua_unsigned(L, 5);
  opts.timeout_ms = uffd_lua_opt_u32(L, 6, 0);
  opts.flags = lua_toboolean(L, 7) ? UFFD_OFFLOAD_PAUSED : 0;
  lua_settop(L, 8);
  if (!lua_isnil(L, 8)) luaL_checktype(L, 8, LUA_TFUNCTION);
  opts.restored = tell_restored;
  opts.restored_ctx = L;
  uffd_lua_before_fork(L); /* it touches no page itself, so signals need no thread */
  int done = uffd_offload_restore(&opts, &result);
  return done < 0 ? uffd_lua_fail(L, done) : push_result(L, &result, true);
}

/* core.offload_snapshot(socket, directory, timeout_ms) */
static int snapshot(lua_State *L) {
  struct uffd_offload_opts opts = UFFD_OFFLOAD_OPTS_INIT;
  struct uffd_offload_result result = UFFD_OFFLOAD_RESULT_INIT;
  opts.socket = luaL_checkstring(L, 1);
  opts.directory = luaL_checkstring(L, 2);
  opts.timeout_ms = uffd_lua_opt_u32(L, 3, 0);
  uffd_lua_waiting(L, true);
  int done = uffd_offload_snapshot(&opts, &result);
  uffd_lua_waiting(L, false);
  return done < 0 ? uffd_lua_fail(L, done) : push_result(L, &result, false);
}

static const luaL_Reg functions[] = {{"offload_restore", restore}, {"offload_snapshot", snapshot}, {NULL, NULL}};

void uffd_lua_open_offload(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
