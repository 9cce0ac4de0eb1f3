/* Runs what the command line and LUA_INIT ask for. */
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "runner/runner.h"

static int run_loaded(lua_State *L, int status) {
  if (status == LUA_OK) status = uffd_call(L, 0, 0);
  return uffd_report_status(L, status);
}

static int run_string(lua_State *L, const char *code, const char *name) {
  return run_loaded(L, luaL_loadbuffer(L, code, strlen(code), name));
}

int uffd_run_stdin(lua_State *L) {
  return run_loaded(L, luaL_loadfile(L, NULL));
}

int uffd_run_init(lua_State *L) {
  const char *name = "=LUA_INIT_" LUA_VERSION_MAJOR "_" LUA_VERSION_MINOR;
  const char *init = getenv(name + 1);
  if (init == NULL) {
    name = "=LUA_INIT";
    init = getenv(name + 1);
  }
  if (init == NULL) return LUA_OK;
  return init[0] == '@' ? run_loaded(L, luaL_loadfile(L, init + 1)) : run_string(L, init, name);
}

/* -l mod, -l global=mod */
static int run_require(lua_State *L, const char *text) {
  const char *equals = strchr(text, '=');
  const char *module = equals == NULL ? text : equals + 1;
  lua_getglobal(L, "require");
  lua_pushstring(L, module);
  int status = uffd_call(L, 1, 1);
  if (status != LUA_OK) return uffd_report_status(L, status);
  lua_pushglobaltable(L);
  lua_pushlstring(L, text, equals == NULL ? strlen(text) : (size_t)(equals - text));
  lua_rotate(L, -3, -1);
  lua_settable(L, -3);
  lua_pop(L, 1);
  return LUA_OK;
}

int uffd_run_options(lua_State *L, const struct uffd_options *options) {
  for (int i = 1; i < options->script && i < options->argc; i++) {
    const char *option = options->argv[i];
    if (option[0] != '-') break; /* a command's word */
    if (option[1] == 'W') lua_warning(L, "@on", 0);
    if (option[1] != 'e' && option[1] != 'l') continue;
    const char *text = option[2] != '\0' ? option + 2 : options->argv[++i];
    int status = option[1] == 'e' ? run_string(L, text, "=(command line)") : run_require(L, text);
    if (status != LUA_OK) return status;
  }
  return LUA_OK;
}

int uffd_load_script(lua_State *L, const struct uffd_options *options) {
  const char *path = options->script_is_stdin ? NULL : options->argv[options->script];
  return uffd_report_status(L, luaL_loadfile(L, path));
}

static int spread_arguments(lua_State *L) {
  if (lua_getglobal(L, "arg") != LUA_TTABLE) return luaL_error(L, "'arg' is not a table");
  int count = (int)luaL_len(L, -1);
  luaL_checkstack(L, count + 3, "too many arguments to script");
  for (int i = 1; i <= count; i++)
    lua_rawgeti(L, 1, i);
  return count;
}

int uffd_push_arguments(lua_State *L) {
  int top = lua_gettop(L);
  lua_pushcfunction(L, spread_arguments);
  return uffd_report_status(L, uffd_call(L, 0, LUA_MULTRET)) == LUA_OK ? lua_gettop(L) - top : -1;
}

int uffd_run_script(lua_State *L, const struct uffd_options *options) {
  int status = uffd_load_script(L, options);
  if (status != LUA_OK) return status;
  int count = uffd_push_arguments(L);
  if (count < 0) {
    lua_pop(L, 1);
    return LUA_ERRRUN;
  }
  return uffd_report_status(L, uffd_call(L, count, LUA_MULTRET));
}
