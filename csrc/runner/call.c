/* Calling Lua from the program: tracebacks, interruption, error messages. */
#include <lauxlib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "runner/runner.h"

/* The state whose call SIGINT ends. The thread that runs Lua sets it before it sets the signal handler. */
static lua_State *volatile interrupted;

static void stop_script(lua_State *L, lua_Debug *debug) {
  (void)debug;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted!");
}

/* Lua allows lua_sethook() in a signal handler. A second SIGINT ends the program. */
static void on_interrupt(int number) {
  (void)number;
  lua_sethook(interrupted, stop_script, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

/*
 * A thread that waits in the kernel for a page runs no signal handler. While a first SIGINT is pending in it, it would
 * not notice the second. So SIGINT is blocked in it while it waits, and this thread takes the signal.
 */
static void *take_interrupts(void *nothing) {
  sigset_t others;
  sigfillset(&others);
  sigdelset(&others, SIGINT);
  for (;;)
    sigsuspend(&others);
  return nothing;
}

static pthread_t taker;
static pid_t taker_process; /* the process that has the thread; a forked child does not */

static void start_taker(void) {
  sigset_t all, before;
  if (taker_process == getpid()) return;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (pthread_create(&taker, NULL, take_interrupts, NULL) == 0) taker_process = getpid();
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/*
 * Called by uffd before the process forks workers, for which it must have only one thread. The next wait starts the
 * taker again.
 */
static int forking(lua_State *L) {
  (void)L;
  if (taker_process != getpid()) return 0;
  pthread_cancel(taker); /* it ends in sigsuspend() */
  pthread_join(taker, NULL);
  taker_process = 0;
  return 0;
}

/* Called by uffd before and after a call that may wait for a page: waiting(true), waiting(false). */
static int waiting(lua_State *L) {
  static _Thread_local bool blocked_before;
  sigset_t interrupt, before;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  if (lua_toboolean(L, 1)) {
    start_taker();
    pthread_sigmask(SIG_BLOCK, &interrupt, &before);
    blocked_before = sigismember(&before, SIGINT) == 1;
  } else if (!blocked_before) {
    pthread_sigmask(SIG_UNBLOCK, &interrupt, NULL);
  }
  return 0;
}

void uffd_open_interrupts(lua_State *L) {
  lua_pushcfunction(L, waiting);
  lua_setfield(L, LUA_REGISTRYINDEX, "uffd.waiting");
  lua_pushcfunction(L, forking);
  lua_setfield(L, LUA_REGISTRYINDEX, "uffd.forking");
}

/*
 * Makes the message that is printed of an error: an object with __tostring gives it itself, a string gets a traceback.
 */
static int explain(lua_State *L) {
  if (lua_isstring(L, 1)) {
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
  }
  if (luaL_callmeta(L, 1, "__tostring") && lua_isstring(L, -1)) return 1;
  luaL_traceback(L, L, lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1)), 1);
  return 1;
}

int uffd_call(lua_State *L, int count, int results) {
  int function = lua_gettop(L) - count;
  struct sigaction before, action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
  lua_pushcfunction(L, explain);
  lua_insert(L, function);
  interrupted = L;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before);
  int status = lua_pcall(L, count, results, function);
  sigaction(SIGINT, &before, NULL);
  lua_remove(L, function);
  return status;
}

void uffd_complain(const char *program, const char *message) {
  fflush(stdout);
  if (program != NULL) fprintf(stderr, "%s: ", program);
  fprintf(stderr, "%s\n", message);
  fflush(stderr);
}

int uffd_report_status(lua_State *L, int status) {
  if (status != LUA_OK) {
    const char *message = lua_tostring(L, -1);
    uffd_complain(UFFD_PROGRAM, message != NULL ? message : "(error message is not a string)");
    lua_pop(L, 1);
  }
  return status;
}
