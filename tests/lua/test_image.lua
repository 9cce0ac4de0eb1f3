-- Images and stores from Lua: written, read, served; what goes wrong says so.
local lu = require "luaunit"
local core = require "uffd.core"
local support = require "support"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local tests = {}

if not core.image_open then
  function tests.test_without_images()
    fails("ENOSYS", "UFFD_BUILD_IMAGE", uffd.image { "x" })
    fails("ENOSYS", "UFFD_BUILD_IMAGE", uffd.store.layer { path = "x", length = page })
  end
  return tests
end

local directory

function tests:setUp() -- luacheck: ignore 212
  directory = io.popen "mktemp -d":read "l"
end

function tests:tearDown() -- luacheck: ignore 212
  os.execute("rm -rf " .. directory)
end

local function path(name) return directory .. "/" .. name end

local function write(name, text)
  local file <close> = assert(io.open(path(name), "wb"))
  file:write(text)
  return path(name)
end

local function pages(...)
  local list = {}
  for i, byte in ipairs { ... } do list[i] = string.char(byte):rep(page) end
  return table.concat(list)
end

local function make(name, options, text)
  options.path = path(name)
  local store <close> = assert(uffd.store.layer(options))
  if text then assert(store:put(0, text)) end
  assert(store:finish())
  return path(name)
end

function tests.test_writable()
  local base = assert(uffd.image(make("base", { length = 4 * page }, pages(1, 0, 3, 4))))
  local store = assert(uffd.store.writable { path = path "swap", below = base })
  lu.assertEquals(tostring(store), "uffd.store (writable)")
  fails("EBUSY", "one writer", uffd.store.writable { path = path "swap", below = base })
  local resolver = assert(store:resolver())
  lu.assertEquals(resolver.kind, "writable")
  assert(store:put(page, pages(7)))
  assert(store:zero(2 * page, page))
  assert(store:flush())
  local memory <close> = assert(uffd.map { size = 4 * page })
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = resolver } })
  lu.assertEquals(memory:read(), pages(1, 7, 0, 4))
  local layer <close> = assert(uffd.store.layer { path = path "top", below = base })
  assert(store:seal(layer))
  assert(layer:finish())
  lu.assertEquals(assert(uffd.image { path "base", path "top" }):read(0, 4 * page), pages(1, 7, 0, 4))
  fails("EINVAL", "a writable one is", layer:resolver())
  fails("EINVAL", "a writable one is", layer:seal(store))
  store:close()
  loop:close()
  raises("it takes", uffd.store.writable, { path = path "swap", compare = true })
end

