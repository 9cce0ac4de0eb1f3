-- Working sets: what goes in comes out, files, and what is refused. The bytes of the format are test_workingset.c's.
local lu = require "luaunit"
local support = require "support"
local core = require "uffd.core"
local uffd = require "uffd"

local tests = {}
local page = 4096

if not core.workingset_create then
  function tests.test_built_without_the_pager()
    support.fails("ENOSYS", "without the pager", uffd.workingset { length = page })
    support.fails("ENOSYS", "without the pager", uffd.workingset.load "x")
    support.fails("ENOSYS", "without the pager", uffd.image_identity "x")
  end
  return tests
end

local function made_of(...)
  local set = assert(uffd.workingset { length = 64 * page, identity = 7 })
  for _, number in ipairs { ... } do assert(set:add(number * page)) end
  return set
end

local function pages_of(set)
  local pages = {}
  for index, offset in set:iterate() do pages[index] = offset // page end
  return pages
end

local function with_file(contents, f)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(contents)
  file:close()
  local ok, message = pcall(f, path)
  os.remove(path)
  if not ok then error(message, 0) end
end

function tests.test_add_get_iterate()
  local set <close> = made_of(9, 2, 3)
  lu.assertIsFalse(set:add(2 * page, "write"))
  lu.assertIsTrue(set:add(5 * page, "write|wp"))
  lu.assertIsTrue(set:add(6 * page, { "minor" }))
  lu.assertIsTrue(set:add(7 * page, 3))
  lu.assertEquals(set:count(), 6)
  lu.assertEquals(#set, 6)
  lu.assertEquals({ set:get(1) }, { 9 * page, 0 })
  lu.assertEquals({ set:get(4) }, { 5 * page, 3 })
  lu.assertEquals({ set:get(5) }, { 6 * page, 4 })
  lu.assertEquals({ set:get(6) }, { 7 * page, 3 })
  support.fails("ERANGE", "has 6", set:get(7))
  support.fails("ERANGE", nil, set:get(0))
  support.fails("ERANGE", nil, set:get(-1))
  lu.assertEquals(pages_of(set), { 9, 2, 3, 5, 6, 7 })
  support.fails("ERANGE", "beyond the image", set:add(64 * page))
  support.fails("EINVAL", "beginning of a page", set:add(1))
  support.raises("unknown kind of access 'reed'", set.add, set, 0, "reed")
  support.raises("must not be negative", set.add, set, -page)
end

function tests.test_info_and_ranges()
  local set <close> = made_of(9, 2, 3, 4, 63)
  set:add(1 * page, "write")
  lu.assertEquals(set:info(), {
    page_size = page, image_length = 64 * page, image_identity = 7, pages = 6, bytes = 6 * page, writes = 1, runs = 3,
    longest_run = 4, sequential = 2,
  })
  lu.assertEquals(set:ranges(), { { page, 4 * page }, { 9 * page, page }, { 63 * page, page } })
  lu.assertEquals(set:ranges(2), { { page, 4 * page }, { 9 * page, page } })
  lu.assertEquals(set:ranges(0), {})
  lu.assertEquals(#set:ranges(9), 3)
  local empty <close> = made_of()
  lu.assertEquals(empty:ranges(), {})
  lu.assertEquals(pages_of(empty), {})
end

function tests.test_merge_and_check()
  local set <close> = made_of(5, 1)
  local other <close> = made_of(2, 5, 3)
  lu.assertIsTrue(set:merge(other))
  lu.assertEquals(pages_of(set), { 5, 1, 2, 3 })
  lu.assertIsTrue(set:check(64 * page, 7))
  lu.assertIsTrue(set:check(64 * page))
  support.fails("EINVAL", "another image", set:check(64 * page, 8))
  support.fails("EINVAL", "262144 bytes", set:check(page, 7))
  local foreign <close> = assert(uffd.workingset { length = 64 * page, identity = 8 })
  support.fails("EINVAL", "another image", set:merge(foreign))
  local coarse <close> = assert(uffd.workingset { length = 64 * page, identity = 7, page_size = "8K" })
  support.fails("EINVAL", "pages of 4096 bytes", set:merge(coarse))
  support.raises("uffd.workingset expected", set.merge, set, {})
end

function tests.test_files()
  with_file("", function(path)
    local set <close> = made_of(5, 1, 8)
    lu.assertIsTrue(set:save(path))
    local again <close> = assert(uffd.workingset.load(path))
    lu.assertEquals(pages_of(again), { 5, 1, 8 })
    lu.assertEquals(again:info(), set:info())
    local file = assert(io.open(path, "r+b"))
    file:seek("set", 70)
    file:write "x"
    file:close()
    support.fails("EINVAL", "damaged", uffd.workingset.load(path))
    support.fails("ENOTDIR", "Cannot write", set:save(path .. "/no/where"))
  end)
  support.fails("ENOENT", "/nowhere.ws", uffd.workingset.load "/nowhere.ws")
  with_file("hello", function(path)
    support.fails("EINVAL", "not a working-set file", uffd.workingset.load(path))
  end)
end

function tests.test_identity()
  with_file(("x"):rep(5 * page + 1), function(path)
    local length, identity = uffd.image_identity(path)
    lu.assertEquals(length, 5 * page + 1)
    lu.assertNotEquals(identity, 0)
    local set <close> = assert(uffd.workingset { image = path })
    lu.assertEquals(set:info().image_identity, identity)
    lu.assertIsTrue(set:add(5 * page))
    lu.assertIsTrue(set:check(length, identity))
  end)
  support.fails("ENOENT", "/nowhere.img", uffd.image_identity "/nowhere.img")
  support.fails("ENOENT", "/nowhere.img", uffd.workingset { image = "/nowhere.img" })
  support.fails("EINVAL", "neither a regular file nor a block device", uffd.image_identity "/dev/null")
  support.fails("EBADF", nil, uffd.image_identity(-1))
end

function tests.test_options()
  support.raises("unknown option 'size'", uffd.workingset, { size = 1 })
  support.raises("either image or length", uffd.workingset, {})
  support.raises("either image or length", uffd.workingset, { image = "x", length = 1 })
  support.raises("an image has its own", uffd.workingset, { image = "x", identity = 1 })
  support.raises("a table of options expected", uffd.workingset, 5)
  support.raises("bytes are an integer", uffd.workingset, { length = "much" })
  support.fails("EINVAL", "power of two", uffd.workingset { length = page, page_size = 5000 })
  support.fails("EINVAL", "0 bytes", uffd.workingset { length = 0 })
  lu.assertEquals(uffd.workingset({ length = "1T", page_size = "2M" }):info().image_length, 1 << 40)
end

function tests.test_closed()
  local set = made_of(1)
  lu.assertEquals(tostring(set), "uffd.workingset (1 pages)")
  local next_page, state, first = set:iterate()
  lu.assertIsTrue(set:close())
  lu.assertIsTrue(set:close())
  lu.assertEquals(tostring(set), "uffd.workingset (closed)")
  for name in pairs(core.methods.workingset) do
    if name ~= "close" then support.raises("closed uffd.workingset", set[name], set, set) end
  end
  support.raises("closed uffd.workingset", next_page, state, first)
end

return tests
