/*
 * What all classes of the binding use: results, arguments, masks with names, the fork check, shared handles. The
 * binding includes the public headers and nothing else of the core.
 */
#ifndef UFFD_LUA_UTIL_H
#define UFFD_LUA_UTIL_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uffd.h"

/* The metatables. Messages use their names as types. */
#define OBJECT_TYPE     "uffd.object"
#define MEMORY_TYPE     "uffd.memory"
#define RESOLVER_TYPE   "uffd.resolver"
#define IMAGE_TYPE      "uffd.image"
#define STORE_TYPE      "uffd.store"
#define LOOP_TYPE       "uffd.loop"
#define REGION_TYPE     "uffd.region"
#define PREFETCH_TYPE   "uffd.prefetch"
#define WORKINGSET_TYPE "uffd.workingset"
#define PAGER_TYPE      "uffd.pager"
#define HANDOFF_TYPE    "uffd.handoff"

/*
 * For failures of the outside world: pushes nil, the sentence and the errno, returns 3. For a handle of another process
 * it raises an error.
 */
int uffd_lua_fail(lua_State *L, int result);
/* Pushes true for a result of 0 or more, else as uffd_lua_fail(). */
int uffd_lua_done(lua_State *L, int result);
/*
 * Call it before and after a call that may wait in the kernel for a page, where signal handlers do not run. It calls a
 * function of a boolean that the host may have put into the registry under this name (the runner does, for SIGINT).
 * Raises nothing.
 */
#define UFFD_LUA_WAITING "uffd.waiting"
void uffd_lua_waiting(lua_State *L, bool waits);
/*
 * Called before processes are forked that have threads of their own: the runner may have a thread that takes
 * interrupts, which a function under this key of the registry ends. Raises nothing.
 */
#define UFFD_LUA_FORKING "uffd.forking"
void uffd_lua_before_fork(lua_State *L);
/* Sets a field of the table on top of the stack. */
void uffd_lua_set_integer(lua_State *L, const char *name, uint64_t value);
/* Pushes a table of the counts. */
void uffd_lua_push_stats(lua_State *L, const struct uffd_stats *stats);
/* Raises Lua's own error about memory. */
_Noreturn void uffd_lua_no_memory(lua_State *L);

/* An integer from 0 on; floats with a fraction, NaN, infinity and negative numbers raise. */
uint64_t uffd_lua_unsigned(lua_State *L, int arg);
uint64_t uffd_lua_opt_unsigned(lua_State *L, int arg, uint64_t missing);
uint32_t uffd_lua_opt_u32(lua_State *L, int arg, uint32_t missing);
/* Milliseconds: 0 or more, -1 for ever. */
int uffd_lua_timeout(lua_State *L, int arg, int missing);
/* Raises unless [offset, offset+length) lies within size; what names the thing. */
void uffd_lua_check_range(lua_State *L, int arg, uint64_t offset, uint64_t length, uint64_t size, const char *what);
/* One of names (NULL-terminated), as its string or its index. */
uint32_t uffd_lua_choice(lua_State *L, int arg, uint32_t missing, const char *const names[], const char *what);

/*
 * A list of strings as C needs it, up to NULL; pushes what holds it, beside the list itself. one: a string is a list of
 * itself. Anything else raises; what names it.
 */
const char *const *uffd_lua_strings(lua_State *L, int arg, const char *what, bool one);

/* Names of UFFD_ROUTE_*, ended by NULL. */
extern const char *const uffd_lua_routes[];

struct uffd_lua_bit {
  const char *name;
  uint64_t bit;
};

/* An open mask: the library's two functions, or a short table that ends with NULL. */
struct uffd_lua_names {
  const char *what;
  const char *(*name)(unsigned bit);
  uint64_t (*bit)(const char *name);
  const struct uffd_lua_bit *bits;
};
extern const struct uffd_lua_names uffd_lua_features, uffd_lua_modes, uffd_lua_ioctls;

/* A mask given as nil (0), an integer, a name, "a|b", or a list of names and integers. */
uint64_t uffd_lua_mask(lua_State *L, int arg, const struct uffd_lua_names *names);
/* Pushes the list of the names in mask; a bit without a name is its integer. */
void uffd_lua_push_names(lua_State *L, uint64_t mask, const struct uffd_lua_names *names);

/* A number that no forked child shares with this process, also after a raw clone(). */
uint64_t uffd_lua_process(void);
_Noreturn void uffd_lua_raise_closed(lua_State *L, const char *type);
_Noreturn void uffd_lua_raise_forked(lua_State *L, const char *type);

