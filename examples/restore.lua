-- The memory of a program is saved to a file, and put back later, in its place. Putting it back reads nothing: a page
-- is read back when it is touched.
-- usage: uffd-lua restore.lua [FILE]
local uffd = require "uffd"

local path, page, pages = arg[1] or os.tmpname(), 4096, 1024
local memory = assert(uffd.map { size = pages * page })
local loop <close> = assert(uffd.serve { { memory = memory, resolver = uffd.resolver.zero(), around = page } })
local region = loop:regions()[1]

-- Nobody else may write to the memory meanwhile.
local function save()
  local store <close> = assert(uffd.store.file { path = path, length = memory.size })
  for offset = 0, memory.size - 1, 64 * page do
    assert(store:put(offset, assert(memory:read(offset, 64 * page))))
  end
  assert(store:finish()) -- the file appears, whole
  -- A page that is missing from now on is what was saved. Those that are there stay as they are.
  assert(region:set_resolver(assert(uffd.resolver.file(path))))
end

local function restore()
  local before = loop:stats().copied
  assert(memory:discard(0, memory.size)) -- all pages are missing
  return function() return loop:stats().copied - before end
end

local function write_all(what)
  for i = 0, pages - 1 do assert(memory:pack("z", i * page, ("%s, page %d"):format(what, i))) end
end

write_all "level 1"
save()
for _, what in ipairs { "level 2", "a mistake" } do
  write_all(what)
  io.write("now: ", (memory:unpack("z", 7 * page)))
  local count = restore()
  print("; restored: " .. (memory:unpack("z", 7 * page)) .. ", with " .. count() .. " page read")
end
if not arg[1] then os.remove(path) end
