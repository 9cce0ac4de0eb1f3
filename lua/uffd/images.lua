-- Images and stores, the part of the module that is about files: options as tables, sizes as a person types them. What
-- it calls is uffd.core; the methods of the handles are documented in core.d.lua.
local core = require "uffd.core"

local tools = {} -- of init.lua: call, check_options, bytes

local function need(what, f)
  if f then return f end
  local message = what .. ": uffd was built without images (-DUFFD_BUILD_IMAGE=OFF)"
  return function() return nil, message, core.errno.ENOSYS end
end

---What memory is filled from: a stack of layers. `uffd.image { ... }` is `uffd.image.open { ... }`.
---@class uffd.image
---@overload fun(layers: uffd.ImageLayers): uffd.Image?, string?, integer?
local image = {}

---A list of paths and URIs (http, https, s3, nbd), the lowest first; or one of them. All but frame_limit and decoders
---is about files that lie elsewhere.
---@class uffd.ImageLayers
---@field [integer] string
---@field frame_limit? integer|string bytes: a file with a longer zstd frame is refused (default 16M)
---@field cache? string directory for what is fetched (default: as uffd.image.cache says); "": it is not kept
---@field cache_limit? integer|string bytes of that directory (default 20G)
---@field credentials? string a file of user=, password=, token=, region=, certificate=, key=; or UFFD_CREDENTIALS
---@field ca_file? string PEM: whom to trust instead of the system's authorities (default: UFFD_CA_FILE)
---@field patience_ms? integer how long a page waits for a server that may come back (default 60000)
---@field unversioned? boolean a server that does not say when a file changes is believed
---@field decoders? integer threads that decode ahead of a prefetch (default: one less than processors); -1: none

local open_options = {
  frame_limit = true, cache = true, cache_limit = true, credentials = true, ca_file = true, patience_ms = true,
  unversioned = true, decoders = true,
}

---Opens layers: raw files, zstd files of many frames, and increments; each is told by its contents. An increment that
---stands first names its parent, which is looked for in its directory. The image is a resolver too.
---
---Errors: those of opening; EINVAL a file is damaged, or is not the parent of the one above it: the message says which
---and where; ELOOP more than 64 layers; EFBIG; ENOMEM; ENOSYS built without images.
---@param layers uffd.ImageLayers|string
---@return uffd.Image? image
---@return string? message
---@return integer? errno
function image.open(layers)
  local what = "uffd.image"
  if type(layers) == "string" then layers = { layers } end
  tools.check_options(what, layers, open_options, math.huge)
  local options = {}
  for name in pairs(open_options) do options[name] = layers[name] end
  for _, name in ipairs { "frame_limit", "cache_limit" } do
    options[name] = tools.bytes(what .. ": " .. name, layers[name])
  end
  return tools.call(what, need(what, core.image_open), layers, options)
end

---The cache of what is fetched from elsewhere, which all processes of a user share: UFFD_CACHE of the environment, or
---$XDG_CACHE_HOME/uffd, or ~/.cache/uffd.
---@class uffd.image.cache
local cache = {}
image.cache = cache

---A file of the cache.
---@class uffd.Cached
---@field file string its name in the directory
---@field source string the URI, without secrets
---@field version string what the server calls its state
---@field stream_bytes integer of the image
---@field file_bytes integer that it takes on the disk
---@field units integer chunks of the image
---@field units_there integer
---@field units_wrong integer that were not what their digest says: they are fetched again (`verify`)
---@field used_ns integer last time of use, ns since 1970
---@field used boolean a process has it open
---@field doubted boolean of before the machine's last start: each chunk is compared before it is used
---@field broken boolean no whole file of this version and user

---The longest unused first. Errors: those of reading directories; EINVAL no cache is used; ENOSYS.
---@param directory? string
---@return uffd.Cached[]? files
---@return string? message
---@return integer? errno
function cache.list(directory)
  local what = "uffd.image.cache.list"
  return tools.call(what, need(what, core.image_cache_list), directory)
end

---The same, and all chunks are read and compared with their digests.
---@param directory? string
---@return uffd.Cached[]? files
---@return string? message
---@return integer? errno
function cache.verify(directory)
  local what = "uffd.image.cache.verify"
  return tools.call(what, need(what, core.image_cache_verify), directory)
end

---@class uffd.CacheGc
---@field files integer that are left
---@field bytes integer
---@field removed_files integer
---@field removed_bytes integer

---Removes files that nobody has open, the longest unused first, until there are at most `limit` bytes.
---@param directory? string
---@param limit? integer|string bytes (default 0)
---@return uffd.CacheGc? done
---@return string? message
---@return integer? errno
function cache.gc(directory, limit)
  local what = "uffd.image.cache.gc"
  return tools.call(what, need(what, core.image_cache_gc), directory, tools.bytes(what .. ": limit", limit))
end

setmetatable(image, { __call = function(_, layers) return image.open(layers) end })

---@class uffd.IndexOptions
---@field digest? "xxh3"|"sha256" (default "xxh3")
---@field progress? fun(done: integer, total: integer): boolean? false stops it

---Makes `path.uidx`, the sidecar of a raw file: digests, which give it an identity, and where it is zero. It is to be
---made anew when the file was written to: a sidecar that is older than its file is refused (ESTALE).
---Errors: those of reading and writing; EINVAL a zstd file; ECANCELED by progress; ENOSYS.
---@param path string
---@param options? uffd.IndexOptions
---@return boolean? ok
---@return string? message
---@return integer? errno
function image.index(path, options)
  local what = "uffd.image.index"
  options = options or {}
  tools.check_options(what, options, { digest = true, progress = true })
  return tools.call(what, need(what, core.image_index), path, options.digest, options.progress)
