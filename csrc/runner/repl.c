/* The prompt of -i: prints the values of expressions, and asks for more lines while a statement is not finished. */
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runner/runner.h"

#ifdef UFFD_WITH_EDITING
#include UFFD_EDITING_HEADER
#ifdef UFFD_EDITING_HISTORY
#include UFFD_EDITING_HISTORY
#endif
#endif

/* Pushes the prompt that the program has set. */
static const char *push_prompt(lua_State *L, const char *name, const char *usual) {
  if (lua_getglobal(L, name) == LUA_TNIL)
    lua_pushstring(L, usual);
  else
    luaL_tolstring(L, -1, NULL);
  lua_remove(L, -2);
  return lua_tostring(L, -1);
}

#ifdef UFFD_WITH_EDITING
/* Reads a line with history, on a terminal. */
static bool edit_line(lua_State *L, const char *prompt) {
  char *line = readline(prompt);
  if (line == NULL) return false;
  if (line[0] != '\0') add_history(line);
  lua_pushstring(L, line);
  free(line);
  return true;
}
#endif

static bool read_plain(lua_State *L, const char *prompt) {
  char piece[512];
  luaL_Buffer line;
  bool any = false;
  fputs(prompt, stdout);
  fflush(stdout);
  luaL_buffinit(L, &line);
  while (fgets(piece, sizeof(piece), stdin) != NULL) {
    size_t length = strlen(piece);
    bool whole = length > 0 && piece[length - 1] == '\n';
    any = true;
    luaL_addlstring(&line, piece, whole ? length - 1 : length);
    if (whole) break;
  }
  luaL_pushresult(&line);
  if (!any) lua_pop(L, 1);
  return any;
}

/* Reads a line, without its newline, onto the stack; false, with nothing there, at the end of input. */
static bool read_line(lua_State *L, const char *name, const char *usual) {
  const char *prompt = push_prompt(L, name, usual);
#ifdef UFFD_WITH_EDITING
  bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  bool any = terminal ? edit_line(L, prompt) : read_plain(L, prompt);
#else
  bool any = read_plain(L, prompt);
#endif
  lua_remove(L, any ? -2 : -1);
  return any;
}

static int load_line(lua_State *L, const char *code, size_t length) {
  return luaL_loadbuffer(L, code, length, "=stdin");
}

/* Loads the line at index 1 as an expression if it is one. */
static bool load_expression(lua_State *L) {
  const char *line = lua_tostring(L, 1);
  const char *code = lua_pushfstring(L, "return %s", line[0] == '=' ? line + 1 : line);
  int status = load_line(L, code, strlen(code));
  lua_remove(L, -2);
  if (status == LUA_OK) return true;
  lua_pop(L, 1);
  return false;
}

/* Lua's message has "near <eof>" if only the end is lacking. */
static bool lacks_end(lua_State *L, int status) {
  const char mark[] = "<eof>";
  if (status != LUA_ERRSYNTAX) return false;
  size_t length = lua_rawlen(L, -1);
  return length >= strlen(mark) && strcmp(lua_tostring(L, -1) + length - strlen(mark), mark) == 0;
}

/* Loads the statement at index 1, and reads as many more lines as it needs. */
static int load_statement(lua_State *L) {
  for (;;) {
    size_t length;
    const char *code = lua_tolstring(L, 1, &length);
    int status = load_line(L, code, length);
    if (!lacks_end(L, status)) return status;
    lua_pushvalue(L, 1);
    lua_pushliteral(L, "\n");
    if (!read_line(L, "_PROMPT2", ">> ")) {
      lua_settop(L, 2); /* the message that the end is lacking */
      return status;
    }
    lua_concat(L, 3);
    lua_replace(L, 1);
    lua_settop(L, 1);
  }
}

static void print_results(lua_State *L) {
  int count = lua_gettop(L);
  if (count == 0) return;
  lua_getglobal(L, "print");
  lua_insert(L, 1);
  if (lua_pcall(L, count, 0, 0) != LUA_OK)
    uffd_complain(NULL, lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1)));
}

void uffd_run_prompt(lua_State *L) {
  for (;;) {
    lua_settop(L, 0);
    if (!read_line(L, "_PROMPT", "> ")) break;
    int status = load_expression(L) ? LUA_OK : load_statement(L);
    lua_remove(L, 1); /* the line */
    if (status == LUA_OK) status = uffd_call(L, 0, LUA_MULTRET);
    if (status == LUA_OK)
      print_results(L);
    else
      uffd_complain(NULL, lua_tostring(L, -1));
  }
  fputs("\n", stdout);
  fflush(stdout);
}
