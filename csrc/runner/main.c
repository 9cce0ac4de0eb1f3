/* uffd-lua: lua with uffd inside. The steps come in lua's order: version, LUA_INIT, options, script, prompt. */
#include <fcntl.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runner/runner.h"

static int run_program(lua_State *L, const struct uffd_options *options) {
  if (options->script < options->argc || options->script_is_stdin) {
    if (uffd_run_script(L, options) != LUA_OK) return UFFD_EXIT_ERROR;
    if (options->interactive) uffd_run_prompt(L);
    return UFFD_EXIT_OK;
  }
  bool idle = !options->statements && !options->version;
  if (options->interactive || (idle && isatty(STDIN_FILENO))) {
    if (!options->interactive) uffd_print_version();
    uffd_run_prompt(L);
    return UFFD_EXIT_OK;
  }
  return idle && uffd_run_stdin(L) != LUA_OK ? UFFD_EXIT_ERROR : UFFD_EXIT_OK;
}

static int run(lua_State *L, const struct uffd_options *options) {
  if (options->version) uffd_print_version();
  uffd_open_environment(L, options);
  if (!options->no_environment && uffd_run_init(L) != LUA_OK) return UFFD_EXIT_ERROR;
  if (uffd_run_options(L, options) != LUA_OK) return UFFD_EXIT_ERROR;
  return options->command != NULL ? options->command->run(L, options) : run_program(L, options);
}

/* In protected mode, so that failures outside of scripts (no memory) are reported too. */
static int start(lua_State *L) {
  const struct uffd_options *options = lua_touserdata(L, 1);
  lua_settop(L, 0);
  int code = run(L, options);
  lua_pushinteger(L, code);
  return 1;
}

/* Where nothing is open at 0, 1 or 2, the next file that is opened would be read or written as standard input or
 * output. */
static void reserve_standard_files(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDWR);
  }
}

int main(int argc, char **argv) {
  struct uffd_options options;
  reserve_standard_files();
  if (!uffd_parse_options(argc, argv, &options)) return UFFD_EXIT_USAGE;
  lua_State *L = luaL_newstate();
  if (L == NULL) {
    uffd_complain(UFFD_PROGRAM, "cannot create state: not enough memory");
    return UFFD_EXIT_ERROR;
  }
  int code = UFFD_EXIT_ERROR;
  lua_pushcfunction(L, start);
  lua_pushlightuserdata(L, &options);
  if (uffd_report_status(L, lua_pcall(L, 1, 1, 0)) == LUA_OK) code = (int)lua_tointeger(L, -1);
  lua_close(L);
  return code;
}
