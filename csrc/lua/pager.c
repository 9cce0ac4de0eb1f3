/*
 * uffd.pager: answers the faults of other processes. The handle is the supervisor's. Its report function is called
 * here, in step(). Its resolver function is called in the workers: in a forked copy of this state, or in the program
 * that calls pager_work().
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"
#include "signals.h"
#include "util.h"

enum { SLICE_MS = 250 }; /* a second signal is seen after so long at most */

/* What the callbacks need. It is valid while the call of ours runs from which the core calls them. */
struct host {
  lua_State *L;
  int options; /* stack index of the table of options */
  int handle;  /* of the pager; its second user value receives an error that a report raised; 0: none */
};

struct pager {
  uffd_pager *pager; /* NULL: closed */
  uint64_t process;
  struct host host; /* L is NULL between calls */
};

static struct pager *check(lua_State *L, int arg) {
  struct pager *pager = luaL_checkudata(L, arg, PAGER_TYPE);
  uffd_lua_check_handle(L, PAGER_TYPE, pager->pager != NULL, pager->process);
  return pager;
}

static void push_regions(lua_State *L, const struct uffd_client *client) {
  lua_createtable(L, (int)client->regions_count, 0);
  for (uint32_t i = 0; i < client->regions_count; i++) {
    const struct uffd_client_region *region = &client->regions[i];
    lua_createtable(L, 0, 4);
    uffd_lua_set_integer(L, "address", region->address);
    uffd_lua_set_integer(L, "length", region->length);
    uffd_lua_set_integer(L, "offset", region->offset);
    uffd_lua_set_integer(L, "page_size", region->page_size);
    lua_seti(L, -2, (lua_Integer)i + 1);
  }
}

static void push_client(lua_State *L, const struct uffd_client *client) {
  uint64_t size = 0;
  for (uint32_t i = 0; i < client->regions_count; i++)
    size += client->regions[i].length;
  lua_createtable(L, 0, 16);
  uffd_lua_set_integer(L, "id", client->id);
  uffd_lua_set_integer(L, "of", client->of);
  uffd_lua_set_integer(L, "pid", (uint64_t)client->pid);
  uffd_lua_set_integer(L, "uid", client->uid);
  uffd_lua_set_integer(L, "gid", client->gid);
  uffd_lua_set_integer(L, "size", size);
  push_regions(L, client);
  lua_setfield(L, -2, "regions");
  lua_createtable(L, (int)client->fds_count, 0);
  for (uint32_t i = 0; i < client->fds_count; i++) {
    lua_pushinteger(L, client->fds[i]);
    lua_seti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "fds");
  if (client->label != NULL && client->label[0] != '\0') {
    lua_pushstring(L, client->label);
    lua_setfield(L, -2, "label");
  }
  if (client->socket != NULL && client->socket[0] != '\0') {
    lua_pushstring(L, client->socket);
    lua_setfield(L, -2, "socket");
  }
}

static void push_status(lua_State *L, const struct uffd_client_status *status) {
  push_client(L, &status->client);
  lua_pushstring(L, uffd_client_state_name(status->state));
  lua_setfield(L, -2, "state");
  if (status->end != UFFD_END_NONE) {
    lua_pushstring(L, uffd_client_end_name(status->end));
    lua_setfield(L, -2, "ended");
  }
  uffd_lua_set_integer(L, "worker", status->worker);
  uffd_lua_set_integer(L, "restarts", status->restarts);
  uffd_lua_set_integer(L, "since_ns", status->since_ns);
  uffd_lua_set_integer(L, "oldest_ns", status->oldest_ns);
  lua_pushboolean(L, (int)status->shared);
  lua_setfield(L, -2, "shared");
  if (status->image != NULL) {
    lua_pushstring(L, status->image);
    lua_setfield(L, -2, "image");
  }
  uffd_lua_push_stats(L, &status->stats);
  lua_setfield(L, -2, "stats");
}

/*
 * Calls function(ctx, options) and catches errors, because nothing may be raised through the core. False: the message
 * is on the stack.
 */
static bool call_back(const struct host *host, lua_CFunction function, void *ctx) {
  lua_State *L = host->L;
  if (!lua_checkstack(L, LUA_MINSTACK)) {
    lua_pushnil(L);
    return false;
  }
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, ctx);
  lua_pushvalue(L, host->options);
  return lua_pcall(L, 2, 0, 0) == LUA_OK;
}

