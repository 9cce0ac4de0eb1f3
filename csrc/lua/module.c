/*
 * uffd.core: the C part of the module uffd, thin over <uffd.h>. lua/uffd/init.lua is the public face: options and sugar
 * are there, system calls here.
 */
#include "sentinel.h"
#include "util.h"

#include <errno.h>
#include <string.h>
#include <time.h>

UFFD_EXPORT int luaopen_uffd_core(lua_State *L);

static void set_boolean(lua_State *L, const char *name, bool value) {
  lua_pushboolean(L, value);
  lua_setfield(L, -2, name);
}

static void set_error(lua_State *L, const char *name, int error) {
  if (error != 0) uffd_lua_set_integer(L, name, (uint64_t)error);
}

static void set_advice(lua_State *L, const struct uffd_probe *probe) {
  char text[1024];
  lua_newtable(L);
  for (unsigned i = 0; uffd_probe_advice(probe, i, text, sizeof(text)) > 0; i++) {
    lua_pushstring(L, text);
    lua_seti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "advice");
}

static int probe(lua_State *L) {
  struct uffd_probe found = UFFD_PROBE_INIT;
  int result = uffd_probe(&found);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_createtable(L, 0, 20);
  lua_pushstring(L, found.kernel);
  lua_setfield(L, -2, "kernel");
  set_boolean(L, "usable", found.usable != 0);
  lua_pushstring(L, found.route == 0 ? NULL : uffd_lua_routes[found.route]);
  lua_setfield(L, -2, "route");
  set_boolean(L, "user_mode_only", found.user_mode_only != 0);
  set_error(L, "syscall_error", found.syscall_error);
  set_error(L, "syscall_umo_error", found.syscall_umo_error);
  set_error(L, "device_error", found.device_error);
  if (found.sysctl_unprivileged >= 0)
    uffd_lua_set_integer(L, "sysctl_unprivileged", (uint64_t)found.sysctl_unprivileged);
  set_boolean(L, "event_fork", found.event_fork != 0);
  uffd_lua_push_names(L, found.features, &uffd_lua_features);
  lua_setfield(L, -2, "features");
  uffd_lua_push_names(L, found.missing, &uffd_lua_features);
  lua_setfield(L, -2, "missing");
  uffd_lua_set_integer(L, "page_size", found.page_size);
  uffd_lua_set_integer(L, "hugepage_size", found.hugepage_size);
  uffd_lua_set_integer(L, "hugepages_total", found.hugepages_total);
  uffd_lua_set_integer(L, "hugepages_free", found.hugepages_free);
  set_advice(L, &found);
  return 1;
}

/* Those that the library and the kernel's interface use: name to number and number to name. */
static const struct {
  const char *name;
  int number;
} errors[] = {
#define ERROR(name)                                                                                                    \
  { #name, name }
    ERROR(EPERM),     ERROR(ENOENT),       ERROR(ESRCH),     ERROR(EINTR),      ERROR(EIO),          ERROR(EBADF),
    ERROR(EAGAIN),    ERROR(ENOMEM),       ERROR(EACCES),    ERROR(EFAULT),     ERROR(EBUSY),        ERROR(EEXIST),
    ERROR(ENODEV),    ERROR(ENOTDIR),      ERROR(EISDIR),    ERROR(EINVAL),     ERROR(ENFILE),       ERROR(EMFILE),
    ERROR(ENOTTY),    ERROR(EFBIG),        ERROR(ENOSPC),    ERROR(ESPIPE),     ERROR(EROFS),        ERROR(ERANGE),
    ERROR(EDEADLK),   ERROR(ENAMETOOLONG), ERROR(ENOSYS),    ERROR(ELOOP),      ERROR(EOVERFLOW),    ERROR(EOPNOTSUPP),
    ERROR(ETIMEDOUT), ERROR(EPIPE),        ERROR(ECHILD),    ERROR(EADDRINUSE), ERROR(ECONNREFUSED), ERROR(ECONNRESET),
    ERROR(EALREADY),  ERROR(EPROTO),       ERROR(ECANCELED), ERROR(EOWNERDEAD), ERROR(EHWPOISON),    ERROR(ESTALE),
    ERROR(ENODATA),
#undef ERROR
};

static void set_errno(lua_State *L) {
  lua_newtable(L);
  for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
    lua_pushinteger(L, errors[i].number);
    lua_setfield(L, -2, errors[i].name);
    lua_pushstring(L, errors[i].name);
    lua_seti(L, -2, errors[i].number);
  }
  lua_setfield(L, -2, "errno");
}

/* Flags that init.lua makes of options with names. */
static void set_flags(lua_State *L) {
  static const struct uffd_lua_bit flags[] = {{"open_blocking", UFFD_OPEN_BLOCKING},
                                              {"open_user_mode_only", UFFD_OPEN_USER_MODE_ONLY},
                                              {"open_no_user_mode_only", UFFD_OPEN_NO_USER_MODE_ONLY},
                                              {"map_fork", UFFD_MAP_FORK},
                                              {"map_private", UFFD_MAP_PRIVATE},
                                              {"fault_write", UFFD_FAULT_WRITE},
                                              {"fault_wp", UFFD_FAULT_WP},
                                              {"fault_minor", UFFD_FAULT_MINOR},
                                              {"fault_prefetch", UFFD_FAULT_PREFETCH},
                                              {NULL, 0}};
  lua_newtable(L);
  for (const struct uffd_lua_bit *flag = flags; flag->name != NULL; flag++)
    uffd_lua_set_integer(L, flag->name, flag->bit);
  lua_setfield(L, -2, "flags");
}

/* The names of all statistics, in their order. */
static void set_stats_fields(lua_State *L) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_pushstring(L, fields[i].name);
    lua_seti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "stats_fields");
}

/* Lua has no clock of its own that goes on while the program waits, and is fine enough to measure a fault. */
static int now(lua_State *L) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  lua_pushnumber(L, (lua_Number)time.tv_sec + (lua_Number)time.tv_nsec / 1e9);
  return 1;
}

static const luaL_Reg functions[] = {{"probe", probe}, {"now", now}, {NULL, NULL}};

int luaopen_uffd_core(lua_State *L) {
  luaL_checkversion(L);
  lua_settop(L, 0);
  luaL_newlib(L, functions);
  lua_newtable(L);
  lua_setfield(L, 1, "methods");
  lua_pushstring(L, uffd_version());
  lua_setfield(L, 1, "version");
  uffd_lua_open_sentinels(L);
  set_errno(L);
  set_flags(L);
  set_stats_fields(L);
  uffd_lua_open_object(L);
  uffd_lua_open_memory(L);
  uffd_lua_open_resolver(L);
  uffd_lua_open_loop(L);
  uffd_lua_open_prefetch(L);
  uffd_lua_open_policy(L);
  uffd_lua_open_system(L);
  uffd_lua_open_outlet(L);
#ifdef UFFD_WITH_IMAGE
  uffd_lua_open_image(L);
#endif
  uffd_lua_open_process(L);
#ifdef UFFD_WITH_PAGER
  uffd_lua_open_workingset(L);
  uffd_lua_open_pager(L);
  uffd_lua_open_handoff(L);
  uffd_lua_open_offload(L);
#endif
  return 1;
}