/* Raises when a handle is closed, or belongs to the parent of this forked process. */
static inline void uffd_lua_check_handle(lua_State *L, const char *type, bool open, uint64_t process) {
  if (!open) uffd_lua_raise_closed(L, type);
  if (process != uffd_lua_process()) uffd_lua_raise_forked(L, type);
}

/* For __tostring: pushes "uffd.memory (closed)", returns 1. */
int uffd_lua_push_closed(lua_State *L, const char *type);

/*
 * Makes the metatable of a type, with its methods in a table that is also core.methods.NAME (core at index 1). index is
 * the __index function of a type that has fields too, NULL for one that has none.
 */
void uffd_lua_class(lua_State *L, const char *type, lua_CFunction index, const luaL_Reg *meta, const luaL_Reg *methods);
/* In such an __index function: pushes the method that is asked for, or nil; true if there is one. */
bool uffd_lua_method(lua_State *L);

/* A userfaultfd that its Lua handle and loops share. The last of them closes it. */
struct uffd_lua_object_ref {
  uffd_object *object; /* NULL: its owner has closed it */
  unsigned count;
  unsigned loops;
  bool lent; /* its owner closes it, and a pager reads it */
};
void uffd_lua_object_release(struct uffd_lua_object_ref *ref);
/*
 * Pushes a handle of an object that its owner closes. ref is NULL the first time. The reference that is returned
 * belongs to the owner, who sets its object to NULL and releases it.
 */
struct uffd_lua_object_ref *uffd_lua_lend_object(lua_State *L, uffd_object *owned, struct uffd_lua_object_ref *ref);

/* The user values of a memory's handle: its alias' handle; the set of handles of regions that serve it, with their
 * loops. */
enum { UFFD_LUA_MEMORY_ALIAS = 1, UFFD_LUA_MEMORY_REGIONS = 2, UFFD_LUA_MEMORY_VALUES = 2 };

/* A memory that its Lua handle, its alias and policies share. Policies release it in any thread. */
struct uffd_lua_memory_ref {
  uffd_memory *memory;
  struct uffd_lua_memory_ref *parent; /* of an alias: the memory whose mapping it is */
  atomic_uint count;
};
/* Pushes the handle of a memory that the caller makes next. Closed before that, it does nothing. */
struct uffd_lua_memory_ref *uffd_lua_push_memory(lua_State *L);
void uffd_lua_memory_release(struct uffd_lua_memory_ref *ref);

/* The argument of each class, checked: an open handle of this process, or an error. */
struct uffd_lua_object_ref *uffd_lua_check_object(lua_State *L, int arg);
struct uffd_lua_memory_ref *uffd_lua_check_memory(lua_State *L, int arg);
/* A memory that a handler may read. An alias is refused. */
struct uffd_lua_memory_ref *uffd_lua_check_source(lua_State *L, int arg);
bool uffd_lua_is_memory(lua_State *L, int arg);
/* memory:read(offset, length), for the program's handles and the handlers'. */
int uffd_lua_read_memory(lua_State *L, uffd_memory *memory);
/* A resolver, or an image, which has one. */
uffd_resolver *uffd_lua_check_resolver(lua_State *L, int arg);
bool uffd_lua_is_resolver(lua_State *L, int arg);

struct uffd_lua_policy;
/* Pushes a resolver handle that is still closed; store its resolver in *slot. */
void uffd_lua_new_resolver(lua_State *L, uffd_resolver ***slot);
/* The policy of a resolver, or NULL when it is of another kind. */
struct uffd_lua_policy *uffd_lua_resolver_policy(lua_State *L, int arg);
void uffd_lua_set_policy(lua_State *L, int index, struct uffd_lua_policy *policy);

/* Pushes a prefetch handle that is still closed; store its prefetch where the result points. */
uffd_prefetch **uffd_lua_new_prefetch(lua_State *L);

/* Each file's part of the module: adds its functions and classes to the core table at index 1. */
void uffd_lua_open_object(lua_State *L);
void uffd_lua_open_memory(lua_State *L);
void uffd_lua_open_resolver(lua_State *L);
void uffd_lua_open_loop(lua_State *L);
void uffd_lua_open_prefetch(lua_State *L);
void uffd_lua_open_policy(lua_State *L);
void uffd_lua_open_system(lua_State *L);
void uffd_lua_open_outlet(lua_State *L);
#ifdef UFFD_WITH_IMAGE
void uffd_lua_open_image(lua_State *L);
#endif
void uffd_lua_open_process(lua_State *L);
#ifdef UFFD_WITH_PAGER
void uffd_lua_open_workingset(lua_State *L);
void uffd_lua_open_pager(lua_State *L);
void uffd_lua_open_handoff(lua_State *L);
void uffd_lua_open_offload(lua_State *L);
#endif

#endif
