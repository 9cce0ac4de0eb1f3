/* uffd.memory: a mapping that can be served, and bounds-checked copies in and out of it. */
#include "util.h"

#include <stdlib.h>
#include <string.h>

struct memory {
  struct uffd_lua_memory_ref *ref; /* NULL: closed */
  uint64_t process;
};

static const char *const kinds[] = {"anonymous", "thp", "memfd", "hugetlb", "adopted", "foreign", NULL};

static struct memory *check(lua_State *L, int arg) {
  struct memory *memory = luaL_checkudata(L, arg, MEMORY_TYPE);
  uffd_lua_check_handle(L, MEMORY_TYPE, memory->ref != NULL, memory->process);
  return memory;
}

bool uffd_lua_is_memory(lua_State *L, int arg) {
  return luaL_testudata(L, arg, MEMORY_TYPE) != NULL;
}

struct uffd_lua_memory_ref *uffd_lua_check_memory(lua_State *L, int arg) {
  return check(L, arg)->ref;
}

struct uffd_lua_memory_ref *uffd_lua_check_source(lua_State *L, int arg) {
  struct uffd_lua_memory_ref *ref = check(L, arg)->ref;
  luaL_argcheck(L, ref->parent == NULL, arg,
                "an alias shows memory that is served: it cannot be a source or be served");
  return ref;
}

static struct memory *new_memory(lua_State *L) {
  struct memory *memory = lua_newuserdatauv(L, sizeof(*memory), UFFD_LUA_MEMORY_VALUES);
  memory->ref = NULL;
  memory->process = uffd_lua_process();
  luaL_setmetatable(L, MEMORY_TYPE);
  memory->ref = calloc(1, sizeof(*memory->ref));
  if (memory->ref == NULL) uffd_lua_no_memory(L);
  atomic_init(&memory->ref->count, 1);
  return memory;
}

struct uffd_lua_memory_ref *uffd_lua_push_memory(lua_State *L) {
  return new_memory(L)->ref;
}

static int map(lua_State *L) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uint64_t length = uffd_lua_unsigned(L, 1);
  static const char *const mapped[] = {"anonymous", "thp", "memfd", "hugetlb", NULL};
  opts.kind = uffd_lua_choice(L, 2, UFFD_MEMORY_THP, mapped, "kind of memory");
  opts.flags = uffd_lua_opt_u32(L, 3, 0);
  opts.name = luaL_optstring(L, 4, NULL);
  if (!lua_isnoneornil(L, 5)) opts.of = uffd_lua_check_memory(L, 5)->memory;
  struct memory *memory = new_memory(L);
  int result = uffd_map(length, &opts, &memory->ref->memory);
  if (result < 0) return uffd_lua_fail(L, result);
  return 1;
}

static int adopt(lua_State *L) {
  uint64_t address = uffd_lua_unsigned(L, 1);
  uint64_t length = uffd_lua_unsigned(L, 2);
  struct memory *memory = new_memory(L);
  int result = uffd_memory_adopt((void *)(uintptr_t)address, length, &memory->ref->memory);
  if (result < 0) return uffd_lua_fail(L, result);
  return 1;
}

/* core.memory_foreign(address, size, page_size, pid) */
static int foreign(lua_State *L) {
  struct uffd_foreign_opts opts = UFFD_FOREIGN_OPTS_INIT;
  uint64_t address = uffd_lua_unsigned(L, 1);
  uint64_t length = uffd_lua_unsigned(L, 2);
  opts.page_size = uffd_lua_opt_unsigned(L, 3, 0);
  lua_Integer pid = luaL_optinteger(L, 4, 0);
  luaL_argcheck(L, pid >= 0 && pid <= INT32_MAX, 4, "not a process");
  opts.pid = (int32_t)pid;
  struct memory *memory = new_memory(L);
  int result = uffd_memory_foreign(address, length, &opts, &memory->ref->memory);
  if (result < 0) return uffd_lua_fail(L, result);
  return 1;
}

static void close_memory(struct memory *memory) {
  if (memory->ref != NULL) uffd_lua_memory_release(memory->ref);
  memory->ref = NULL;
}

