/* Functions that all classes of the binding use. */
#include "util.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

int uffd_lua_fail(lua_State *L, int result) {
  /* Using a handle in a forked child is a mistake of the program, like using a closed one. */
  if (result == -EOWNERDEAD) return luaL_error(L, "%s", uffd_errmsg());
  luaL_pushfail(L);
  lua_pushstring(L, uffd_errmsg());
  lua_pushinteger(L, -result);
  return 3;
}

int uffd_lua_done(lua_State *L, int result) {
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushboolean(L, 1);
  return 1;
}

void uffd_lua_waiting(lua_State *L, bool waits) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, UFFD_LUA_WAITING) != LUA_TFUNCTION) {
    lua_pop(L, 1);
    return;
  }
  lua_pushboolean(L, waits);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
}

void uffd_lua_before_fork(lua_State *L) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, UFFD_LUA_FORKING) != LUA_TFUNCTION) {
    lua_pop(L, 1);
    return;
  }
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) lua_pop(L, 1);
}

void uffd_lua_set_integer(lua_State *L, const char *name, uint64_t value) {
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, name);
}

void uffd_lua_push_stats(lua_State *L, const struct uffd_stats *stats) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  lua_createtable(L, 0, (int)count);
  for (size_t i = 0; i < count; i++) {
    uint64_t value;
    memcpy(&value, (const char *)stats + fields[i].offset, sizeof(value));
    uffd_lua_set_integer(L, fields[i].name, value);
  }
}

void uffd_lua_no_memory(lua_State *L) {
  luaL_error(L, "not enough memory");
  abort();
}

const char *const uffd_lua_routes[] = {"auto", "syscall", "device", "adopted", NULL};

uint64_t uffd_lua_unsigned(lua_State *L, int arg) {
  lua_Integer value = luaL_checkinteger(L, arg);
  luaL_argcheck(L, value >= 0, arg, "must not be negative");
  return (uint64_t)value;
}

uint64_t uffd_lua_opt_unsigned(lua_State *L, int arg, uint64_t missing) {
  return lua_isnoneornil(L, arg) ? missing : uffd_lua_unsigned(L, arg);
}

uint32_t uffd_lua_opt_u32(lua_State *L, int arg, uint32_t missing) {
  uint64_t value = uffd_lua_opt_unsigned(L, arg, missing);
  luaL_argcheck(L, value <= UINT32_MAX, arg, "too large");
  return (uint32_t)value;
}

int uffd_lua_timeout(lua_State *L, int arg, int missing) {
  lua_Integer value = luaL_optinteger(L, arg, missing);
  luaL_argcheck(L, value >= -1, arg, "milliseconds must be 0 or more, or -1 for ever");
  luaL_argcheck(L, value <= INT_MAX, arg, "too many milliseconds");
  return (int)value;
}

void uffd_lua_check_range(lua_State *L, int arg, uint64_t offset, uint64_t length, uint64_t size, const char *what) {
  if (offset <= size && length <= size - offset) return;
  luaL_argerror(L, arg,
                lua_pushfstring(L, "%I bytes at offset %I are outside the %s, which has %I bytes", (lua_Integer)length,
                                (lua_Integer)offset, what, (lua_Integer)size));
}

static const char *listed(lua_State *L, const char *const names[]) {
  lua_pushstring(L, names[0]);
  for (uint32_t i = 1; names[i] != NULL; i++)
    lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), names[i]);
  return lua_tostring(L, -1);
}

uint32_t uffd_lua_choice(lua_State *L, int arg, uint32_t missing, const char *const names[], const char *what) {
  if (lua_isnoneornil(L, arg)) return missing;
  bool number = lua_type(L, arg) == LUA_TNUMBER;
  lua_Integer wanted = number ? luaL_checkinteger(L, arg) : -1;
  const char *name = number ? "" : luaL_checkstring(L, arg);
  for (uint32_t i = 0; names[i] != NULL; i++) {
    if (number ? wanted == (lua_Integer)i : strcmp(names[i], name) == 0) return i;
  }
  const char *given = luaL_tolstring(L, arg, NULL);
  luaL_argerror(L, arg, lua_pushfstring(L, "unknown %s '%s'; there are: %s", what, given, listed(L, names)));
  return missing;
}

const struct uffd_lua_names uffd_lua_features = {"feature", uffd_feature_name, uffd_feature_bit, NULL};
const struct uffd_lua_names uffd_lua_modes = {"mode", uffd_mode_name, uffd_mode_bit, NULL};
const struct uffd_lua_names uffd_lua_ioctls = {"operation", uffd_ioctl_name, uffd_ioctl_bit, NULL};

static uint64_t named_bit(const struct uffd_lua_names *names, const char *name) {
  if (names->bit != NULL) return names->bit(name);
  for (const struct uffd_lua_bit *bit = names->bits; bit->name != NULL; bit++) {
    if (strcmp(bit->name, name) == 0) return bit->bit;
  }
  return 0;
}

static uint64_t mask_of_text(lua_State *L, int arg, const char *text, const struct uffd_lua_names *names) {
  static const char between[] = "|, ";
  uint64_t mask = 0;
  for (text += strspn(text, between); *text != '\0'; text += strspn(text, between)) {
    size_t length = strcspn(text, between);
    const char *name = lua_pushlstring(L, text, length);
    uint64_t bit = named_bit(names, name);
    if (bit == 0) luaL_argerror(L, arg, lua_pushfstring(L, "unknown %s '%s'", names->what, name));
    lua_pop(L, 1);
    mask |= bit;
    text += length;
  }
  return mask;
}