static int pass_report(lua_State *L) {
  const struct uffd_pager_report *report = lua_touserdata(L, 1);
  if (lua_getfield(L, 2, "report") != LUA_TFUNCTION) return 0;
  lua_createtable(L, 0, 8);
  lua_pushstring(L, uffd_report_name(report->kind));
  lua_setfield(L, -2, "kind");
  if (report->error != 0) uffd_lua_set_integer(L, "error", (uint64_t)report->error);
  uffd_lua_set_integer(L, "worker", report->worker);
  if (report->pid != 0) uffd_lua_set_integer(L, "pid", (uint64_t)report->pid);
  uffd_lua_set_integer(L, "time_ns", report->time_ns);
  uffd_lua_set_integer(L, "wall_ns", report->wall_ns);
  lua_pushstring(L, report->text != NULL ? report->text : "");
  lua_setfield(L, -2, "text");
  if (report->client != NULL) {
    push_status(L, report->client);
    lua_setfield(L, -2, "client");
  }
  lua_call(L, 1, 0);
  return 0;
}

static void on_report(void *ctx, const struct uffd_pager_report *report) {
  const struct pager *pager = ctx;
  const struct host *host = &pager->host;
  if (host->L == NULL || call_back(host, pass_report, (void *)report)) return;
  lua_State *L = host->L;
  /* The first error is raised after the core has returned. */
  if (lua_getiuservalue(L, host->handle, 2) == LUA_TNIL) {
    lua_pushvalue(L, -2);
    lua_setiuservalue(L, host->handle, 2);
  }
  lua_pop(L, 2);
}

struct question {
  const struct uffd_client *client;
  uffd_resolver *image;
  uffd_resolver **resolver;
  int error; /* what the function itself said, or EIO */
};

static int ask_resolver(lua_State *L) {
  struct question *question = lua_touserdata(L, 1);
  lua_getfield(L, 2, "resolver");
  push_client(L, question->client);
  if (question->image == NULL) {
    lua_pushnil(L);
  } else {
    uffd_resolver **slot;
    uffd_lua_new_resolver(L, &slot);
    uffd_resolver_hold(question->image);
    *slot = question->image;
  }
  lua_call(L, 2, 3);
  if (lua_isnil(L, -3) && lua_isstring(L, -2)) { /* what uffd.resolver's functions return when they fail */
    int exact = 0;
    lua_Integer error = lua_tointegerx(L, -1, &exact);
    if (exact && error > 0 && error < 4096) question->error = (int)error;
    lua_settop(L, -2);
    return lua_error(L);
  }
  if (!uffd_lua_is_resolver(L, -3))
    return luaL_error(L, "it returned a %s; it must return a %s", luaL_typename(L, -3), RESOLVER_TYPE);
  *question->resolver = uffd_lua_check_resolver(L, -3);
  if (*question->resolver != question->image) uffd_resolver_hold(*question->resolver);
  return 0;
}

static int on_resolver(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  const struct host *host = ctx;
  struct question question = {client, image, resolver, EIO};
  if (host->L == NULL) return uffd_set_errmsg(EINVAL, "resolver: its Lua state is not in a call of the pager.");
  uffd_lua_policy_print();
  if (call_back(host, ask_resolver, &question)) return 0;
  const char *message = lua_type(host->L, -1) == LUA_TSTRING ? lua_tostring(host->L, -1) : "(not a message)";
  size_t length = strlen(message);
  const char *end = length > 0 && message[length - 1] == '.' ? "" : ".";
  int result = uffd_set_errmsg(question.error, "resolver: %s%s", message, end);
  lua_pop(host->L, 1);
  return result;
}

struct choice {
  const struct uffd_client *client;
  char *path;
  size_t size;
  int result; /* 0: the path; 1: the pager's own image; or what the function itself said, or -EIO */
};

