-- Memory: kinds, fields, bounds, copies in and out.
local lu = require "luaunit"
local support = require "support"
local toucher = require "toucher"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local tests = {}

function tests.test_anonymous()
  local memory <close> = assert(uffd.map { size = 3 * page - 5, kind = "anonymous" })
  lu.assertEquals(assert(uffd.map { size = page }).kind, "thp")
  lu.assertEquals(memory.size, 3 * page)
  lu.assertEquals(#memory, 3 * page)
  lu.assertEquals(memory.page_size, page)
  lu.assertEquals(memory.kind, "anonymous")
  lu.assertEquals(memory.address % page, 0)
  lu.assertNil(memory.fd)
  lu.assertNil(memory.alias)
  lu.assertNil(memory.nothing_like_it)
  lu.assertEquals(memory:read(), ("\0"):rep(3 * page))
  lu.assertStrContains(tostring(memory), "uffd.memory (anonymous, " .. 3 * page .. " bytes at 0x")
end

function tests.test_sizes_as_text()
  for text, size in pairs { ["64K"] = 64 << 10, ["1M"] = 1 << 20, ["2 MiB"] = 2 << 20, ["8192"] = 8192 } do
    local memory <close> = assert(uffd.map { size = text })
    lu.assertEquals(memory.size, size)
  end
  for _, text in ipairs { "", "M", "1X", "-1", "1.5M", "99999999999T", "0x10" } do
    raises("bytes are an integer", uffd.map, { size = text })
  end
end

function tests.test_bad_sizes()
  for _, size in ipairs { 0 / 0, 1 / 0, -1, 1.5, -4096.0 } do
    raises("bytes are an integer", uffd.map, { size = size })
  end
  raises("bytes are an integer", uffd.map, { size = {} })
  raises("uffd.map:", uffd.map, {})
  fails("EINVAL", nil, uffd.map { size = 0 })
  fails("EINVAL", nil, uffd.map { size = math.maxinteger })
  lu.assertNil((uffd.map { size = 1 << 48 }))
end

function tests.test_thp()
  local memory <close> = assert(uffd.map { size = "4M", kind = "thp" })
  lu.assertEquals(memory.kind, "thp")
  lu.assertEquals(memory.address % (2 << 20), 0)
end

function tests.test_memfd_and_its_alias()
  local memory <close> = assert(uffd.map { size = 4 * page, kind = "memfd", name = "test" })
  local alias = memory.alias
  lu.assertEquals(memory.kind, "memfd")
  lu.assertIsTrue(memory.fd > 2)
  lu.assertEquals(alias.size, memory.size)
  lu.assertNotEquals(alias.address, memory.address)
  lu.assertIs(memory.alias, alias)
  assert(memory:write(page, "seen from both"))
  lu.assertEquals(alias:read(page, 14), "seen from both")
  assert(alias:write(0, "and back"))
  lu.assertEquals(memory:read(0, 8), "and back")
  lu.assertNil(alias.alias)
end

-- The alias holds its memory: neither collecting nor closing that takes the mapping away under it.
function tests.test_alias_outlives_its_memory()
  local memory = assert(uffd.map { size = page, kind = "memfd" })
  local alias = memory.alias
  assert(memory:write(0, "still here"))
  memory:close()
  memory = nil -- luacheck: ignore 311
  collectgarbage()
  lu.assertEquals(alias:read(0, 10), "still here")
  raises("alias", uffd.resolver.memory, alias)
  raises("alias", uffd.resolver.move, alias)
  raises("alias", uffd.serve, { { memory = alias, resolver = uffd.resolver.zero() } })
end

function tests.test_private_memfd()
  local memory <close> = assert(uffd.map { size = page, kind = "memfd", private = true })
  assert(memory.alias:write(0, "shared"))
  lu.assertEquals(memory:read(0, 6), "shared")
  assert(memory:write(0, "mine  "))
  lu.assertEquals(memory.alias:read(0, 6), "shared")
end

function tests.test_hugetlb()
  support.with_huge_pages(1, function(memory)
    lu.assertEquals({ memory.size, memory.page_size, memory.kind }, { 2 << 20, 2 << 20, "hugetlb" })
    assert(memory:write((2 << 20) - 3, "end"))
    lu.assertEquals(memory.alias:read((2 << 20) - 3), "end")
    lu.assertEquals(memory.alias.page_size, 2 << 20)
  end)
end

function tests.test_no_free_huge_pages()
  local free = uffd.probe().hugepages_free
  lu.skipIf(uffd.probe().hugepage_size == 0, "no hugetlb")
  fails("ENOMEM", "huge", uffd.map { size = (free + 1) * uffd.probe().hugepage_size, kind = "hugetlb" })
end

function tests.test_adopt()
  local address = toucher.map(4 * page)
  local memory <close> = assert(uffd.map { address = address, size = 4 * page })
  lu.assertEquals({ memory.kind, memory.address, memory.size }, { "adopted", address, 4 * page })
  assert(memory:fill("z"))
  lu.assertEquals(memory:read(page, 3), "zzz")
  local other <close> = assert(uffd.map { address = address, size = page })
  lu.assertEquals(other:read(0, 1), "z")
  fails("EINVAL", nil, uffd.map { address = address + 1, size = page })
  fails("EINVAL", nil, uffd.map { address = 0, size = page })
  raises("as it was mapped", uffd.map, { address = address, size = page, kind = "memfd" })
  memory:close()
  other:close()
  toucher.unmap(address, 4 * page)
  fails("EINVAL", nil, uffd.map { address = address, size = page })
end

-- Restores memory in place: what was written is gone, the resolver is asked again.
function tests.test_discard()
  local counting = assert(uffd.resolver.policy(function()
    local calls = 0
    return function()
      calls = calls + 1
      return ("call %d"):format(calls)
    end
  end))
  for _, kind in ipairs { "anonymous", "thp", "memfd" } do
    local memory, served = support.serve(counting, 4, { kind = kind })
    local loop <close> = served
    lu.assertEquals(memory:read(page, 6), "call 1")
    assert(memory:write(page, "written"))
    lu.assertIsTrue(memory:discard(page, page))
    lu.assertEquals(memory:read(page, 6), "call 2")
    lu.assertIsTrue(memory:discard())
    lu.assertEquals(memory:read(page, 6), "call 3")
    fails("EINVAL", "whole pages", memory:discard(0, 5))
    raises("outside the memory", memory.discard, memory, 0, 5 * page)
    assert(loop:regions()[1]:remove())
    fails("ENOENT", "not served", memory:discard(0, page))
  end
end

function tests.test_reading_and_writing()
  local memory <close> = assert(uffd.map { size = 2 * page })
  lu.assertIsTrue(memory:write(page - 3, "across"))
  lu.assertEquals(memory:read(page - 3, 6), "across")
  lu.assertEquals(memory:read(2 * page), "")
  lu.assertEquals(memory:read(2 * page, 0), "")
  lu.assertEquals(#memory:read(page), page)
  lu.assertEquals(memory:read(page - 3.0, 2.0), "ac")
  assert(memory:write(0, ""))
  assert(memory:fill(255, 10, 2))
  lu.assertEquals(memory:read(9, 4), "\0\255\255\0")
  assert(memory:fill "a")
  lu.assertEquals(memory:read(), ("a"):rep(2 * page))
end

function tests.test_out_of_bounds()
  local memory <close> = assert(uffd.map { size = 2 * page })
  raises("outside the memory", memory.read, memory, 2 * page + 1)
  raises("outside the memory", memory.read, memory, 0, 2 * page + 1)
  raises("outside the memory", memory.read, memory, page, math.maxinteger)
  raises("outside the memory", memory.read, memory, math.maxinteger, 1)
  raises("outside the memory", memory.write, memory, 2 * page, "x")
  raises("outside the memory", memory.fill, memory, 0, page, page + 1)
  raises("must not be negative", memory.read, memory, -1, 1)
  raises("must not be negative", memory.read, memory, 0, -1)
  raises("no integer representation", memory.read, memory, 0.5)
  raises("no integer representation", memory.read, memory, 0 / 0)
  raises("no integer representation", memory.read, memory, 1 / 0)
  raises("0 to 255", memory.fill, memory, 256)
  raises("0 to 255", memory.fill, memory, -1)
  raises("one character", memory.fill, memory, "ab")
  raises("number expected, got no value", memory.write, memory)
end

function tests.test_pack_and_unpack()
  local memory <close> = assert(uffd.map { size = page })
  assert(memory:pack("<I4 i2 s1", 8, 0xdeadbeef, -2, "text"))
  lu.assertEquals({ memory:unpack("<I4 i2", 8) }, { 0xdeadbeef, -2, 14 })
  lu.assertEquals({ memory:unpack("s1", 14) }, { "text", 19 })
  lu.assertEquals({ memory:unpack "I1" }, { 0, 1 })
  assert(memory:pack("z", page - 5, "tail"))
  lu.assertEquals({ memory:unpack("z", page - 5) }, { "tail", page })
  lu.assertEquals({ memory:unpack("s1", 14.0) }, { "text", 19 }) -- luv hands integers to its threads as floats
  assert(memory:pack("s2", 100, ("l"):rep(300)))
  lu.assertEquals((memory:unpack("s2", 100)), ("l"):rep(300))
  raises("outside the memory", memory.pack, memory, "I8", page - 4, 1)
  raises("data string too short", memory.unpack, memory, "I8", page - 4)
  raises("not inside the memory", memory.unpack, memory, "I8", -1)
  raises("invalid format", memory.unpack, memory, "?", 0)
end

function tests.test_unknown_options()
  raises("unknown option 'sise'", uffd.map, { sise = page })
  raises("unknown option '1'", uffd.map, { page })
  raises("table of options expected, got number", uffd.map, page)
  raises("unknown kind of memory 'tape'", uffd.map, { size = page, kind = "tape" })
end

-- Mistakes are told at the line of the program, not at ours.
function tests.test_errors_name_the_callers_line()
  local chunk = assert(load("local uffd = ...\n\nuffd.map { size = 4096, kind = 'tape' }", "=program"))
  lu.assertStrContains(raises("unknown kind", chunk, uffd), "program:3:")
  chunk = assert(load("local uffd = ...\n\nuffd.map { sise = 4096 }", "=program"))
  lu.assertStrContains(raises("unknown option", chunk, uffd), "program:3:")
  chunk = assert(load("local uffd = ...\n\nuffd.serve { { memory = 1 } }", "=program"))
  lu.assertStrContains(raises("resolver", chunk, uffd), "program:3:")
  chunk = assert(load("local uffd = ...\n\nuffd.serve { { memory = 1, resolver = 2 } }", "=program"))
  lu.assertStrContains(raises("uffd.memory expected", chunk, uffd), "program:3:")
  chunk = assert(load("local uffd = ...\n\nuffd.serve { engine = 'steam' }", "=program"))
  lu.assertStrContains(raises("unknown engine", chunk, uffd), "program:3:")
end

return tests
