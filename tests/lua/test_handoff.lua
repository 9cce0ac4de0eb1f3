-- Handing memory over: this process is the client, the pager is another one.
local lu = require "luaunit"
local support = require "support"
local core = require "uffd.core"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local tests = {}

if not core.pager_create then
  function tests.test_built_without_it()
    support.fails("ENOSYS", "without the pager", uffd.handoff { socket = "x", parts = {} })
  end
  return tests
end

local pager_script = [[
  local uffd = require "uffd"
  local gone, sharing = 0, tonumber(arg[3])
  local pager <close> = assert(uffd.pager {
    socket = arg[1], image = arg[2], once = not sharing, share = sharing ~= nil, around = uffd.probe().page_size,
    report = function(event)
      if event.kind == "worker" or event.kind == "retired" then return end
      if event.kind == "gone" then gone = gone + 1 end
      io.write(event.kind, " ", event.client and event.client.stats.faults or event.text, "\n")
    end,
  })
  io.write "listening\n"
  io.stdout:flush()
  if not sharing then assert(pager:run()) end
  while sharing and gone < sharing do assert(pager:step()) end
]]

-- A pager of an image of so many pages, in a process of its own, which is waited for; its socket. sharing: it shares
-- the image's pages, and ends when so many clients are gone.
local function start(pages, sharing)
  local image, gone = support.file(support.letters(pages))
  local socket = image .. ".door"
  local process = support.child(pager_script, "r", socket, image, sharing)
  lu.assertEquals(process:read "l", "listening")
  return setmetatable({}, {
    __index = { read = function(_, what) return process:read(what) end },
    __close = function()
      process:close()
      getmetatable(gone).__close()
    end,
  }), socket
end

function tests.test_memory_reads_as_the_image()
  local process <close>, socket = start(8)
  local memory <close> = assert(uffd.map { size = 8 * page })
  local handoff = assert(uffd.handoff { socket = socket, memory = memory })
  lu.assertEquals(tostring(handoff), "uffd.handoff (1 memory)")
  lu.assertEquals(memory:read(), support.letters(8))
  assert(handoff:close())
  assert(handoff:close())
  lu.assertEquals(tostring(handoff), "uffd.handoff (closed)")
  raises("attempt to use a closed uffd.handoff", handoff.complete, handoff)
  lu.assertEquals(process:read "a", "client 0\ngone 8\n")
end

function tests.test_parts_of_an_image()
  local process <close>, socket = start(6)
  local high <close> = assert(uffd.map { size = 2 * page })
  local low <close> = assert(uffd.map { size = 4 * page, kind = "memfd" })
  local handoff <close> = assert(uffd.handoff { socket = socket, parts = { { high, 4 * page }, { low } } })
  lu.assertEquals(high:read(page, 1), "f")
  lu.assertEquals(low:read(), support.letters(4))
  handoff:close()
  lu.assertStrContains(process:read "a", "gone")
end

-- Some of the image, which is filled later. This pager has closed its door when it has a client.
function tests.test_part_later_and_again()
  local process <close>, socket = start(6)
  local memory <close> = assert(uffd.map { size = 2 * page })
  fails("EPIPE", "belongs to another client", uffd.handoff { socket = socket, parts = { { memory, 2 * page } } })
  local other <close> = assert(uffd.map { size = 2 * page })
  local handoff <close> = assert(uffd.handoff {
    socket = socket, parts = { { other, 2 * page } }, part = true, fill = "later" })
  lu.assertEquals(other:read(0, 1), "c")
  lu.assertTrue(handoff:fill())
  lu.assertTrue(handoff:fill())
  fails("ENOENT", "start the pager first", handoff:attach(socket))
  lu.assertEquals(other:read(page, 1), "d")
  lu.assertTrue(handoff:complete()) -- the old connection stays
  fails("EINVAL", "complete", handoff:fill())
  fails("EINVAL", "complete", handoff:attach(socket))
  handoff:close()
  local _, clients = process:read "a":gsub("client ", "")
  lu.assertEquals(clients, 1)
  raises("fill must be", uffd.handoff, { socket = socket, memory = memory, fill = "never" })
end

-- Complete, it is ordinary memory; what was not touched before is there too.
function tests.test_complete()
  local process <close>, socket = start(8)
  local memory <close> = assert(uffd.map { size = 8 * page })
  local handoff <close> = assert(uffd.handoff { socket = socket, memory = memory })
  assert(memory:write(5 * page, "mine"))
  assert(handoff:complete())
  handoff:close()
  lu.assertEquals(memory:read(7 * page, 2), "hh")
  lu.assertEquals(memory:read(5 * page, 5), "minef")
  lu.assertStrContains(process:read "a", "gone")
end