static int ask_choice(lua_State *L) {
  struct choice *choice = lua_touserdata(L, 1);
  lua_getfield(L, 2, "choose");
  push_client(L, choice->client);
  lua_call(L, 1, 3);
  if (lua_type(L, -3) == LUA_TSTRING) {
    size_t length;
    const char *path = lua_tolstring(L, -3, &length);
    if (strlen(path) != length) return luaL_error(L, "it returned a path with a zero byte in it");
    if (length >= choice->size) return luaL_error(L, "it returned a path of %d bytes", (int)length);
    memcpy(choice->path, path, length + 1);
    choice->result = 0;
    return 0;
  }
  if (lua_isboolean(L, -3) && lua_toboolean(L, -3)) {
    choice->result = 1;
    return 0;
  }
  if (!lua_toboolean(L, -3) && lua_type(L, -2) == LUA_TSTRING) {
    int exact = 0;
    lua_Integer error = lua_tointegerx(L, -1, &exact);
    choice->result = exact && error > 0 && error < 4096 ? -(int)error : -EACCES;
    lua_settop(L, -2);
    return lua_error(L);
  }
  return luaL_error(L, "it returned a %s; it must return a path, or true for the pager's own image, or nil and why not",
                    luaL_typename(L, -3));
}

static int on_choose(void *ctx, const struct uffd_client *client, char *path, size_t size) {
  const struct host *host = ctx;
  struct choice choice = {.client = client, .size = size, .result = -EIO};
  choice.path = path;
  if (host->L == NULL) return uffd_set_errmsg(EINVAL, "choose: its Lua state is not in a call of the pager.");
  if (call_back(host, ask_choice, &choice)) return choice.result;
  const char *message = lua_type(host->L, -1) == LUA_TSTRING ? lua_tostring(host->L, -1) : "(not a message)";
  size_t length = strlen(message);
  const char *end = length > 0 && message[length - 1] == '.' ? "" : ".";
  int result = uffd_set_errmsg(-choice.result, "choose: %s%s", message, end);
  lua_pop(host->L, 1);
  return result;
}

static uint64_t number(lua_State *L, int table, const char *name, uint64_t most) {
  int exact = 1;
  int type = lua_getfield(L, table, name);
  lua_Integer value = type == LUA_TNIL ? 0 : lua_tointegerx(L, -1, &exact);
  if (!exact || type == LUA_TSTRING || value < 0 || (uint64_t)value > most)
    luaL_error(L, "%s must be an integer from 0 to %I, not %s", name, (lua_Integer)most, luaL_tolstring(L, -1, NULL));
  lua_pop(L, 1);
  return (uint64_t)value;
}

/* The table holds the string: it is valid as long as the table. */
static const char *text(lua_State *L, int table, const char *name) {
  int type = lua_getfield(L, table, name);
  if (type != LUA_TNIL && type != LUA_TSTRING)
    luaL_error(L, "%s must be a string, not a %s", name, lua_typename(L, type));
  const char *value = lua_tostring(L, -1);
  if (value != NULL && strlen(value) != lua_rawlen(L, -1)) luaL_error(L, "%s has a zero byte in it", name);
  lua_pop(L, 1);
  return value;
}

static uint32_t choice(lua_State *L, int table, const char *name, const char *const names[]) {
  lua_getfield(L, table, name);
  uint32_t value = uffd_lua_choice(L, lua_gettop(L), 0, names, name);
  lua_pop(L, 1);
  return value;
}

static uint32_t flag(lua_State *L, int table, const char *name, uint32_t bit) {
  lua_getfield(L, table, name);
  uint32_t value = lua_toboolean(L, -1) ? bit : 0;
  lua_pop(L, 1);
  return value;
}

static bool has_function(lua_State *L, int table, const char *name) {
  int type = lua_getfield(L, table, name);
  lua_pop(L, 1);
  if (type != LUA_TNIL && type != LUA_TFUNCTION)
    luaL_error(L, "%s must be a function, not a %s", name, lua_typename(L, type));
  return type == LUA_TFUNCTION;
}

/* A list of strings in a field, as C needs it; the table holds it under the name held. NULL: nil. */
static const char *const *list(lua_State *L, int table, const char *name, bool one, const char *held) {
  if (lua_getfield(L, table, name) == LUA_TNIL) {
    lua_pop(L, 1);
    return NULL;
  }
  const char *const *strings = uffd_lua_strings(L, lua_gettop(L), name, one);
  lua_setfield(L, table, held);
  lua_pop(L, 1);
  return strings;
}

