/* uffd.image and uffd.store: images fill memory, stores take its pages. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "uffd_image.h"
#include "util.h"

struct image {
  uffd_image *image; /* NULL: closed */
  uint64_t process;
};

struct store {
  uffd_store *store; /* NULL: closed */
  uint64_t process;
};

static uffd_image *check_image(lua_State *L, int arg) {
  const struct image *handle = luaL_checkudata(L, arg, IMAGE_TYPE);
  uffd_lua_check_handle(L, IMAGE_TYPE, handle->image != NULL, handle->process);
  return handle->image;
}

static uffd_store *check_store(lua_State *L, int arg) {
  const struct store *handle = luaL_checkudata(L, arg, STORE_TYPE);
  uffd_lua_check_handle(L, STORE_TYPE, handle->store != NULL, handle->process);
  return handle->store;
}

static const char *const kinds[] = {"zero", "data", "below", NULL};
static const char *const formats[] = {"none", "raw", "raw", "zstd", "zstd", NULL};
static const char *const digests[] = {"none", "xxh3", "sha256", NULL};

/*
 * Progress: a Lua function of done and total bytes. An error that it raises is raised again when the work has stopped.
 */

struct progress {
  lua_State *L;
  int function; /* stack index; 0: none */
  bool failed;  /* an error lies on top of the stack */
};

static int tell(void *ctx, uint64_t done, uint64_t total) {
  struct progress *progress = ctx;
  lua_State *L = progress->L;
  lua_pushvalue(L, progress->function);
  lua_pushinteger(L, (lua_Integer)done);
  lua_pushinteger(L, (lua_Integer)total);
  progress->failed = lua_pcall(L, 2, 1, 0) != LUA_OK;
  if (progress->failed) return 1;
  bool stop = lua_isboolean(L, -1) && !lua_toboolean(L, -1);
  lua_pop(L, 1);
  return stop;
}

/* Gives the argument, nil or a function, to the C library. */
static void take_progress(lua_State *L, int arg, struct progress *progress, uffd_progress_fn **fn, void **ctx) {
  *progress = (struct progress){L, 0, false};
  if (lua_isnoneornil(L, arg)) return;
  luaL_checktype(L, arg, LUA_TFUNCTION);
  progress->function = arg;
  *fn = tell;
  *ctx = progress;
}

/* Opening, closing */

/* A table of paths, the lowest first. */
static const char **check_paths(lua_State *L, int arg, size_t *count) {
  luaL_checktype(L, arg, LUA_TTABLE);
  lua_Integer length = luaL_len(L, arg);
  luaL_argcheck(L, length >= 1, arg, "no layers: give the path of at least one");
  luaL_argcheck(L, length <= 4096, arg, "too many layers");
  const char **paths = lua_newuserdatauv(L, (size_t)length * sizeof(*paths), 0);
  for (lua_Integer i = 1; i <= length; i++) {
    if (lua_geti(L, arg, i) != LUA_TSTRING) luaL_error(L, "layer %I is a %s, not a path", i, luaL_typename(L, -1));
    paths[i - 1] = lua_tostring(L, -1); /* the table keeps it */
    lua_pop(L, 1);
  }
  *count = (size_t)length;
  return paths;
}

/* A string of the options at arg, which keeps it; NULL: nil. */
static const char *option_text(lua_State *L, int arg, const char *name) {
  lua_getfield(L, arg, name);
  const char *text = luaL_optstring(L, -1, NULL);
  lua_pop(L, 1);
  return text;
}

static uint64_t option_number(lua_State *L, int arg, const char *name) {
  lua_getfield(L, arg, name);
  uint64_t number = uffd_lua_opt_unsigned(L, lua_gettop(L), 0);
  lua_pop(L, 1);
  return number;
}

static lua_Integer option_integer(lua_State *L, int arg, const char *name) {
  lua_getfield(L, arg, name);
  lua_Integer number = luaL_optinteger(L, -1, 0);
  lua_pop(L, 1);
  return number < INT32_MIN || number > INT32_MAX ? INT32_MAX : number;
}