end

local import_options = {
  format = true, from = true, path = true, parent = true, storage = true, frame = true, level = true, digest = true,
  progress = true,
}

---@class uffd.ImportOptions
---@field format "firecracker"|"criu"|"e2b"
---@field from string firecracker: the diff; criu: the dump's directory; e2b: DIR/UUID/NAME.header
---@field path string the layer to be made
---@field parent? uffd.Image firecracker: what the diff was made against
---@field storage? string e2b: the directory of the builds (default: DIR)
---@field frame? integer|string bytes of a zstd frame (default 64K)
---@field level? integer of zstd (default 3; -1 is decoded faster, and a twelfth larger)
---@field digest? "xxh3"|"sha256"
---@field progress? fun(done: integer, total: integer): boolean? false stops it

---@class uffd.Imported
---@field data integer bytes
---@field zero integer bytes
---@field below integer bytes that are the parent's
---@field regions { address: integer, length: integer, offset: integer, pid: integer }[] criu: what was where

---Makes a layer of what another program has written: a sparse diff of Firecracker (where it has a hole, the page is
---the parent's: a copy may have lost that), a dump of CRIU, an image of E2B (version 3).
---Errors: those of files; EINVAL what does not add up, with its place; ENOTSUP a dump that cannot be read; ESTALE it
---was changed meanwhile; ECANCELED by progress; ENOSYS.
---@param options uffd.ImportOptions
---@return uffd.Imported? imported
---@return string? message
---@return integer? errno
function image.import(options)
  local what = "uffd.image.import"
  tools.check_options(what, options, import_options)
  local taken = {}
  for name, value in pairs(options) do taken[name] = value end
  taken.frame = tools.bytes(what .. ": frame", options.frame)
  return tools.call(what, need(what, core.image_import), options.from, options.path, taken)
end

---Where pages go: the twin of `uffd.resolver`. What is put appears when the store is finished, whole; a store that is
---closed before leaves nothing behind.
---@class uffd.store
local store = {}

---@class uffd.StoreFileOptions
---@field path string
---@field length integer|string bytes

---A file of bytes, in which zeros are holes. Errors: those of making files; EINVAL a length of 0; EFBIG.
---@param options uffd.StoreFileOptions
---@return uffd.Store? store
---@return string? message
---@return integer? errno
function store.file(options)
  local what = "uffd.store.file"
  tools.check_options(what, options, { path = true, length = true })
  return tools.call(what, need(what, core.store_file), options.path, tools.bytes(what .. ": length", options.length))
end

local layer_options = {
  path = true, length = true, page_size = true, below = true, compare = true, frame = true, level = true,
  digest = true, parent = true, attributes = true, plain = true,
}

---@class uffd.StoreLayerOptions
---@field path string
---@field below? uffd.Image what the layer is an increment on (default: nothing, it is a whole image)
---@field length? integer|string of the image, bytes (default: as below)
---@field page_size? integer|string bytes (default: as below, or 4096)
---@field compare? boolean pages put as data that are as below are kept as the same as below
---@field plain? boolean zeros are in the stream too: `zstd -d` gives the image when it is put once, in order
---@field frame? integer|string bytes of a zstd frame (default 64K)
---@field level? integer of zstd (default 3; -1 is decoded faster, and a twelfth larger)
---@field digest? "xxh3"|"sha256" (default: as below, or "xxh3")
---@field parent? string the parent's name in the index (default: found out)
---@field attributes? string JSON

---A layer: a zstd file with an index. Pages that are never put are the same as below, or zero.
---
---Errors: those of making files; EINVAL an option, or `below` has no index; ELOOP too many layers; EFBIG; ENOMEM.
---@param options uffd.StoreLayerOptions
---@return uffd.Store? store
---@return string? message
---@return integer? errno
function store.layer(options)
  local what = "uffd.store.layer"
  tools.check_options(what, options, layer_options)
  local taken = {}
  for name, value in pairs(options) do taken[name] = value end
  for _, name in ipairs { "length", "page_size", "frame" } do
    taken[name] = tools.bytes(what .. ": " .. name, options[name])
  end
  return tools.call(what, need(what, core.store_layer), options.path, taken)
end

local writable_options = { path = true, length = true, page_size = true, below = true }

---@class uffd.StoreWritableOptions
---@field path string of the data, a sparse file; the page map is `path.umap`
---@field below? uffd.Image what pages hold that were never put (default: zeros)
---@field length? integer|string of the image, bytes (default: as below)
---@field page_size? integer|string bytes (default: as below, or 4096)

---A writable layer: a store whose pages are served while it is written, by `store:resolver()`. It is made, or opened
---with what it holds, and lasts: closing it, failing and being killed drop nothing that was put. `store:seal(other)`
---puts its pages into another store, such as a layer on the same image.
---
---Errors: those of files; EINVAL an option, `below` has no index, or the layer was written on another image, is of
---another length or page size, or damaged; EEXIST path is a file without a page map; EBUSY it is open elsewhere; ENOENT
---its data are gone; ENOMEM.
---@param options uffd.StoreWritableOptions
---@return uffd.Store? store
---@return string? message
---@return integer? errno
function store.writable(options)
  local what = "uffd.store.writable"
  tools.check_options(what, options, writable_options)
  local taken = { below = options.below }
  for _, name in ipairs { "length", "page_size" } do
    taken[name] = tools.bytes(what .. ": " .. name, options[name])
  end
  return tools.call(what, need(what, core.store_writable), options.path, taken)
end

return function(uffd, given)
  for name, tool in pairs(given) do tools[name] = tool end
  uffd.image, uffd.store = image, store
end