/* The front doors as a list; the table of options holds it. */
static const struct uffd_pager_door *doors(lua_State *L, int table, size_t *count) {
  *count = 0;
  if (lua_getfield(L, table, "doors") != LUA_TTABLE) {
    lua_pop(L, 1);
    return NULL;
  }
  size_t length = (size_t)luaL_len(L, -1);
  struct uffd_pager_door *list = lua_newuserdatauv(L, (length + 1) * sizeof(*list), 0);
  for (size_t i = 0; i < length; i++) {
    lua_geti(L, -2, (lua_Integer)i + 1);
    int door = lua_gettop(L);
    list[i] = (struct uffd_pager_door){.path = text(L, door, "path"), .mode = (uint32_t)number(L, door, "mode", 0777)};
    list[i].uid =
        lua_getfield(L, door, "uid") == LUA_TNIL ? UFFD_DOOR_UID : (int64_t)number(L, door, "uid", UINT32_MAX);
    lua_pop(L, 2);
  }
  *count = length;
  lua_setfield(L, table, "doors_list");
  lua_pop(L, 1);
  return list;
}

static uint64_t around(lua_State *L, int table) {
  bool follows = lua_getfield(L, table, "around") == LUA_TSTRING && strcmp(lua_tostring(L, -1), "auto") == 0;
  lua_pop(L, 1);
  return follows ? UFFD_AROUND_AUTO : number(L, table, "around", LUA_MAXINTEGER);
}

static int64_t user(lua_State *L, int table, const char *name) {
  int type = lua_getfield(L, table, name);
  lua_pop(L, 1);
  return type == LUA_TNIL ? -1 : (int64_t)number(L, table, name, UINT32_MAX);
}

static void read_options(lua_State *L, int table, struct uffd_pager_opts *opts) {
  static const char *const crashes[] = {"kill", "freeze", NULL};
  static const char *const drains[] = {"complete", "refuse", NULL};
  static const char *const kinds[] = {"firecracker", "criu", NULL};
  luaL_checktype(L, table, LUA_TTABLE);
  opts->socket = text(L, table, "socket");
  opts->doors = doors(L, table, &opts->doors_count);
  opts->control = text(L, table, "control");
  opts->socket_mode = (uint32_t)number(L, table, "mode", 0777);
  opts->max_clients = (uint32_t)number(L, table, "max_clients", UINT32_MAX);
  opts->uid = user(L, table, "uid");
  opts->control_mode = (uint32_t)number(L, table, "control_mode", 0777);
  opts->control_uid = user(L, table, "control_uid");
  opts->max_clients_per_process = (uint32_t)number(L, table, "max_clients_per_process", UINT32_MAX);
  opts->max_clients_per_user = (uint32_t)number(L, table, "max_clients_per_user", UINT32_MAX);
  opts->max_regions = (uint32_t)number(L, table, "max_regions", UINT32_MAX);
  opts->max_bytes = (uint32_t)number(L, table, "max_bytes", UINT32_MAX);
  opts->handshake_ms = (uint32_t)number(L, table, "handshake", UINT32_MAX);
  opts->workers = (uint32_t)number(L, table, "workers", UINT32_MAX);
  opts->door = choice(L, table, "door", kinds);
  opts->on_crash = choice(L, table, "on_crash", crashes);
  opts->on_drain = choice(L, table, "on_drain", drains);
  opts->flags = flag(L, table, "once", UFFD_PAGER_ONCE) | flag(L, table, "prefetch", UFFD_PAGER_PREFETCH) |
                flag(L, table, "keep", UFFD_PAGER_KEEP) | flag(L, table, "share", UFFD_PAGER_SHARE);
  opts->hang_ms = (uint32_t)number(L, table, "hang", UINT32_MAX);
  opts->watchdog_ms = (uint32_t)number(L, table, "watchdog", UINT32_MAX);
  opts->around = around(L, table);
  opts->rate = number(L, table, "rate", LUA_MAXINTEGER);
  opts->images = list(L, table, "image", true, "images");
  opts->record = text(L, table, "record");
  opts->replay = text(L, table, "replay");
  opts->metrics = text(L, table, "metrics");
  opts->worker = list(L, table, "worker", false, "argv");
  if (has_function(L, table, "resolver")) opts->resolver = on_resolver;
  if (has_function(L, table, "choose")) opts->choose = on_choose;
  if (has_function(L, table, "report")) opts->report = on_report;
}