static void take_options(lua_State *L, int arg, struct uffd_image_opts *opts) {
  if (lua_isnoneornil(L, arg)) return;
  luaL_checktype(L, arg, LUA_TTABLE);
  uint64_t patience = option_number(L, arg, "patience_ms");
  luaL_argcheck(L, patience <= UINT32_MAX, arg, "patience_ms is too long");
  opts->frame_limit = option_number(L, arg, "frame_limit");
  opts->cache_limit = option_number(L, arg, "cache_limit");
  opts->patience_ms = (uint32_t)patience;
  opts->decoders = (int32_t)option_integer(L, arg, "decoders");
  opts->cache = option_text(L, arg, "cache");
  opts->credentials = option_text(L, arg, "credentials");
  opts->ca_file = option_text(L, arg, "ca_file");
  lua_getfield(L, arg, "unversioned");
  opts->flags = lua_toboolean(L, -1) ? UFFD_IMAGE_UNVERSIONED : 0;
  lua_pop(L, 1);
}

/* image_open(paths, options): the image, whose user value is its resolver. */
static int image_open(lua_State *L) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  size_t count;
  take_options(L, 2, &opts);
  const char **paths = check_paths(L, 1, &count);
  struct image *handle = lua_newuserdatauv(L, sizeof(*handle), 1);
  *handle = (struct image){NULL, uffd_lua_process()};
  luaL_setmetatable(L, IMAGE_TYPE);
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_image_open(paths, count, &opts, &handle->image);
  if (result == 0) result = uffd_image_resolver(handle->image, slot);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_setiuservalue(L, -2, 1);
  return 1;
}

static void close_image(lua_State *L) {
  struct image *handle = luaL_checkudata(L, 1, IMAGE_TYPE);
  uffd_image_close(handle->image);
  handle->image = NULL;
  lua_pushnil(L); /* the resolver's handle; those who use the resolver keep it */
  lua_setiuservalue(L, 1, 1);
}

static int image_close(lua_State *L) {
  close_image(L);
  lua_pushboolean(L, 1);
  return 1;
}

static int image_gc(lua_State *L) {
  close_image(L);
  return 0;
}

/* What it is */