function tests.test_chain()
  local base = make("base", { length = 4 * page }, pages(1, 0, 3, 4))
  local store = assert(uffd.store.layer { path = path "top", below = assert(uffd.image(base)) })
  lu.assertEquals(tostring(store), "uffd.store (layer)")
  assert(store:put(page, pages(7)))
  assert(store:zero(2 * page, page))
  assert(store:below(3 * page, page))
  assert(store:flush())
  assert(store:finish())
  fails("EINVAL", "finished", store:put(0, pages(1)))
  store:close()
  raises("closed", store.put, store, 0, "x")
  local image <close> = assert(uffd.image { base, path "top" })
  lu.assertEquals({ image.size, #image, image.kind, tostring(image) },
    { 4 * page, 4 * page, "image", ("uffd.image (%d bytes, 2 layers)"):format(4 * page) })
  lu.assertEquals(image:read(0, 4 * page), pages(1, 7, 0, 4))
  lu.assertEquals(image:read(page - 1, 2), "\1\7")
  lu.assertEquals(image:verify(), {})
  local found = {}
  for offset, length, kind, layer in image:map() do
    found[#found + 1] = { offset // page, length // page, kind, layer }
  end
  lu.assertEquals(found, { { 0, 1, "data", 1 }, { 1, 1, "data", 2 }, { 2, 1, "zero", 2 }, { 3, 1, "data", 1 } })
  found = {}
  for _, _, kind in image:map(2) do found[#found + 1] = kind end
  lu.assertEquals(found, { "below", "data", "zero", "below" })
  local info, layer = image:info(), image:layer(2)
  lu.assertEquals({ info.layers, info.data, info.zero, info.pieces }, { 2, 3 * page, page, 4 })
  lu.assertEquals({ layer.path, layer.format, layer.indexed, layer.digest, layer.parent, layer.generation },
    { path "top", "zstd", true, "xxh3", "base", 1 })
  lu.assertEquals(layer.parent_id, image:layer(1).id)
  fails("ERANGE", "no layer", image:layer(3))
  raises("no such layer", image.map, image, 3)
  raises("image", image.read, image, 4 * page, 1)
end

function tests.test_served()
  local name = make("image", { length = 4 * page }, pages(5, 6, 0, 8))
  local image = assert(uffd.image(name))
  local memory, loop = support.serve(image, 4)
  image:close() -- the loop keeps it
  raises("closed", image.read, image, 0, 1)
  lu.assertEquals(tostring(image), "uffd.image (closed)")
  lu.assertEquals(memory:read(), pages(5, 6, 0, 8))
  support.counts(loop, { policy_calls = 0 })
  loop:close()
end

-- An image is a resolver wherever one is taken: in layers, and in policies.
function tests.test_as_a_resolver()
  local image = assert(uffd.image(make("image", { length = 2 * page }, pages(5, 6))))
  local layers = assert(uffd.resolver.layers { { page, image, length = page, from = page } })
  local memory, loop = support.serve(layers, 2)
  lu.assertEquals(memory:read(), pages(0, 6))
  loop:close()
  memory, loop = support.serve(image.resolver, 2)
  lu.assertEquals(memory:read(), pages(5, 6))
  loop:close()
  image:close()
  raises("closed", uffd.resolver.layers, { { 0, image } })
end

function tests.test_copy_and_index()
  local image = assert(uffd.image(write("raw", pages(1, 0, 3) .. "tail")))
  fails("EINVAL", "image index", uffd.store.layer { path = path "x", below = image })
  local seen = {}
  local store = assert(uffd.store.file { path = path "copy", length = image.size })
  assert(image:copy(store, nil, function(done, total) seen[#seen + 1] = { done, total } end))
  assert(store:finish())
  lu.assertEquals(seen[#seen], { image.size, image.size })
  local copy <close> = assert(uffd.image(path "copy"))
  lu.assertEquals(copy:read(0, #copy), image:read(0, #image))
  store = assert(uffd.store.file { path = path "copy", length = image.size })
  fails("ECANCELED", "Given up", image:copy(store, nil, function() return false end))
  raises("on purpose", image.copy, image, store, nil, function() error "on purpose" end)
  store:close()
  assert(uffd.image.index(path "raw", { digest = "sha256" }))
  local again <close> = assert(uffd.image(path "raw"))
  lu.assertEquals(again:layer(1).digest, "sha256")
  lu.assertEquals(again:verify(1), {})
end

function tests.test_damage()
  local name = make("image", { length = 64 * page, frame = page }, ("abc"):rep(64 * page):sub(1, 64 * page))
  local file <close> = assert(io.open(name, "r+b"))
  file:seek("set", 10)
  file:write "xx"
  file:flush()
  local image <close> = assert(uffd.image(name))
  fails("EIO", "frame 0", image:read(0, 1))
  local problems = image:verify()
  lu.assertEquals({ #problems, problems[1].offset, problems[1].length }, { 1, 0, 65536 })
  lu.assertStrContains(problems[1].message, "frame 0")
end

function tests.test_misuse()
  raises("no layers", uffd.image, {})
  raises("not a path", uffd.image, { 1.5 and true })
  raises("frame_limit", uffd.image, { "x", limit = 1 })
  fails("ENOENT", "nowhere", uffd.image { path "nowhere" })
  fails("EINVAL", "9 threads that decode ahead", uffd.image { path "nowhere", decoders = 9 })
  fails("EINVAL", "length is 0", uffd.store.layer { path = path "x" })
  raises("unknown option", uffd.store.layer, { path = "x", size = 1 })
  raises("level", uffd.store.layer, { path = "x", length = page, level = 99 })
  raises("digest", uffd.store.layer, { path = "x", length = page, digest = "md5" })
end

return tests