/* core.pager_create(options) */
static int create(lua_State *L) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  lua_settop(L, 1);
  read_options(L, 1, &opts);
  struct pager *pager = lua_newuserdatauv(L, sizeof(*pager), 2);
  *pager = (struct pager){.process = uffd_lua_process(), .host = {L, 1, 2}};
  luaL_setmetatable(L, PAGER_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 2, 1);
  opts.resolver_ctx = opts.choose_ctx = &pager->host;
  opts.report_ctx = pager;
  uffd_lua_before_fork(L);
  int result = uffd_pager_create(&opts, &pager->pager);
  pager->host.L = NULL;
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* core.pager_keep(command): the exit code of the program. */
static int keep(lua_State *L) {
  lua_settop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, 1);
  lua_setfield(L, 2, "worker");
  uffd_lua_before_fork(L);
  int result = uffd_pager_keep(list(L, 2, "worker", false, "argv"));
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushinteger(L, result);
  return 1;
}

/* core.pager_work(fd, options) */
static int work(lua_State *L) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  uint64_t fd = uffd_lua_unsigned(L, 1);
  luaL_argcheck(L, fd <= INT_MAX, 1, "not a file descriptor");
  lua_settop(L, 2);
  read_options(L, 2, &opts);
  struct host host = {L, 2, 0};
  opts.resolver_ctx = &host;
  opts.report = NULL;
  return uffd_lua_done(L, uffd_pager_work((int)fd, &opts));
}

static int pager_close(lua_State *L) {
  struct pager *pager = luaL_checkudata(L, 1, PAGER_TYPE);
  if (pager->pager != NULL) {
    if (pager->host.L != NULL) luaL_error(L, "a %s cannot be closed from its own report", PAGER_TYPE);
    uffd_pager *closing = pager->pager;
    uffd_lua_signals_return(closing);
    pager->pager = NULL;
    /* Reports tell how its clients end. */
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, 1);
    pager->host = (struct host){L, 2, 1};
    uffd_pager_close(closing);
    pager->host.L = NULL;
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* SIGHUP reloads, SIGTERM and SIGINT drain. */
static int pager_on_signals(lua_State *L) {
  struct pager *pager = check(L, 1);
  if (!uffd_lua_signals_take(pager->pager))
    return luaL_error(L, "another %s has the signals of this process", PAGER_TYPE);
  return 0;
}

/* core.pager_hold_signals(): those that come before on_signals() wait until then. */
static int hold_signals(lua_State *L) {
  (void)L;
  uffd_lua_signals_hold();
  return 0;
}

/* One step of the core; its callbacks use this call's frame. */
static int step_once(lua_State *L, struct pager *pager, int timeout_ms) {
  pager->host = (struct host){L, 2, 1};
  int result = uffd_pager_step(pager->pager, timeout_ms);
  pager->host.L = NULL;
  if (lua_getiuservalue(L, 1, 2) == LUA_TNIL) {
    lua_pop(L, 1);
    return result;
  }
  lua_pushnil(L);
  lua_setiuservalue(L, 1, 2);
  return lua_error(L);
}

/* A long wait is made of short ones where a second signal must be noticed. */
static int step_for(lua_State *L, struct pager *pager, int timeout_ms) {
  if (pager->host.L != NULL) luaL_error(L, "a %s cannot be stepped from its own report", PAGER_TYPE);
  bool signals = uffd_lua_signals_taken(pager->pager);
  if (signals && uffd_lua_signals_second()) return uffd_set_errmsg(EINTR, "A second signal ended it.");
  bool slice = signals && (timeout_ms < 0 || timeout_ms > SLICE_MS);
  return step_once(L, pager, slice ? SLICE_MS : timeout_ms);
}

static struct pager *begin_step(lua_State *L) {
  struct pager *pager = check(L, 1);
  lua_settop(L, 2);
  lua_getiuservalue(L, 1, 1);
  lua_replace(L, 2);
  return pager;
}

/* True: call it again. False: all is done. */
static int pager_step(lua_State *L) {
  int timeout_ms = uffd_lua_timeout(L, 2, 0);
  int result = step_for(L, begin_step(L), timeout_ms);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushboolean(L, result > 0);
  return 1;
}

static int pager_run(lua_State *L) {
  struct pager *pager = begin_step(L);
  int result;
  do {
    result = step_for(L, pager, -1);
  } while (result > 0);
  return uffd_lua_done(L, result);
}

static int pager_fd(lua_State *L) {
  int fd = uffd_pager_fd(check(L, 1)->pager);
  if (fd < 0) return uffd_lua_fail(L, fd);
  lua_pushinteger(L, fd);
  return 1;
}

/* For cqueues: what is waited for, and for how many seconds at most. */
static int pager_events(lua_State *L) {
  check(L, 1);
  lua_pushstring(L, "r");
  return 1;
}

static int pager_timeout(lua_State *L) {
  check(L, 1);
  lua_pushnil(L);
  return 1;
}

/* For LuaSocket: true if something is buffered here. Never. */
static int pager_dirty(lua_State *L) {
  check(L, 1);
  lua_pushboolean(L, 0);
  return 1;
}

static int pager_image(lua_State *L) {
  uffd_pager *pager = check(L, 1)->pager;
  return uffd_lua_done(L, uffd_pager_images(pager, uffd_lua_strings(L, 2, "image", true)));
}

/* core.pager_configure(pager, options): the new table is the one that callbacks are found in. */
static int pager_configure(lua_State *L) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  struct pager *pager = check(L, 1);
  lua_settop(L, 2);
  if (pager->host.L != NULL) luaL_error(L, "a %s cannot be configured from its own report", PAGER_TYPE);
  read_options(L, 2, &opts);
  opts.resolver_ctx = opts.choose_ctx = &pager->host;
  opts.report_ctx = pager;
  pager->host = (struct host){L, 2, 1};
  int result = uffd_pager_configure(pager->pager, &opts);
  pager->host.L = NULL;
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, 1);
  return uffd_lua_done(L, result);
}