static void set_string(lua_State *L, const char *name, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

static void set_bytes(lua_State *L, const uint64_t bytes[UFFD_IMAGE_KINDS]) {
  for (unsigned i = 0; i < UFFD_IMAGE_KINDS; i++) {
    uffd_lua_set_integer(L, kinds[i], bytes[i]);
  }
}

/* As hexadecimal digits; nothing for zeros. */
static void set_id(lua_State *L, const char *name, const unsigned char *id, size_t length) {
  char text[65];
  bool some = false;
  for (size_t i = 0; i < length; i++) {
    text[2 * i] = "0123456789abcdef"[id[i] >> 4];
    text[2 * i + 1] = "0123456789abcdef"[id[i] & 15];
    some = some || id[i] != 0;
  }
  if (!some) return;
  lua_pushlstring(L, text, 2 * length);
  lua_setfield(L, -2, name);
}

static struct uffd_image_info info_of(const uffd_image *image) {
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  uffd_image_info(image, &info);
  return info;
}

static int image_info(lua_State *L) {
  struct uffd_image_info info = info_of(check_image(L, 1));
  lua_createtable(L, 0, 6);
  uffd_lua_set_integer(L, "length", info.length);
  uffd_lua_set_integer(L, "page_size", info.page_size);
  uffd_lua_set_integer(L, "layers", info.layers);
  uffd_lua_set_integer(L, "pieces", info.pieces);
  set_bytes(L, info.bytes);
  return 1;
}

/* The layer's number as the C library counts, from the argument: 1 is the lowest. */
static uint32_t check_number(lua_State *L, int arg) {
  lua_Integer number = luaL_checkinteger(L, arg);
  luaL_argcheck(L, number >= 1 && number <= INT_MAX, arg, "layers count from 1, the lowest");
  return (uint32_t)number - 1;
}

static int image_layer(lua_State *L) {
  const uffd_image *image = check_image(L, 1);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  int result = uffd_image_layer(image, check_number(L, 2), &layer);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_createtable(L, 0, 20);
  set_string(L, "path", layer.path);
  set_string(L, "format", formats[layer.format]);
  lua_pushboolean(L, layer.format == UFFD_IMAGE_SIDECAR || layer.format == UFFD_IMAGE_INDEXED);
  lua_setfield(L, -2, "indexed");
  set_string(L, "digest", digests[layer.digest]);
  uffd_lua_set_integer(L, "length", layer.length);
  uffd_lua_set_integer(L, "page_size", layer.page_size);
  set_bytes(L, layer.bytes);
  uffd_lua_set_integer(L, "file_bytes", layer.file_bytes);
  uffd_lua_set_integer(L, "stream_bytes", layer.stream_bytes);
  uffd_lua_set_integer(L, "frames", layer.frames);
  uffd_lua_set_integer(L, "frame_bytes", layer.frame_bytes);
  lua_pushboolean(L, (int)layer.checksums);
  lua_setfield(L, -2, "checksums");
  uffd_lua_set_integer(L, "generation", layer.generation);
  uffd_lua_set_integer(L, "time_ns", layer.time_ns);
  set_string(L, "parent", layer.parent);
  set_string(L, "attributes", layer.attributes);
  set_id(L, "id", layer.id, sizeof(layer.id));
  set_id(L, "parent_id", layer.parent_id, sizeof(layer.parent_id));
  set_id(L, "uuid", layer.uuid, sizeof(layer.uuid));
  if (layer.version != NULL) {
    set_string(L, "version", layer.version);
    uffd_lua_set_integer(L, "units", layer.units);
    uffd_lua_set_integer(L, "units_there", layer.units_there);
    uffd_lua_set_integer(L, "requests", layer.requests);
    uffd_lua_set_integer(L, "retries", layer.retries);
    uffd_lua_set_integer(L, "fetched_bytes", layer.fetched_bytes);
    uffd_lua_set_integer(L, "latency_ns", layer.latency_ns);
  }
  return 1;
}

/* for offset, length, kind, layer, stream_offset in image:map(number) */
static int next_piece(lua_State *L) {
  struct uffd_image_piece piece;
  uffd_image *image = check_image(L, lua_upvalueindex(1));
  int layer = (int)lua_tointeger(L, lua_upvalueindex(2));
  int result = uffd_image_map(image, layer, (uint64_t)lua_tointeger(L, lua_upvalueindex(3)), &piece);
  if (result < 0) return uffd_lua_fail(L, result);
  if (result == 0) return 0;
  lua_pushinteger(L, (lua_Integer)piece.offset + (lua_Integer)piece.length);
  lua_replace(L, lua_upvalueindex(3));
  lua_pushinteger(L, (lua_Integer)piece.offset);
  lua_pushinteger(L, (lua_Integer)piece.length);
  lua_pushstring(L, kinds[piece.kind]);
  lua_pushinteger(L, (lua_Integer)piece.layer + 1);
  lua_pushinteger(L, (lua_Integer)piece.stream_offset);
  return 5;
}

static int image_map(lua_State *L) {
  const uffd_image *image = check_image(L, 1);
  int layer = lua_isnoneornil(L, 2) ? -1 : (int)check_number(L, 2);
  luaL_argcheck(L, layer < (int)info_of(image).layers, 2, "there is no such layer");
  lua_pushvalue(L, 1);
  lua_pushinteger(L, layer);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, next_piece, 3);
  return 1;
}

