/*
 * uffd-lua: the parts of the runner. It takes lua's own options and behaves as lua does; uffd is linked in. It knows
 * the public headers and the Lua C API, nothing of the core.
 */
#ifndef UFFD_RUNNER_RUNNER_H
#define UFFD_RUNNER_RUNNER_H

#include <lua.h>
#include <stdbool.h>

#define UFFD_PROGRAM "uffd-lua"

enum { UFFD_EXIT_OK = 0, UFFD_EXIT_ERROR = 1, UFFD_EXIT_USAGE = 2 };

struct uffd_command;

/* The command line after parsing. */
struct uffd_options {
  int argc;
  char **argv;
  int script; /* index in argv of the script, of a command's word, or argc */
  bool script_is_stdin;
  bool interactive;    /* -i */
  bool version;        /* -v, -i */
  bool statements;     /* -e was there */
  bool no_environment; /* -E */
  const struct uffd_command *command;
  const char *value; /* of the command: json in --info=json; or NULL */
};

/* A command: a long option or a word. Returns the exit code. */
struct uffd_command {
  const char *name;
  const char *value; /* the only value it takes after '=', or NULL */
  bool script;       /* needs a script */
  int (*run)(lua_State *L, const struct uffd_options *options);
};

/* options.c */
bool uffd_parse_options(int argc, char **argv, struct uffd_options *options); /* false: told on stderr, exit 2 */
void uffd_print_usage(void);
void uffd_print_version(void);

/* command.c: NULL when there is none of that name (length bytes). */
const struct uffd_command *uffd_find_command(const char *name, size_t length);

/* environment.c: what a script finds: libraries, search paths, the modules of uffd, arg. */
void uffd_open_environment(lua_State *L, const struct uffd_options *options);

/*
 * call.c: calls the function below count arguments in protected mode, with a traceback, interruptible by SIGINT; LUA_OK
 * leaves results, anything else the message. uffd_report_status() then prints it, with the program's name unless typed
 * at the prompt, and pops it.
 */
int uffd_call(lua_State *L, int count, int results);
int uffd_report_status(lua_State *L, int status);
void uffd_open_interrupts(lua_State *L); /* so that SIGINT is seen too while Lua waits for a page */
void uffd_complain(const char *program, const char *message);

/* script.c: each prints on stderr what failed, and returns a Lua status. */
int uffd_run_init(lua_State *L);                                        /* LUA_INIT */
int uffd_run_options(lua_State *L, const struct uffd_options *options); /* -e, -l, -W in their order */
int uffd_load_script(lua_State *L, const struct uffd_options *options); /* pushes the script */
int uffd_push_arguments(lua_State *L);                                  /* arg[1] ... arg[#arg]; their number */
int uffd_run_script(lua_State *L, const struct uffd_options *options);
int uffd_run_stdin(lua_State *L);

/* repl.c: with a line editor where one was found (UFFD_WITH_EDITING), on a terminal */
void uffd_run_prompt(lua_State *L);

/* png.c, with UFFD_WITH_PNG: the module uffd.png, which is in the program only */
int luaopen_uffd_png(lua_State *L);

#endif
