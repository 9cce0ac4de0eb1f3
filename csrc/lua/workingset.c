/* uffd.workingset: the pages that a client touched, and files of them. */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "uffd_pager.h"

struct workingset {
  uffd_workingset *set; /* NULL: closed */
};

/* Only memory: in a forked child the copy is the child's own. */
static uffd_workingset *check(lua_State *L, int arg) {
  struct workingset *handle = luaL_checkudata(L, arg, WORKINGSET_TYPE);
  if (handle->set == NULL) uffd_lua_raise_closed(L, WORKINGSET_TYPE);
  return handle->set;
}

/* Making, closing */

static struct workingset *new_workingset(lua_State *L) {
  struct workingset *handle = lua_newuserdatauv(L, sizeof(*handle), 0);
  handle->set = NULL;
  luaL_setmetatable(L, WORKINGSET_TYPE);
  return handle;
}

static int create(lua_State *L) {
  uint64_t page_size = uffd_lua_unsigned(L, 1), length = uffd_lua_unsigned(L, 2);
  uint64_t identity = (uint64_t)luaL_optinteger(L, 3, 0);
  struct workingset *handle = new_workingset(L);
  int result = uffd_workingset_create(page_size, length, identity, &handle->set);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int load(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct workingset *handle = new_workingset(L);
  int result = uffd_workingset_load(path, &handle->set);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* image_identity(descriptor | paths) */
static int image_identity(lua_State *L) {
  uint64_t length = 0, identity = 0;
  int result;
  if (lua_type(L, 1) == LUA_TNUMBER) {
    result = uffd_image_identity((int)luaL_checkinteger(L, 1), &length, &identity);
  } else {
    result = uffd_layers_identity(uffd_lua_strings(L, 1, "the image", true), &length, &identity);
  }
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushinteger(L, (lua_Integer)length);
  lua_pushinteger(L, (lua_Integer)identity);
  return 2;
}

static void close_workingset(lua_State *L) {
  struct workingset *handle = luaL_checkudata(L, 1, WORKINGSET_TYPE);
  uffd_workingset_close(handle->set);
  handle->set = NULL;
}

static int workingset_close(lua_State *L) {
  close_workingset(L);
  lua_pushboolean(L, 1);
  return 1;
}

static int workingset_gc(lua_State *L) {
  close_workingset(L);
  return 0;
}

/* Pages */

static const struct uffd_lua_bit kind_bits[] = {
    {"write", UFFD_FAULT_WRITE}, {"wp", UFFD_FAULT_WP}, {"minor", UFFD_FAULT_MINOR}, {NULL, 0}};
static const struct uffd_lua_names kinds = {"kind of access", NULL, NULL, kind_bits};

static int workingset_add(lua_State *L) {
  uffd_workingset *set = check(L, 1);
  int result = uffd_workingset_add(set, uffd_lua_unsigned(L, 2), uffd_lua_mask(L, 3, &kinds));
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushboolean(L, result);
  return 1;
}

static int workingset_count(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)uffd_workingset_count(check(L, 1)));
  return 1;
}

static int push_touch(lua_State *L, const struct uffd_touch *touch) {
  lua_pushinteger(L, (lua_Integer)touch->offset);
  lua_pushinteger(L, (lua_Integer)touch->flags);
  return 2;
}

static int workingset_get(lua_State *L) {
  const uffd_workingset *set = check(L, 1);
  struct uffd_touch touch;
  int result = uffd_workingset_get(set, (uint64_t)luaL_checkinteger(L, 2) - 1, &touch);
  return result < 0 ? uffd_lua_fail(L, result) : push_touch(L, &touch);
}

static int next_touch(lua_State *L) {
  struct uffd_touch touch;
  lua_Integer index = luaL_checkinteger(L, 2);
  if (uffd_workingset_get(check(L, 1), (uint64_t)index, &touch) < 0) return 0;
  lua_pushinteger(L, index + 1);
  return 1 + push_touch(L, &touch);
}

static int workingset_iterate(lua_State *L) {
  check(L, 1);
  lua_pushcfunction(L, next_touch);
  lua_pushvalue(L, 1);
  lua_pushinteger(L, 0);
  return 3;
}