static uint64_t mask_of_value(lua_State *L, int arg, int index, const struct uffd_lua_names *names) {
  if (lua_type(L, index) == LUA_TSTRING) return mask_of_text(L, arg, lua_tostring(L, index), names);
  int exact = 0;
  lua_Integer value = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &exact) : 0;
  if (!exact)
    luaL_argerror(L, arg,
                  lua_pushfstring(L, "a %s is a name, an integer, or a list of these; got %s", names->what,
                                  luaL_typename(L, index)));
  return (uint64_t)value;
}

uint64_t uffd_lua_mask(lua_State *L, int arg, const struct uffd_lua_names *names) {
  if (lua_isnoneornil(L, arg)) return 0;
  if (!lua_istable(L, arg)) return mask_of_value(L, arg, arg, names);
  uint64_t mask = 0;
  lua_Integer count = luaL_len(L, arg);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_geti(L, arg, i);
    mask |= mask_of_value(L, arg, lua_gettop(L), names);
    lua_pop(L, 1);
  }
  return mask;
}

static const char *bit_name(const struct uffd_lua_names *names, unsigned bit) {
  if (names->name != NULL) return names->name(bit);
  for (const struct uffd_lua_bit *entry = names->bits; entry->name != NULL; entry++) {
    if (entry->bit == UINT64_C(1) << bit) return entry->name;
  }
  return NULL;
}

void uffd_lua_push_names(lua_State *L, uint64_t mask, const struct uffd_lua_names *names) {
  lua_newtable(L);
  lua_Integer count = 0;
  for (unsigned bit = 0; bit < 64; bit++) {
    if ((mask >> bit & 1) == 0) continue;
    const char *name = bit_name(names, bit);
    if (name != NULL)
      lua_pushstring(L, name);
    else
      lua_pushinteger(L, (lua_Integer)(UINT64_C(1) << bit));
    lua_seti(L, -2, ++count);
  }
}

/* The kernel wipes this page in every child, so a 0 in it means a new process. */
static _Atomic(_Atomic uint64_t *) process_page;

static _Atomic uint64_t *make_process_page(void) {
  size_t length = (size_t)sysconf(_SC_PAGESIZE);
  void *page = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return NULL;
  madvise(page, length, MADV_WIPEONFORK);
  _Atomic uint64_t *none = NULL;
  if (!atomic_compare_exchange_strong(&process_page, &none, page)) {
    munmap(page, length);
    return none;
  }
  return page;
}

/*
 * Never 0, and never a number of an ancestor. Process ids would not do: they are used again, and every pid namespace
 * has a 1.
 */
static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec + 1;
}

uint64_t uffd_lua_process(void) {
  _Atomic uint64_t *page = atomic_load_explicit(&process_page, memory_order_acquire);
  if (page == NULL && (page = make_process_page()) == NULL) return (uint64_t)getpid();
  uint64_t process = atomic_load_explicit(page, memory_order_relaxed);
  if (process != 0) return process;
  uint64_t fresh = now_ns();
  return atomic_compare_exchange_strong(page, &process, fresh) ? fresh : process;
}

void uffd_lua_raise_closed(lua_State *L, const char *type) {
  luaL_error(L, "attempt to use a closed %s", type);
  abort(); /* luaL_error() does not return, but the compiler does not know that */
}

void uffd_lua_raise_forked(lua_State *L, const char *type) {
  luaL_error(L, "attempt to use a %s in a forked child: it belongs to the parent, make a new one here", type);
  abort();
}

int uffd_lua_push_closed(lua_State *L, const char *type) {
  lua_pushfstring(L, "%s (closed)", type);
  return 1;
}

void uffd_lua_class(lua_State *L, const char *type, lua_CFunction index, const luaL_Reg *meta,
                    const luaL_Reg *methods) {
  luaL_newmetatable(L, type);
  luaL_setfuncs(L, meta, 0);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_getfield(L, 1, "methods");
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, strchr(type, '.') + 1);
  lua_pop(L, 1);
  if (index != NULL) lua_pushcclosure(L, index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

bool uffd_lua_method(lua_State *L) {
  lua_pushvalue(L, 2);
  return lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL;
}

void uffd_lua_object_release(struct uffd_lua_object_ref *ref) {
  if (--ref->count > 0) return;
  if (!ref->lent) uffd_close(ref->object);
  free(ref);
}

void uffd_lua_memory_release(struct uffd_lua_memory_ref *ref) {
  if (atomic_fetch_sub(&ref->count, 1) > 1) return;
  uffd_memory_close(ref->memory);
  if (ref->parent != NULL) uffd_lua_memory_release(ref->parent);
  free(ref);
}

static const char *check_text(lua_State *L, int at, const char *what) {
  const char *text = lua_tostring(L, at);
  if (strlen(text) != lua_rawlen(L, at)) luaL_error(L, "%s has a zero byte in it", what);
  return text;
}

const char *const *uffd_lua_strings(lua_State *L, int arg, const char *what, bool one) {
  int type = lua_type(L, arg);
  bool single = one && type == LUA_TSTRING;
  lua_Integer count = single ? 1 : type == LUA_TTABLE ? luaL_len(L, arg) : 0;
  if (count < 1 || count > 4096) {
    luaL_error(L, "%s must be %sa list of strings, not %s", what, one ? "a string or " : "",
               type == LUA_TTABLE ? "an empty one, or one of thousands" : luaL_typename(L, arg));
  }
  const char **strings = lua_newuserdatauv(L, ((size_t)count + 1) * sizeof(*strings), 0);
  if (single) strings[0] = check_text(L, arg, what);
  for (lua_Integer i = 1; i <= count && !single; i++) {
    if (lua_geti(L, arg, i) != LUA_TSTRING) luaL_error(L, "%s must be a list of strings", what);
    strings[i - 1] = check_text(L, -1, what);
    lua_pop(L, 1);
  }
  strings[count] = NULL;
  return strings;
}