static int memory_close(lua_State *L) {
  close_memory(luaL_checkudata(L, 1, MEMORY_TYPE));
  lua_pushnil(L);
  lua_setiuservalue(L, 1, UFFD_LUA_MEMORY_REGIONS);
  lua_pushboolean(L, 1);
  return 1;
}

static int memory_gc(lua_State *L) {
  close_memory(luaL_checkudata(L, 1, MEMORY_TYPE));
  return 0;
}

int uffd_lua_read_memory(lua_State *L, uffd_memory *memory) {
  uint64_t size = uffd_memory_length(memory);
  uint64_t offset = uffd_lua_opt_unsigned(L, 2, 0);
  uint64_t length = uffd_lua_opt_unsigned(L, 3, offset < size ? size - offset : 0);
  uffd_lua_check_range(L, 2, offset, length, size, "memory");
  luaL_Buffer buffer;
  char *data = luaL_buffinitsize(L, &buffer, (size_t)length);
  uffd_lua_waiting(L, true);
  int result = uffd_memory_read(memory, offset, data, length);
  uffd_lua_waiting(L, false);
  if (result < 0) return uffd_lua_fail(L, result);
  luaL_pushresultsize(&buffer, (size_t)length);
  return 1;
}

static int memory_read(lua_State *L) {
  return uffd_lua_read_memory(L, check(L, 1)->ref->memory);
}

static int memory_write(lua_State *L) {
  uffd_memory *memory = check(L, 1)->ref->memory;
  uint64_t offset = uffd_lua_unsigned(L, 2);
  size_t length = 0;
  const char *data = luaL_checklstring(L, 3, &length);
  uffd_lua_check_range(L, 2, offset, length, uffd_memory_length(memory), "memory");
  uffd_lua_waiting(L, true);
  int result = uffd_memory_write(memory, offset, data, length);
  uffd_lua_waiting(L, false);
  return uffd_lua_done(L, result);
}

static int memory_prefault(lua_State *L) {
  uffd_memory *memory = check(L, 1)->ref->memory;
  uint64_t size = uffd_memory_length(memory), offset = uffd_lua_opt_unsigned(L, 2, 0);
  uint64_t length = uffd_lua_opt_unsigned(L, 3, offset < size ? size - offset : 0);
  uffd_lua_check_range(L, 2, offset, length, size, "memory");
  uffd_lua_waiting(L, true);
  int result = uffd_memory_prefault(memory, offset, length, lua_toboolean(L, 4));
  uffd_lua_waiting(L, false);
  return uffd_lua_done(L, result);
}

static int memory_discard(lua_State *L) {
  uffd_memory *memory = check(L, 1)->ref->memory;
  uint64_t size = uffd_memory_length(memory), offset = uffd_lua_opt_unsigned(L, 2, 0);
  uint64_t length = uffd_lua_opt_unsigned(L, 3, offset < size ? size - offset : 0);
  uffd_lua_check_range(L, 2, offset, length, size, "memory");
  uffd_lua_waiting(L, true);
  int result = uffd_memory_discard(memory, offset, length);
  uffd_lua_waiting(L, false);
  return uffd_lua_done(L, result);
}

static char check_byte(lua_State *L, int arg) {
  if (lua_type(L, arg) != LUA_TSTRING) {
    lua_Integer byte = luaL_checkinteger(L, arg);
    luaL_argcheck(L, byte >= 0 && byte <= 255, arg, "a byte is 0 to 255, or a string of one character");
    return (char)(unsigned char)byte;
  }
  size_t length = 0;
  const char *text = lua_tolstring(L, arg, &length);
  luaL_argcheck(L, length == 1, arg, "a byte is 0 to 255, or a string of one character");
  return text[0];
}

static int memory_fill(lua_State *L) {
  uffd_memory *memory = check(L, 1)->ref->memory;
  char chunk[16384];
  memset(chunk, check_byte(L, 2), sizeof(chunk));
  uint64_t size = uffd_memory_length(memory);
  uint64_t offset = uffd_lua_opt_unsigned(L, 3, 0);
  uint64_t length = uffd_lua_opt_unsigned(L, 4, offset < size ? size - offset : 0);
  uffd_lua_check_range(L, 3, offset, length, size, "memory");
  int result = 0;
  uffd_lua_waiting(L, true);
  while (length > 0 && result >= 0) {
    uint64_t step = length < sizeof(chunk) ? length : sizeof(chunk);
    result = uffd_memory_write(memory, offset, chunk, step);
    offset += step;
    length -= step;
  }
  uffd_lua_waiting(L, false);
  return uffd_lua_done(L, result);
}