static int pager_reload(lua_State *L) {
  return uffd_lua_done(L, uffd_pager_reload(check(L, 1)->pager));
}

/* pager:drain([client]) */
static int pager_drain(lua_State *L) {
  uffd_pager *pager = check(L, 1)->pager;
  if (!lua_isnoneornil(L, 2)) return uffd_lua_done(L, uffd_pager_drain_client(pager, uffd_lua_unsigned(L, 2)));
  int result = uffd_pager_drain(pager);
  if (result == -EALREADY)
    uffd_set_errmsg(EALREADY, "It drains already."); /* the core sets no sentence, because signal handlers call it */
  return uffd_lua_done(L, result);
}

static int pager_status(lua_State *L) {
  struct uffd_pager_status status = UFFD_PAGER_STATUS_INIT;
  int result = uffd_pager_status(check(L, 1)->pager, &status);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_createtable(L, 0, 6);
  uffd_lua_set_integer(L, "clients", status.clients);
  uffd_lua_set_integer(L, "workers", status.workers);
  uffd_lua_set_integer(L, "served", status.served);
  uffd_lua_set_integer(L, "refused", status.refused);
  uffd_lua_set_integer(L, "restarts", status.restarts);
  uffd_lua_set_integer(L, "hangs", status.hangs);
  uffd_lua_set_integer(L, "reloads", status.reloads);
  lua_pushboolean(L, status.reloading != 0);
  lua_setfield(L, -2, "reloading");
  lua_pushboolean(L, status.draining != 0);
  lua_setfield(L, -2, "draining");
  return 1;
}

