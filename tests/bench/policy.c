/*
 * Lua programs that serve memory with a policy.
 */
#include "policy.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "runner/embedded.h"
#include "serve.h"

int luaopen_uffd_core(lua_State *L);

static const char program[] = "local factory, engine, size = ...\n"
                              "local uffd = require 'uffd'\n"
                              "local policy = assert(uffd.resolver.policy(load(factory)()))\n"
                              "local memory = assert(uffd.map { size = size })\n"
                              "local loop = assert(uffd.serve { engine = engine,\n"
                              "  { memory = memory, resolver = policy } })\n"
                              "return memory.address, function() assert(loop:close()) memory:close() end\n";

/* A searcher of package.searchers: the Lua files of uffd are in the program. */
static int find_embedded(lua_State *L) {
  const char *module = luaL_checkstring(L, 1);
  for (const struct uffd_embedded *file = uffd_embedded; file->module != NULL; file++) {
    if (strcmp(file->module, module) != 0) continue;
    if (luaL_loadbuffer(L, (const char *)file->source, file->length, file->file) != LUA_OK) return lua_error(L);
    return 1;
  }
  return 0;
}

lua_State *policy_state(void) {
  lua_State *L = luaL_newstate();
  if (L == NULL) die("no memory for a Lua state");
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_uffd_core);
  lua_setfield(L, -2, "uffd.core");
  lua_getglobal(L, LUA_LOADLIBNAME);
  lua_getfield(L, -1, "searchers");
  lua_pushcfunction(L, find_embedded);
  lua_rawseti(L, -2, 2); /* before those that look for files */
  lua_settop(L, 0);
  return L;
}

void policy_call(lua_State *L, int arguments, int results) {
  if (lua_pcall(L, arguments, results, 0) != LUA_OK) die("%s", lua_tostring(L, -1));
}

void serve_policy(const struct plan *plan, bool check, double figures[FIGURES]) {
  lua_State *L = policy_state();
  if (luaL_loadstring(L, program) != LUA_OK) die("%s", lua_tostring(L, -1));
  lua_pushstring(L, plan->special);
  lua_pushstring(L, engine_name(plan->engine));
  lua_pushinteger(L, (lua_Integer)plan->length);
  policy_call(L, 3, 2);
  char *memory = (char *)(uintptr_t)lua_tointeger(L, 1);
  plan_touch(plan, memory, figures);
  if (check) plan_check(plan, memory);
  policy_call(L, 0, 0);
  lua_close(L);
}

bool policy_has_engine(const char *engine) {
  lua_State *L = policy_state();
  lua_pushfstring(L, "require('uffd').serve { engine = '%s' }:close()", engine);
  bool has = luaL_dostring(L, lua_tostring(L, -1)) == LUA_OK;
  lua_close(L);
  return has;
}