static int image_read(lua_State *L) {
  uffd_image *image = check_image(L, 1);
  uint64_t offset = uffd_lua_unsigned(L, 2), length = uffd_lua_unsigned(L, 3);
  uffd_lua_check_range(L, 2, offset, length, info_of(image).length, "image");
  luaL_Buffer buffer;
  char *bytes = luaL_buffinitsize(L, &buffer, length);
  int result = uffd_image_read(image, offset, bytes, length);
  luaL_pushresultsize(&buffer, result < 0 ? 0 : length);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* What is done with it */

static int finish_work(lua_State *L, const struct progress *progress, int result) {
  if (progress->failed) return lua_error(L);
  return result < 0 ? uffd_lua_fail(L, result) : 0;
}

/* image:copy(store, from_layer, progress) */
static int image_copy(lua_State *L) {
  struct uffd_image_copy_opts opts = UFFD_IMAGE_COPY_OPTS_INIT;
  struct progress progress;
  uffd_image *image = check_image(L, 1);
  uffd_store *store = check_store(L, 2);
  opts.from_layer = lua_isnoneornil(L, 3) ? 0 : check_number(L, 3);
  take_progress(L, 4, &progress, &opts.progress, &opts.progress_ctx);
  int results = finish_work(L, &progress, uffd_image_copy(image, store, &opts));
  if (results > 0) return results;
  lua_pushboolean(L, 1);
  return 1;
}

/* Adds {offset, length, sentence} to the table at index 4. */
static void note_problem(void *ctx, uint64_t offset, uint64_t length, const char *sentence) {
  lua_State *L = ctx;
  lua_createtable(L, 0, 3);
  uffd_lua_set_integer(L, "offset", offset);
  uffd_lua_set_integer(L, "length", length);
  set_string(L, "message", sentence);
  lua_seti(L, 4, luaL_len(L, 4) + 1);
}

/* image:verify(sample, progress): a table of what is wrong */
static int image_verify(lua_State *L) {
  struct uffd_image_verify_opts opts = UFFD_IMAGE_VERIFY_OPTS_INIT;
  struct progress progress;
  uffd_image *image = check_image(L, 1);
  opts.sample = uffd_lua_opt_unsigned(L, 2, 0);
  lua_settop(L, 3);
  lua_newtable(L);
  take_progress(L, 3, &progress, &opts.progress, &opts.progress_ctx);
  opts.problem = note_problem;
  opts.problem_ctx = L;
  int results = finish_work(L, &progress, uffd_image_verify(image, &opts));
  if (results > 0) return results;
  lua_settop(L, 4);
  return 1;
}

/* The cache */

static int add_cached(void *ctx, const struct uffd_image_cached *cached) {
  lua_State *L = ctx;
  if (!lua_checkstack(L, 4)) return 1;
  lua_createtable(L, 0, 12);
  set_string(L, "file", cached->file);
  set_string(L, "source", cached->source);
  set_string(L, "version", cached->version);
  uffd_lua_set_integer(L, "stream_bytes", cached->stream_bytes);
  uffd_lua_set_integer(L, "file_bytes", cached->file_bytes);
  uffd_lua_set_integer(L, "units", cached->units);
  uffd_lua_set_integer(L, "units_there", cached->units_there);
  uffd_lua_set_integer(L, "units_wrong", cached->units_wrong);
  uffd_lua_set_integer(L, "used_ns", cached->used_ns);
  lua_pushboolean(L, (cached->flags & UFFD_IMAGE_CACHED_USED) != 0);
  lua_setfield(L, -2, "used");
  lua_pushboolean(L, (cached->flags & UFFD_IMAGE_CACHED_DOUBTED) != 0);
  lua_setfield(L, -2, "doubted");
  lua_pushboolean(L, (cached->flags & UFFD_IMAGE_CACHED_BROKEN) != 0);
  lua_setfield(L, -2, "broken");
  lua_seti(L, -2, luaL_len(L, -2) + 1);
  return 0;
}

/* image_cache_list(directory) */
static int image_cache_list(lua_State *L) {
  const char *directory = luaL_optstring(L, 1, NULL);
  lua_newtable(L);
  int result = uffd_image_cache_list(directory, add_cached, L);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* image_cache_verify(directory) */
static int image_cache_verify(lua_State *L) {
  const char *directory = luaL_optstring(L, 1, NULL);
  lua_newtable(L);
  int result = uffd_image_cache_verify(directory, add_cached, L);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* image_cache_gc(directory, limit) */
static int image_cache_gc(lua_State *L) {
  struct uffd_image_cache_gc done = UFFD_IMAGE_CACHE_GC_INIT;
  int result = uffd_image_cache_gc(luaL_optstring(L, 1, NULL), uffd_lua_opt_unsigned(L, 2, 0), &done);
  if (result < 0) return uffd_lua_fail(L, result);
  lua_createtable(L, 0, 4);
  uffd_lua_set_integer(L, "files", done.files);
  uffd_lua_set_integer(L, "bytes", done.bytes);
  uffd_lua_set_integer(L, "removed_files", done.removed_files);
  uffd_lua_set_integer(L, "removed_bytes", done.removed_bytes);
  return 1;
}

/* image_index(path, digest, progress) */
static int image_index(lua_State *L) {
  struct uffd_image_index_opts opts = UFFD_IMAGE_INDEX_OPTS_INIT;
  struct progress progress;
  const char *path = luaL_checkstring(L, 1);
  opts.digest = uffd_lua_choice(L, 2, UFFD_DIGEST_NONE, digests, "digest");
  take_progress(L, 3, &progress, &opts.progress, &opts.progress_ctx);
  int results = finish_work(L, &progress, uffd_image_index(path, &opts));
  if (results > 0) return results;
  lua_pushboolean(L, 1);
  return 1;
}

/* Adds a region to the table at index 4. */
static void note_region(void *ctx, const struct uffd_import_region *region) {
  lua_State *L = ctx;
  lua_createtable(L, 0, 4);
  uffd_lua_set_integer(L, "address", region->address);
  uffd_lua_set_integer(L, "length", region->length);
  uffd_lua_set_integer(L, "offset", region->offset);
  uffd_lua_set_integer(L, "pid", (uint64_t)region->pid);
  lua_seti(L, 4, luaL_len(L, 4) + 1);
}

/* The field of the table at index 3. */
static int get_option(lua_State *L, const char *name) {
  lua_getfield(L, 3, name);
  return lua_gettop(L);
}

static int import_as(lua_State *L, const struct uffd_import_opts *opts, struct uffd_import_counts *counts) {
  static const char *const programs[] = {"firecracker", "criu", "e2b", NULL};
  const char *from = luaL_checkstring(L, 1), *path = luaL_checkstring(L, 2);
  uint32_t program = uffd_lua_choice(L, get_option(L, "format"), 0, programs, "format");
  int parent = get_option(L, "parent"), storage = get_option(L, "storage");
  if (program == 1) return uffd_import_criu(from, path, opts, counts);
  if (program == 2) return uffd_import_e2b(from, lua_tostring(L, storage), path, opts, counts);
  return uffd_import_diff(from, lua_isnil(L, parent) ? NULL : check_image(L, parent), path, opts, counts);
}

/* image_import(from, path, options): a table of counts, with the regions in "regions" */
static int image_import(lua_State *L) {
  struct uffd_import_opts opts = UFFD_IMPORT_OPTS_INIT;
  struct uffd_import_counts counts = {0, 0, 0};
  struct progress progress;
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  lua_newtable(L);
  opts.frame_bytes = uffd_lua_opt_unsigned(L, get_option(L, "frame"), 0);
  lua_Integer level = luaL_optinteger(L, get_option(L, "level"), 0);
  if (level < -100 || level > 22) luaL_error(L, "level: zstd has levels from -100 to 22");
  opts.level = (int32_t)level;
  opts.digest = uffd_lua_choice(L, get_option(L, "digest"), UFFD_DIGEST_NONE, digests, "digest");
  take_progress(L, get_option(L, "progress"), &progress, &opts.progress, &opts.progress_ctx);
  opts.region = note_region;
  opts.region_ctx = L;
  int results = finish_work(L, &progress, import_as(L, &opts, &counts));
  if (results > 0) return results;
  lua_createtable(L, 0, 4);
  uffd_lua_set_integer(L, "data", counts.data_bytes);
  uffd_lua_set_integer(L, "zero", counts.zero_bytes);
  uffd_lua_set_integer(L, "below", counts.below_bytes);
  lua_pushvalue(L, 4);
  lua_setfield(L, -2, "regions");
  return 1;
}

static int image_field(lua_State *L) {
  if (uffd_lua_method(L)) return 1;
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(name, "size") == 0) {
    lua_pushinteger(L, (lua_Integer)info_of(check_image(L, 1)).length);
  } else if (strcmp(name, "kind") == 0) {
    lua_pushliteral(L, "image");
  } else if (strcmp(name, "resolver") == 0) {
    check_image(L, 1);
    lua_getiuservalue(L, 1, 1);
  } else {
    lua_pushnil(L);
  }
  return 1;
}

static int image_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)info_of(check_image(L, 1)).length);
  return 1;
}

