/*
 * One handler's Lua state. It has an arena of its own and a time limit, its collector runs only when the handler is
 * idle, and nothing in it can wait for the program. Policies with the same options share the state of a handler.
 */
#ifndef UFFD_LUA_STATE_H
#define UFFD_LUA_STATE_H

#include <pthread.h>

#include "arena.h"
#include "ring.h"
#include "util.h"

enum { STATE_LIB_IO = 1, STATE_LIB_OS = 2, STATE_LIB_DEBUG = 4 };
enum { STATE_SMALLEST = 256 << 10 };

struct uffd_lua_state_options {
  uint64_t memory; /* the arena's bytes */
  uint32_t libs;   /* STATE_LIB_*, beside those that every state has */
  char *path;      /* package.path and package.cpath of the program */
  char *cpath;
};

struct uffd_lua_state {
  /* set once */
  const void *key;                       /* the handler's */
  struct uffd_lua_state_options options; /* path and cpath are the state's own copies */
  uint64_t process;
  lua_State *L;
  struct uffd_lua_ring *messages; /* NULL: what policies log is dropped */
  uint32_t handler;
  /* under the lock of the list */
  struct uffd_lua_state *next;
  unsigned users;
  /* under lock: the thread that runs in L */
  pthread_mutex_t lock;
  struct uffd_lua_arena arena;
  uint64_t limit_ns;    /* of the call that runs; 0: none */
  uint64_t deadline_ns; /* 0: not yet known */
  bool expired;
  bool answering; /* a fault, not a factory */
  unsigned tracebacks;
  size_t tidy; /* arena.used after the last whole collection */
};

/*
 * The state of that handler for those options; it is made if there is none. handler is not kept. NULL and a sentence:
 * no memory. Any thread but a handler's.
 */
struct uffd_lua_state *uffd_lua_state_acquire(const struct uffd_handler *handler,
                                              const struct uffd_lua_state_options *options,
                                              struct uffd_lua_ring *messages);
void uffd_lua_state_release(struct uffd_lua_state *state);

/*
 * Calls function(ctx) in the state, protected, with a time limit (0: none); the caller holds the lock. 0, or -errno and
 * a sentence that begins with what. Not for the fault path, because the collector may run.
 */
int uffd_lua_state_call(struct uffd_lua_state *state, lua_CFunction function, void *ctx, uint64_t limit_ns,
                        const char *what);

/*
 * The same for a fault, without the collector while there is memory. The results of function stay on the stack until
 * the next answer, so that nothing collects them.
 */
int uffd_lua_state_answer(struct uffd_lua_state *state, lua_CFunction function, void *ctx, uint64_t limit_ns,
                          const char *what);

/* A step of the collector, with the lock held. True when there is more to do. */
bool uffd_lua_state_tidy(struct uffd_lua_state *state);

struct uffd_lua_state *uffd_lua_state_of(lua_State *L);

#endif
