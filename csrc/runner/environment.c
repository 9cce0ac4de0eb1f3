/*
 * What a script finds when it starts: the libraries, arg, and uffd. The program contains all of uffd, its Lua files
 * too, so files of another version on LUA_PATH are not mixed with it. Other modules are found as lua finds them, and in
 * the prefix of the installation.
 */
#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <uffd.h>
#include <unistd.h>

#include "runner/embedded.h"
#include "runner/runner.h"

int luaopen_uffd_core(lua_State *L);

#define LUA_X_Y        LUA_VERSION_MAJOR "." LUA_VERSION_MINOR
#define LUA_ENV_SUFFIX "_" LUA_VERSION_MAJOR "_" LUA_VERSION_MINOR

/* Pushes "/prefix" for /prefix/bin/uffd-lua; nothing when the path is not known. */
static bool push_prefix(lua_State *L) {
  char path[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length <= 0) return false;
  path[length] = '\0';
  for (int parents = 2; parents > 0; parents--) {
    char *slash = strrchr(path, '/');
    if (slash == NULL) return false;
    *slash = '\0';
  }
  lua_pushstring(L, path);
  return true;
}

static bool user_set(const char *name, const char *versioned, bool no_environment) {
  return !no_environment && (getenv(versioned) != NULL || getenv(name) != NULL);
}

/* Adds the path on the top of the stack to package[field]: before Lua's default, after what the user has set. */
static void add_path(lua_State *L, int package, const char *field, bool after) {
  lua_getfield(L, package, field);
  if (after) lua_insert(L, -2);
  lua_pushliteral(L, ";");
  lua_insert(L, -2);
  lua_concat(L, 3);
  lua_setfield(L, package, field);
}

static void add_prefix(lua_State *L, int package, bool no_environment) {
  if (!push_prefix(L)) return;
  const char *prefix = lua_tostring(L, -1);
  lua_pushfstring(L, "%s/share/lua/" LUA_X_Y "/?.lua;%s/share/lua/" LUA_X_Y "/?/init.lua", prefix, prefix);
  add_path(L, package, "path", user_set("LUA_PATH", "LUA_PATH" LUA_ENV_SUFFIX, no_environment));
  lua_pushfstring(L, "%s/lib/lua/" LUA_X_Y "/?.so", prefix);
  add_path(L, package, "cpath", user_set("LUA_CPATH", "LUA_CPATH" LUA_ENV_SUFFIX, no_environment));
  lua_pop(L, 1);
}

/* A searcher of package.searchers: the Lua files of uffd inside the program. */
static int find_embedded(lua_State *L) {
  const char *module = luaL_checkstring(L, 1);
  for (const struct uffd_embedded *file = uffd_embedded; file->module != NULL; file++) {
    if (strcmp(file->module, module) != 0) continue;
    const char *name = lua_pushfstring(L, "@%s/%s", UFFD_PROGRAM, file->file);
    if (luaL_loadbuffer(L, (const char *)file->source, file->length, name) != LUA_OK) return lua_error(L);
    lua_pushstring(L, name + 1);
    return 2;
  }
  if (strncmp(module, "uffd", 4) != 0 || (module[4] != '.' && module[4] != '\0')) return 0;
  lua_pushfstring(L, "no module '%s' in %s", module, UFFD_PROGRAM);
  return 1;
}

static void add_uffd(lua_State *L, int package) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_uffd_core);
  lua_setfield(L, -2, "uffd.core");
#ifdef UFFD_WITH_PNG
  lua_pushcfunction(L, luaopen_uffd_png);
  lua_setfield(L, -2, "uffd.png");
#endif
  lua_pop(L, 1);
  lua_getfield(L, package, "searchers");
  for (lua_Integer i = luaL_len(L, -1); i > 1; i--) { /* right behind what is preloaded */
    lua_rawgeti(L, -1, i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushcfunction(L, find_embedded);
  lua_rawseti(L, -2, 2);
  lua_pop(L, 1);
}

/* arg[0] is the script, what comes before it has negative indices; without a script arg[0] is the program. */
static void set_arg(lua_State *L, const struct uffd_options *options) {
  int zero = options->script < options->argc ? options->script : 0;
  lua_createtable(L, options->argc - zero, zero);
  for (int i = 0; i < options->argc; i++) {
    lua_pushstring(L, options->argv[i]);
    lua_rawseti(L, -2, i - zero);
  }
  lua_setglobal(L, "arg");
}

/*
 * Opens Lua's own libraries and uffd. The program exports this function, and the loader prefers it to that of liblua.
 * So Lua states that luv and cqueues make for their threads, and open with it, find uffd too.
 */
UFFD_EXPORT void luaL_openlibs(lua_State *L) {
  static const luaL_Reg libraries[] = {
      {LUA_GNAME, luaopen_base},        {LUA_LOADLIBNAME, luaopen_package}, {LUA_COLIBNAME, luaopen_coroutine},
      {LUA_TABLIBNAME, luaopen_table},  {LUA_IOLIBNAME, luaopen_io},        {LUA_OSLIBNAME, luaopen_os},
      {LUA_STRLIBNAME, luaopen_string}, {LUA_MATHLIBNAME, luaopen_math},    {LUA_UTF8LIBNAME, luaopen_utf8},
      {LUA_DBLIBNAME, luaopen_debug},
  };
  for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
    luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
    lua_pop(L, 1);
  }
  bool no_environment = lua_getfield(L, LUA_REGISTRYINDEX, "LUA_NOENV") == LUA_TBOOLEAN && lua_toboolean(L, -1);
  lua_pop(L, 1);
  lua_getglobal(L, LUA_LOADLIBNAME);
  int package = lua_gettop(L);
  add_prefix(L, package, no_environment);
  add_uffd(L, package);
  lua_pop(L, 1);
}

void uffd_open_environment(lua_State *L, const struct uffd_options *options) {
  if (options->no_environment) { /* package reads this as it is opened */
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
  }
  luaL_openlibs(L);
  set_arg(L, options);
  uffd_open_interrupts(L);
  lua_gc(L, LUA_GCGEN, 0, 0); /* as lua does */
}