static int image_tostring(lua_State *L) {
  const struct image *handle = luaL_checkudata(L, 1, IMAGE_TYPE);
  if (handle->image == NULL) return uffd_lua_push_closed(L, IMAGE_TYPE);
  struct uffd_image_info info = info_of(handle->image);
  lua_pushfstring(L, "%s (%I bytes, %d layer%s)", IMAGE_TYPE, (lua_Integer)info.length, (int)info.layers,
                  info.layers == 1 ? "" : "s");
  return 1;
}

/* Stores */

static struct store *new_store(lua_State *L) {
  struct store *handle = lua_newuserdatauv(L, sizeof(*handle), 0);
  *handle = (struct store){NULL, uffd_lua_process()};
  luaL_setmetatable(L, STORE_TYPE);
  return handle;
}

static int store_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  uint64_t length = uffd_lua_unsigned(L, 2);
  struct store *handle = new_store(L);
  int result = uffd_store_file(path, length, &handle->store);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* The field of the table at index 2. */
static uint64_t option(lua_State *L, const char *name) {
  lua_getfield(L, 2, name);
  int exact = 1;
  lua_Integer value = lua_isnil(L, -1) ? 0 : lua_tointegerx(L, -1, &exact);
  if (!exact || value < 0) luaL_error(L, "%s is an integer from 0 on", name);
  lua_pop(L, 1);
  return (uint64_t)value;
}