static int pager_clients(lua_State *L) {
  struct uffd_client_status status = UFFD_CLIENT_STATUS_INIT;
  uffd_pager *pager = check(L, 1)->pager;
  lua_newtable(L);
  for (uint32_t i = 0; uffd_pager_client(pager, i, &status) > 0; i++) {
    push_status(L, &status);
    lua_seti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* Of all clients so far. */
static int pager_stats(lua_State *L) {
  struct uffd_stats stats = UFFD_STATS_INIT;
  int result = uffd_pager_stats(check(L, 1)->pager, &stats);
  if (result < 0) return uffd_lua_fail(L, result);
  uffd_lua_push_stats(L, &stats);
  return 1;
}

static void keep_reply(void *ctx, const char *reply, size_t length) {
  char **kept = ctx;
  *kept = malloc(length + 1);
  if (*kept == NULL) return;
  memcpy(*kept, reply, length);
  (*kept)[length] = '\0';
}

static int push_reply(lua_State *L, int result, char *reply) {
  if (result < 0) return uffd_lua_fail(L, result);
  if (reply == NULL) uffd_lua_no_memory(L);
  lua_pushstring(L, reply);
  free(reply);
  return 1;
}

static int pager_metrics(lua_State *L) {
  char *text = NULL;
  int result = uffd_pager_metrics(check(L, 1)->pager, keep_reply, &text);
  return push_reply(L, result, text);
}

static int pager_kill(lua_State *L) {
  return uffd_lua_done(L, uffd_pager_kill(check(L, 1)->pager, uffd_lua_unsigned(L, 2)));
}

static int pager_complete(lua_State *L) {
  return uffd_lua_done(L, uffd_pager_complete(check(L, 1)->pager, uffd_lua_unsigned(L, 2)));
}

static int pager_label(lua_State *L) {
  return uffd_lua_done(L, uffd_pager_label(check(L, 1)->pager, uffd_lua_unsigned(L, 2), luaL_checkstring(L, 3)));
}

static int pager_workers(lua_State *L) {
  static const char *const states[] = {"starting", "ready", "retiring"};
  struct uffd_worker_status status = UFFD_WORKER_STATUS_INIT;
  uffd_pager *pager = check(L, 1)->pager;
  lua_newtable(L);
  for (uint32_t i = 0; uffd_pager_worker(pager, i, &status) > 0; i++) {
    lua_createtable(L, 0, 5);
    uffd_lua_set_integer(L, "pid", (uint64_t)status.pid);
    uffd_lua_set_integer(L, "worker", status.worker);
    uffd_lua_set_integer(L, "clients", status.clients);
    uffd_lua_set_integer(L, "since_ns", status.since_ns);
    lua_pushstring(L, states[status.state]);
    lua_setfield(L, -2, "state");
    lua_seti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int pager_tostring(lua_State *L) {
  struct pager *pager = luaL_checkudata(L, 1, PAGER_TYPE);
  struct uffd_pager_status status = UFFD_PAGER_STATUS_INIT;
  if (pager->pager == NULL) return uffd_lua_push_closed(L, PAGER_TYPE);
  uffd_pager_status(pager->pager, &status);
  lua_pushfstring(L, "%s (%d client%s)", PAGER_TYPE, (int)status.clients, status.clients == 1 ? "" : "s");
  return 1;
}

static uint32_t id_of(lua_State *L, int table, const char *name) {
  return (uint32_t)number(L, table, name, UINT32_MAX);
}

/* core.client_path(template, client) */
static int client_path(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  char room[4096];
  luaL_checktype(L, 2, LUA_TTABLE);
  struct uffd_client client = {.pid = (int32_t)number(L, 2, "pid", INT32_MAX), .uid = id_of(L, 2, "uid")};
  client.gid = id_of(L, 2, "gid");
  client.label = text(L, 2, "label");
  client.socket = text(L, 2, "socket");
  int result = uffd_client_path(path, &client, room, sizeof(room));
  if (result < 0) return uffd_lua_fail(L, result);
  lua_pushstring(L, room);
  return 1;
}

/* core.pager_ask(control, request, timeout_ms) */
static int ask(lua_State *L) {
  const char *control = luaL_checkstring(L, 1), *request = luaL_checkstring(L, 2);
  uint32_t timeout_ms = uffd_lua_opt_u32(L, 3, 0);
  char *reply = NULL;
  int result = uffd_pager_ask(control, request, timeout_ms, keep_reply, &reply);
  return push_reply(L, result, reply);
}

static const luaL_Reg methods[] = {{"run", pager_run},
                                   {"step", pager_step},
                                   {"fd", pager_fd},
                                   {"getfd", pager_fd},
                                   {"pollfd", pager_fd},
                                   {"events", pager_events},
                                   {"timeout", pager_timeout},
                                   {"dirty", pager_dirty},
                                   {"on_signals", pager_on_signals},
                                   {"reload", pager_reload},
                                   {"image", pager_image},
                                   {"drain", pager_drain},
                                   {"status", pager_status},
                                   {"clients", pager_clients},
                                   {"stats", pager_stats},
                                   {"metrics", pager_metrics},
                                   {"kill", pager_kill},
                                   {"complete", pager_complete},
                                   {"label", pager_label},
                                   {"workers", pager_workers},
                                   {"close", pager_close},
                                   {NULL, NULL}};

static const luaL_Reg meta[] = {
    {"__gc", pager_close}, {"__close", pager_close}, {"__tostring", pager_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"pager_create", create},
                                     {"pager_work", work},
                                     {"pager_keep", keep},
                                     {"pager_ask", ask},
                                     {"pager_hold_signals", hold_signals},
                                     {"client_path", client_path},
                                     {"pager_configure", pager_configure},
                                     {NULL, NULL}};

void uffd_lua_open_pager(lua_State *L) {
  uffd_lua_class(L, PAGER_TYPE, NULL, meta, methods);
  luaL_setfuncs(L, functions, 0);
}