-- The object is lent: it is the pager that reads it, and the handoff that closes it.
function tests.test_the_object()
  local process <close>, socket = start(2)
  local memory <close> = assert(uffd.map { size = 2 * page })
  local handoff = assert(uffd.handoff { socket = socket, memory = memory })
  local object, again = handoff:object(), handoff:object()
  lu.assertEquals(object:fd(), again:fd())
  lu.assertTrue(object:has "event_remove")
  raises("a pager reads the events", object.read, object)
  raises("a pager reads the events", function() return object:events()(object) end)
  local other <close> = assert(uffd.map { size = page })
  local loop <close> = assert(uffd.serve { engine = "threads" })
  raises("a pager reads the events", loop.add, loop,
    { memory = other, resolver = uffd.resolver.zero(), object = object })
  again:close()
  lu.assertEquals(memory:read(page, 1), "b")
  lu.assertTrue(object:fd() >= 0)
  handoff:close()
  raises("attempt to use a closed uffd.object", object.fd, object)
  lu.assertEquals(tostring(object), "uffd.object (closed)")
  object:close()
  process:read "a"
end

-- The memory's handle may go before the handoff does.
function tests.test_memory_closed_while_it_is_handed_over()
  local process <close>, socket = start(2)
  local memory = assert(uffd.map { size = 2 * page })
  local handoff = assert(uffd.handoff { socket = socket, memory = memory })
  memory:close()
  assert(handoff:complete())
  handoff:close()
  lu.assertStrContains(process:read "a", "gone")
end

function tests.test_misuse_raises()
  local memory <close> = assert(uffd.map { size = page })
  raises("unknown option 'path'", uffd.handoff, { path = "x", memory = memory })
  raises("either memory or parts", uffd.handoff, { socket = "x" })
  raises("either memory or parts", uffd.handoff, { socket = "x", memory = memory, parts = {} })
  raises("needs the socket", uffd.handoff, { memory = memory })
  raises("part 1 is a userdata", uffd.handoff, { socket = "x", parts = { memory } })
  raises("part 1: its memory is a number", uffd.handoff, { socket = "x", parts = { { 5 } } })
  raises("part 2: its offset must be", uffd.handoff, { socket = "x", parts = { { memory, 0 }, { memory, -1 } } })
  raises("part 1: its offset must be", uffd.handoff, { socket = "x", parts = { { memory, 0.5 } } })
  raises("must not be negative", uffd.handoff, { socket = "x", memory = memory, timeout = -1 })
  raises("unknown feature", uffd.handoff, { socket = "x", memory = memory, features = "magic" })
end

function tests.test_no_pager_there()
  local memory <close> = assert(uffd.map { size = page })
  fails("ENOENT", nil, uffd.handoff { socket = "/nowhere/door", memory = memory })
  fails("EINVAL", nil, uffd.handoff { socket = "/nowhere/door", parts = {} })
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = uffd.resolver.zero() } })
  lu.assertEquals(memory:read(0, 1), "\0") -- it was let go
  lu.assertNotNil(loop)
end

-- One copy for all: both see the image, and each what it has written.
function tests.test_shared()
  support.needs "minor_shmem"
  local process <close>, socket = start(6, "2")
  local one, mine = assert(uffd.handoff { socket = socket, shared = true })
  local two, yours = assert(uffd.handoff { socket = socket, shared = true, fork = true, label = "two" })
  lu.assertEquals(mine.size, 6 * page)
  lu.assertEquals(mine.kind, "memfd")
  assert(mine:write(page, "own"))
  lu.assertEquals(mine:read(page, 4), "ownb")
  lu.assertEquals(yours:read(), support.letters(6))
  lu.assertEquals(mine:read(2 * page, 4 * page), support.letters(6):sub(2 * page + 1))
  fails("EINVAL", "the pager that has lent them", uffd.serve { { memory = mine, resolver = uffd.resolver.zero() } })
  for _, each in ipairs { one, two, mine, yours } do assert(each:close()) end
  local _, gone = process:read "a":gsub("gone [56]\n", "")
  lu.assertEquals(gone, 2)
  raises("the pager gives the memory", uffd.handoff, { socket = socket, shared = true, part = true })
end

function tests.test_a_pager_that_does_not_share()
  local process <close>, socket = start(2)
  fails("EPIPE", "start it with --share", uffd.handoff { socket = socket, shared = true })
  local memory <close> = assert(uffd.map { size = 2 * page })
  local handoff <close> = assert(uffd.handoff { socket = socket, memory = memory })
  handoff:close()
  lu.assertStrContains(process:read "a", "gone 0")
end

-- An ordinary user's object gets the faults of user mode only, and that is enough for its own accesses.
function tests.test_user_mode_only()
  local process <close>, socket = start(4)
  local memory <close> = assert(uffd.map { size = 4 * page })
  local handoff <close> = assert(uffd.handoff { socket = socket, memory = memory, user_mode_only = true })
  lu.assertTrue(handoff:object():user_mode_only())
  lu.assertEquals(memory:read(3 * page, 2), "dd")
  lu.assertEquals(memory:read(0, 1), "a")
  handoff:close()
  lu.assertEquals(process:read "a", "client 0\ngone 2\n")
end

return tests