static const char *text_option(lua_State *L, const char *name) {
  int type = lua_getfield(L, 2, name);
  if (type != LUA_TNIL && type != LUA_TSTRING) luaL_error(L, "%s is text, not a %s", name, lua_typename(L, type));
  const char *text = lua_tostring(L, -1); /* the table keeps it */
  lua_pop(L, 1);
  return text;
}

/* store_layer(path, options) */
static int store_layer(lua_State *L) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  const char *path = luaL_checkstring(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  opts.length = option(L, "length");
  opts.page_size = option(L, "page_size");
  opts.frame_bytes = option(L, "frame");
  opts.parent = text_option(L, "parent");
  opts.attributes = text_option(L, "attributes");
  lua_getfield(L, 2, "level");
  lua_Integer level = luaL_optinteger(L, -1, 0);
  if (level < -100 || level > 22) luaL_error(L, "level: zstd has levels from -100 to 22");
  opts.level = (int32_t)level;
  lua_getfield(L, 2, "digest");
  opts.digest = uffd_lua_choice(L, lua_gettop(L), UFFD_DIGEST_NONE, digests, "digest");
  lua_getfield(L, 2, "compare");
  opts.flags = lua_toboolean(L, -1) ? UFFD_STORE_COMPARE : 0;
  lua_getfield(L, 2, "plain");
  opts.flags |= lua_toboolean(L, -1) ? UFFD_STORE_PLAIN : 0;
  if (lua_getfield(L, 2, "below") != LUA_TNIL) opts.below = check_image(L, lua_gettop(L));
  struct store *handle = new_store(L);
  int result = uffd_store_layer(path, &opts, &handle->store);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* store_writable(path, options) */
static int store_writable(lua_State *L) {
  struct uffd_store_writable_opts opts = UFFD_STORE_WRITABLE_OPTS_INIT;
  const char *path = luaL_checkstring(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  opts.length = option(L, "length");
  opts.page_size = option(L, "page_size");
  if (lua_getfield(L, 2, "below") != LUA_TNIL) opts.below = check_image(L, lua_gettop(L));
  struct store *handle = new_store(L);
  int result = uffd_store_writable(path, &opts, &handle->store);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int store_resolver(lua_State *L) {
  uffd_store *store = check_store(L, 1);
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_store_resolver(store, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int store_seal(lua_State *L) {
  return uffd_lua_done(L, uffd_store_seal(check_store(L, 1), check_store(L, 2)));
}

/* store:put(offset, data), store:zero(offset, length), store:below(offset, length) */
static int store_put(lua_State *L) {
  uffd_store *store = check_store(L, 1);
  uint64_t offset = uffd_lua_unsigned(L, 2);
  size_t length;
  const char *data = luaL_checklstring(L, 3, &length);
  return uffd_lua_done(L, uffd_store_put(store, offset, UFFD_STORE_DATA, data, length));
}

static int store_zero(lua_State *L) {
  uffd_store *store = check_store(L, 1);
  uint64_t offset = uffd_lua_unsigned(L, 2);
  return uffd_lua_done(L, uffd_store_put(store, offset, UFFD_STORE_ZERO, NULL, uffd_lua_unsigned(L, 3)));
}

static int store_below(lua_State *L) {
  uffd_store *store = check_store(L, 1);
  uint64_t offset = uffd_lua_unsigned(L, 2);
  return uffd_lua_done(L, uffd_store_put(store, offset, UFFD_STORE_BELOW, NULL, uffd_lua_unsigned(L, 3)));
}

static int store_flush(lua_State *L) {
  return uffd_lua_done(L, uffd_store_flush(check_store(L, 1)));
}

static int store_finish(lua_State *L) {
  return uffd_lua_done(L, uffd_store_finish(check_store(L, 1)));
}

static void close_store(lua_State *L) {
  struct store *handle = luaL_checkudata(L, 1, STORE_TYPE);
  uffd_store_close(handle->store);
  handle->store = NULL;
}

static int store_close(lua_State *L) {
  close_store(L);
  lua_pushboolean(L, 1);
  return 1;
}

static int store_gc(lua_State *L) {
  close_store(L);
  return 0;
}

static int store_tostring(lua_State *L) {
  const struct store *handle = luaL_checkudata(L, 1, STORE_TYPE);
  if (handle->store == NULL) return uffd_lua_push_closed(L, STORE_TYPE);
  lua_pushfstring(L, "%s (%s)", STORE_TYPE, uffd_store_kind(handle->store));
  return 1;
}

static const luaL_Reg image_methods[] = {
    {"info", image_info}, {"layer", image_layer},   {"map", image_map},     {"read", image_read},
    {"copy", image_copy}, {"verify", image_verify}, {"close", image_close}, {NULL, NULL}};

static const luaL_Reg image_meta[] = {
    {"__gc", image_gc}, {"__close", image_gc}, {"__len", image_len}, {"__tostring", image_tostring}, {NULL, NULL}};

static const luaL_Reg store_methods[] = {{"put", store_put},           {"zero", store_zero},   {"below", store_below},
                                         {"resolver", store_resolver}, {"seal", store_seal},   {"flush", store_flush},
                                         {"finish", store_finish},     {"close", store_close}, {NULL, NULL}};

static const luaL_Reg store_meta[] = {
    {"__gc", store_gc}, {"__close", store_gc}, {"__tostring", store_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"image_open", image_open},
                                     {"image_index", image_index},
                                     {"image_import", image_import},
                                     {"image_cache_list", image_cache_list},
                                     {"image_cache_verify", image_cache_verify},
                                     {"image_cache_gc", image_cache_gc},
                                     {"store_file", store_file},
                                     {"store_layer", store_layer},
                                     {"store_writable", store_writable},
                                     {NULL, NULL}};

void uffd_lua_open_image(lua_State *L) {
  uffd_lua_class(L, IMAGE_TYPE, image_field, image_meta, image_methods);
  uffd_lua_class(L, STORE_TYPE, NULL, store_meta, store_methods);
  luaL_setfuncs(L, functions, 0);
}