/* A handle of the second mapping, made once. It holds the memory, whose mapping it is. */
static int push_alias(lua_State *L, struct memory *memory) {
  if (lua_getiuservalue(L, 1, UFFD_LUA_MEMORY_ALIAS) == LUA_TUSERDATA &&
      ((struct memory *)lua_touserdata(L, -1))->ref != NULL)
    return 1;
  void *address = uffd_memory_alias(memory->ref->memory);
  if (address == NULL) {
    lua_pushnil(L);
    return 1;
  }
  struct memory *alias = new_memory(L);
  int result = uffd_memory_adopt(address, uffd_memory_length(memory->ref->memory), &alias->ref->memory);
  if (result < 0) return luaL_error(L, "%s", uffd_errmsg());
  alias->ref->parent = memory->ref;
  atomic_fetch_add(&memory->ref->count, 1);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, 1, UFFD_LUA_MEMORY_ALIAS);
  return 1;
}

static int push_size(lua_State *L, struct memory *memory) {
  lua_pushinteger(L, (lua_Integer)uffd_memory_length(memory->ref->memory));
  return 1;
}

static int push_address(lua_State *L, struct memory *memory) {
  lua_pushinteger(L, (lua_Integer)uffd_memory_start(memory->ref->memory));
  return 1;
}

static int push_page_size(lua_State *L, struct memory *memory) {
  lua_pushinteger(L, (lua_Integer)uffd_memory_page_size(memory->ref->memory));
  return 1;
}

static int push_kind(lua_State *L, struct memory *memory) {
  lua_pushstring(L, kinds[uffd_memory_kind(memory->ref->memory)]);
  return 1;
}

static int push_fd(lua_State *L, struct memory *memory) {
  int fd = uffd_memory_fd(memory->ref->memory);
  if (fd >= 0)
    lua_pushinteger(L, fd);
  else
    lua_pushnil(L);
  return 1;
}

static const struct {
  const char *name;
  int (*push)(lua_State *L, struct memory *memory);
} fields[] = {{"size", push_size}, {"address", push_address}, {"page_size", push_page_size},
              {"kind", push_kind}, {"fd", push_fd},           {"alias", push_alias}};

static int memory_index(lua_State *L) {
  if (uffd_lua_method(L)) return 1;
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
    if (strcmp(fields[i].name, name) == 0) return fields[i].push(L, check(L, 1));
  }
  lua_pushnil(L);
  return 1;
}

static int memory_len(lua_State *L) {
  return push_size(L, check(L, 1));
}

static int memory_tostring(lua_State *L) {
  struct memory *memory = luaL_checkudata(L, 1, MEMORY_TYPE);
  if (memory->ref == NULL) return uffd_lua_push_closed(L, MEMORY_TYPE);
  uffd_memory *mapped = memory->ref->memory;
  lua_pushfstring(L, "%s (%s, %I bytes at %p)", MEMORY_TYPE, kinds[uffd_memory_kind(mapped)],
                  (lua_Integer)uffd_memory_length(mapped), (void *)(uintptr_t)uffd_memory_start(mapped));
  return 1;
}

static const luaL_Reg methods[] = {
    {"read", memory_read},       {"write", memory_write}, {"fill", memory_fill}, {"prefault", memory_prefault},
    {"discard", memory_discard}, {"close", memory_close}, {NULL, NULL}};

static const luaL_Reg meta[] = {
    {"__gc", memory_gc}, {"__close", memory_gc}, {"__len", memory_len}, {"__tostring", memory_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"map", map}, {"memory_adopt", adopt}, {"memory_foreign", foreign}, {NULL, NULL}};

void uffd_lua_open_memory(lua_State *L) {
  uffd_lua_class(L, MEMORY_TYPE, memory_index, meta, methods);
  luaL_setfuncs(L, functions, 0);
}
