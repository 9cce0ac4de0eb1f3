-- The pump: the caller answers, for memory that another thread touches.
local lu = require "luaunit"
local support = require "support"
local toucher = require "toucher"
local uffd = require "uffd"

local page, fails = support.page, support.fails
local tests = {}

local function pump(resolver, pages)
  return support.serve(assert(resolver), pages, { engine = "pump" })
end

function tests.test_step_answers_another_thread()
  local memory, served = pump(uffd.resolver.bytes(support.letters(8)), 8)
  local loop <close> = served
  lu.assertEquals(tostring(loop), "uffd.loop (pump, 1 region)")
  lu.assertEquals(loop:step(), 0)
  lu.assertEquals(loop:step(1), 0)
  local thread = toucher.start("read", memory.address, memory.size)
  local answered = 0
  while answered < 8 do answered = answered + assert(loop:step(5000)) end
  lu.assertEquals(thread:join(), "abcdefgh")
  lu.assertEquals(answered, 8)
  support.counts(loop, { faults = 8 })
end

-- Not a word of a hang: a thread that answers cannot wait for its own answer.
function tests.test_the_driver_touches_its_own()
  support.needs_kernel_faults()
  local memory, served = pump(uffd.resolver.bytes(support.letters(2)), 2)
  local loop <close> = served
  fails("EDEADLK", "touch the memory in another", memory:read(0, 4))
  fails("EDEADLK", nil, memory:write(0, "x"))
  fails("EDEADLK", nil, memory:unpack("I4", page))
  fails("EDEADLK", nil, memory:prefault())
  assert(loop:complete())
  lu.assertEquals(memory:read(page, 1), "b")
end

function tests.test_a_policy_on_the_pump()
  local policy = uffd.resolver.policy(function()
    local calls = 0
    return function()
      calls = calls + 1
      return ("page %d"):format(calls)
    end
  end)
  local memory, served = pump(policy, 3)
  local loop <close> = served
  local thread = toucher.start("read", memory.address + 5, 3 * page, page)
  local answered = 0
  while answered < 3 do answered = answered + assert(loop:step(-1)) end
  lu.assertEquals(thread:join(), "123")
end

-- What a policy has not got waits until the program says that it has come: of that page, and of no other.
function tests.test_ready()
  local bytes, here = assert(uffd.map { size = 2 * page }), assert(uffd.map { size = page })
  local policy = uffd.resolver.policy(function(args)
    return function(fault)
      if args.here:read(fault.offset // args.page, 1) == "\1" then return args.bytes:read(fault.offset, args.page) end
      print(fault.offset)
      return uffd.LATER
    end
  end, { bytes = bytes, here = here, page = page })
  local memory, served = pump(policy, 2)
  local loop <close> = served
  local threads = { toucher.start("read", memory.address, 1), toucher.start("read", memory.address + page, 1) }
  local asked = {}
  while not (asked["0"] and asked[tostring(page)]) do
    assert(loop:step(100))
    for line in loop:messages() do asked[line] = true end
  end
  for index = 1, 0, -1 do
    bytes:write(index * page, ("page %d"):format(index))
    here:write(index, "\1")
    lu.assertIsTrue(index == 1 and loop:ready(page, page) or loop:regions()[1]:ready(0, 1))
    lu.assertEquals(loop:step(0), 1)
    lu.assertEquals(threads[index + 1]:join(), "p")
  end
  fails("ERANGE", "outside", loop:ready(0, 3 * page))
  fails("ERANGE", "outside", loop:regions()[1]:ready(2 * page + 1))
  lu.assertIsTrue(loop:ready())
  support.raises("no region 2", loop.ready, loop, 0, 0, 2)
end

-- What luv, cqueues and LuaSocket ask.
function tests.test_pollable()
  local memory, served = pump(uffd.resolver.zero(), 1)
  local loop <close> = served
  lu.assertIsTrue(math.type(loop:fd()) == "integer")
  lu.assertEquals({ loop:pollfd(), loop:getfd() }, { loop:fd(), loop:fd() })
  lu.assertEquals(loop:events(), "r")
  lu.assertFalse(loop:dirty())
  local timeout, message = loop:timeout()
  lu.assertNil(message)
  lu.assertIsTrue(timeout == nil or timeout >= 0)
  lu.assertEquals(memory.size, page)
end

function tests.test_socket_select_wakes_up()
  local found, socket = pcall(require, "socket")
  lu.skipIf(not found, "LuaSocket is not installed")
  local memory, served = pump(uffd.resolver.bytes(support.letters(1)), 1)
  local loop <close> = served
  lu.assertEquals(#socket.select({ loop }, nil, 0), 0)
  local thread = toucher.start("read", memory.address, page)
  local ready = socket.select({ loop }, nil, 5)
  lu.assertIs(ready[1], loop)
  while loop:stats().faults == 0 do assert(loop:step(100)) end
  lu.assertEquals(thread:join(), "a")
end

function tests.test_cqueues_poll_wakes_up()
  local found, cqueues = pcall(require, "cqueues")
  lu.skipIf(not found, "cqueues is not installed")
  local memory, served = pump(uffd.resolver.bytes(support.letters(1)), 1)
  local loop <close> = served
  local thread = toucher.start("read", memory.address, page)
  lu.assertIs(cqueues.poll(loop, 5), loop)
  while loop:stats().faults == 0 do assert(loop:step(100)) end
  lu.assertEquals(thread:join(), "a")
end

function tests.test_other_engines_have_no_pump()
  local _, served = support.serve(uffd.resolver.zero(), 1)
  local loop <close> = served
  fails("EINVAL", nil, loop:step())
  fails("EINVAL", nil, loop:fd())
  fails("EINVAL", nil, uffd.serve { engine = "pump", handlers = 2 })
end

function tests.test_prefetch_and_complete_by_the_caller()
  local memory, served = pump(uffd.resolver.bytes(support.letters(4)), 4)
  local loop <close> = served
  assert(loop:prefetch(0, 2 * page))
  lu.assertEquals(memory:read(0, 2 * page), support.letters(2))
  assert(loop:complete())
  lu.assertEquals(memory:read(), support.letters(4))
end

function tests.test_prefetch_in_the_background()
  local memory, served = pump(uffd.resolver.bytes(support.letters(4)), 4)
  local loop <close> = served
  local prefetch = assert(loop:regions()[1]:prefetch { background = true })
  lu.assertFalse(prefetch:status().done)
  lu.assertEquals(loop:timeout(), 0)
  assert(loop:step(0))
  lu.assertTrue(prefetch:status().done)
  lu.assertTrue(prefetch:close())
  lu.assertEquals(memory:read(), support.letters(4))
  prefetch = assert(loop:regions()[1]:prefetch { background = true })
  lu.assertTrue(prefetch:wait())
end

return tests
