/*
 * What uffd-lua can do beside running scripts. A new command is a row of the table. A command that is a word is a
 * module in lua/uffd: a function of the arguments, which returns the exit code.
 */
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "runner/runner.h"

/* Calls a Lua module of uffd, which is a function, with the values above it on the stack. It returns the exit code. */
static int call_module(lua_State *L, int count) {
  int code = UFFD_EXIT_ERROR;
  if (uffd_report_status(L, uffd_call(L, count, 1)) == LUA_OK) {
    code = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  return code;
}

static int push_module(lua_State *L, const char *name) {
  lua_getglobal(L, "require");
  lua_pushstring(L, name);
  return uffd_report_status(L, uffd_call(L, 1, 1));
}

static int run_info(lua_State *L, const struct uffd_options *options) {
  if (push_module(L, "uffd.info") != LUA_OK) return UFFD_EXIT_ERROR;
  lua_pushstring(L, options->value);
  return call_module(L, 1);
}

static int run_check(lua_State *L, const struct uffd_options *options) {
  if (push_module(L, "uffd.check") != LUA_OK) return UFFD_EXIT_ERROR;
  if (uffd_load_script(L, options) != LUA_OK) return UFFD_EXIT_ERROR;
  lua_pushstring(L, options->argv[options->script]);
  lua_insert(L, -2);
  int count = uffd_push_arguments(L);
  return count < 0 ? UFFD_EXIT_ERROR : call_module(L, count + 2);
}

/* A command that is a word: runs the module of that name with all arguments. */
static int run_word(lua_State *L, const struct uffd_options *options) {
  const char *module = lua_pushfstring(L, "uffd.%s", options->command->name);
  if (push_module(L, module) != LUA_OK) return UFFD_EXIT_ERROR;
  lua_remove(L, -2);
  int count = uffd_push_arguments(L);
  return count < 0 ? UFFD_EXIT_ERROR : call_module(L, count);
}

static int run_help(lua_State *L, const struct uffd_options *options) {
  (void)L, (void)options;
  uffd_print_usage();
  return UFFD_EXIT_OK;
}

static int run_version(lua_State *L, const struct uffd_options *options) {
  (void)L;
  if (!options->version) uffd_print_version();
  return UFFD_EXIT_OK;
}

static const struct uffd_command commands[] = {
    {"--info", "json", false, run_info},     {"--check", NULL, true, run_check}, {"--help", NULL, false, run_help},
    {"--version", NULL, false, run_version}, {"ws", NULL, false, run_word},      {"serve", NULL, false, run_word},
    {"ctl", NULL, false, run_word},          {"run", NULL, false, run_word},     {"image", NULL, false, run_word},
    {"trace", NULL, false, run_word},        {"offload", NULL, false, run_word},
};

const struct uffd_command *uffd_find_command(const char *name, size_t length) {
  for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
    const struct uffd_command *command = &commands[i];
    if (strlen(command->name) == length && memcmp(command->name, name, length) == 0) return command;
  }
  return NULL;
}