static void push_ranges(lua_State *L, const struct uffd_range *ranges, size_t count) {
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_createtable(L, 2, 0);
    lua_pushinteger(L, (lua_Integer)ranges[i].offset);
    lua_seti(L, -2, 1);
    lua_pushinteger(L, (lua_Integer)ranges[i].length);
    lua_seti(L, -2, 2);
    lua_seti(L, -2, (lua_Integer)i + 1);
  }
}

static int workingset_ranges(lua_State *L) {
  const uffd_workingset *set = check(L, 1);
  int64_t count = uffd_workingset_ranges(set, NULL, 0);
  if (count < 0) return uffd_lua_fail(L, (int)count);
  uint64_t limit = uffd_lua_opt_unsigned(L, 2, (uint64_t)count);
  if (limit < (uint64_t)count) count = (int64_t)limit;
  struct uffd_range *ranges = lua_newuserdatauv(L, (size_t)count * sizeof(*ranges), 0);
  uffd_workingset_ranges(set, ranges, (size_t)count);
  push_ranges(L, ranges, (size_t)count);
  return 1;
}

static int workingset_merge(lua_State *L) {
  uffd_workingset *set = check(L, 1);
  return uffd_lua_done(L, uffd_workingset_merge(set, check(L, 2)));
}

/* The whole */

static int workingset_info(lua_State *L) {
  struct uffd_workingset_info info = UFFD_WORKINGSET_INFO_INIT;
  int result = uffd_workingset_info(check(L, 1), &info);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_createtable(L, 0, 9);
  uffd_lua_set_integer(L, "page_size", info.page_size);
  uffd_lua_set_integer(L, "image_length", info.image_length);
  uffd_lua_set_integer(L, "image_identity", info.image_identity);
  uffd_lua_set_integer(L, "pages", info.pages);
  uffd_lua_set_integer(L, "bytes", info.bytes);
  uffd_lua_set_integer(L, "writes", info.writes);
  uffd_lua_set_integer(L, "runs", info.runs);
  uffd_lua_set_integer(L, "longest_run", info.longest_run);
  uffd_lua_set_integer(L, "sequential", info.sequential);
  return 1;
}

static int workingset_check(lua_State *L) {
  const uffd_workingset *set = check(L, 1);
  uint64_t length = uffd_lua_unsigned(L, 2), identity = (uint64_t)luaL_optinteger(L, 3, 0);
  return uffd_lua_done(L, uffd_workingset_check(set, length, identity));
}

static int workingset_save(lua_State *L) {
  const uffd_workingset *set = check(L, 1);
  return uffd_lua_done(L, uffd_workingset_save(set, luaL_checkstring(L, 2)));
}

static int workingset_tostring(lua_State *L) {
  const struct workingset *handle = luaL_checkudata(L, 1, WORKINGSET_TYPE);
  if (handle->set == NULL) return uffd_lua_push_closed(L, WORKINGSET_TYPE);
  lua_pushfstring(L, "%s (%I pages)", WORKINGSET_TYPE, (lua_Integer)uffd_workingset_count(handle->set));
  return 1;
}

static const luaL_Reg methods[] = {{"add", workingset_add},
                                   {"count", workingset_count},
                                   {"get", workingset_get},
                                   {"iterate", workingset_iterate},
                                   {"info", workingset_info},
                                   {"ranges", workingset_ranges},
                                   {"merge", workingset_merge},
                                   {"check", workingset_check},
                                   {"save", workingset_save},
                                   {"close", workingset_close},
                                   {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", workingset_gc},
                                {"__close", workingset_gc},
                                {"__len", workingset_count},
                                {"__tostring", workingset_tostring},
                                {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"workingset_create", create}, {"workingset_load", load}, {"image_identity", image_identity}, {NULL, NULL}};

void uffd_lua_open_workingset(lua_State *L) {
  uffd_lua_class(L, WORKINGSET_TYPE, NULL, meta, methods);
  luaL_setfuncs(L, functions, 0);
}
