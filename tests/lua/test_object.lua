-- The userfaultfd object, call by call.
local lu = require "luaunit"
local support = require "support"
local toucher = require "toucher"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local tests = {}

local function open(options)
  return assert(uffd.open(options))
end

local function map(pages, kind)
  return assert(uffd.map { size = pages * page, kind = kind })
end

local function first_event(u)
  local next_event, state = u:events(5000)
  return assert(next_event(state), "no event came")
end

local function contains(list, ...)
  for _, name in ipairs { ... } do lu.assertTableContains(list, name) end
end

-- What it is

function tests.test_open_default()
  local u <close> = open()
  lu.assertEquals(u:features(), {})
  lu.assertIsTrue(#u:available() > 0)
  lu.assertNotNil(({ syscall = true, device = true })[u:route()])
  lu.assertIsBoolean(u:user_mode_only())
  lu.assertIsTrue(u:fd() > 2)
  lu.assertEquals(u:getfd(), u:fd())
  lu.assertEquals(u:pollfd(), u:fd())
  lu.assertStrContains(tostring(u), "uffd.object (fd " .. u:fd())
end

function tests.test_features_as_names_list_and_integer()
  support.needs("event_remove", "event_unmap")
  local forms = {
    "event_remove|event_unmap", "event_remove, event_unmap", "UFFD_FEATURE_EVENT_REMOVE EVENT_UNMAP",
    { "event_remove", "event_unmap" }, { 1 << 3, "event_unmap" }, 1 << 3 | 1 << 6,
  }
  for _, features in ipairs(forms) do
    local u <close> = open { features = features }
    lu.assertItemsEquals(u:features(), { "event_remove", "event_unmap" })
  end
end

function tests.test_has()
  support.needs "event_remove"
  local u <close> = open { features = "event_remove" }
  lu.assertEquals({ u:has "event_remove" }, { true, true })
  lu.assertEquals({ u:has "event_unmap" }, { false, true })
  lu.assertEquals({ u:has { "event_remove", "event_unmap" } }, { false, true })
end

function tests.test_optional_feature_that_is_refused()
  -- event_fork needs CAP_SYS_PTRACE, the last bit no kernel has: neither is in the way.
  local u <close> = open { optional = { "event_fork", 1 << 40 } }
  lu.assertEquals((u:has "event_fork"), uffd.probe().event_fork)
end

function tests.test_feature_that_the_kernel_lacks()
  fails("EINVAL", nil, uffd.open { features = 1 << 40 })
end

function tests.test_user_mode_only()
  local u <close> = open { user_mode_only = true }
  lu.assertIsTrue(u:user_mode_only())
  if support.user_mode_only then
    fails("EPERM", nil, uffd.open { user_mode_only = false })
  else
    local other <close> = open { user_mode_only = false }
    lu.assertIsFalse(other:user_mode_only())
  end
end

function tests.test_routes()
  local u <close> = open { route = "syscall", user_mode_only = true }
  lu.assertEquals(u:route(), "syscall")
  local device, message, errno = uffd.open { route = "device" }
  if device then
    lu.assertEquals(device:route(), "device")
    device:close()
  else
    lu.assertIsString(message)
    lu.assertNotNil(uffd.errno[errno])
  end
end

function tests.test_blocking_object()
  local u <close> = open { nonblock = false }
  local memory <close> = map(1)
  assert(u:register(memory, "missing"))
  local thread = toucher.start("read", memory.address, page)
  local events = assert(u:read())
  lu.assertEquals(events[1].type, "pagefault")
  assert(u:zeropage(memory, 0, page))
  thread:join()
  fails("EINVAL", nil, u:read(10))
end

function tests.test_adopt()
  support.needs "event_remove"
  local u <close> = open { features = "event_remove" }
  local fd = toucher.duplicate(u:fd())
  local adopted <close> = assert(uffd.adopt(fd))
  lu.assertEquals(adopted:route(), "adopted")
  lu.assertEquals(adopted:features(), { "event_remove" })
  lu.assertNil(adopted:user_mode_only())
  lu.assertEquals(adopted:fd(), fd)
  local memory <close> = map(1)
  assert(adopted:register(memory, "missing"))
  lu.assertEquals(adopted:copy(memory, 0, "x"), page)
end

function tests.test_adopt_what_is_none()
  fails("EINVAL", "userfaultfd", uffd.adopt(0))
  fails("EBADF", nil, uffd.adopt(900))
  raises("not a file descriptor", uffd.adopt, -1)
end

-- Registering

function tests.test_register_tells_the_operations()
  local u <close> = open()
  local memory <close> = map(4)
  contains(assert(u:register(memory, "missing")), "copy", "zeropage", "wake")
  assert(u:unregister(memory))
  contains(assert(u:register(memory, page, page, { "missing", "wp" })), "copy", "writeprotect")
  assert(u:unregister(memory, page, page))
  contains(assert(u:register(memory.address, 2 * page, 1)), "copy")
  assert(u:unregister(memory.address, 2 * page))
end

function tests.test_register_refuses()
  local u <close> = open()
  local memory <close> = map(4)
  fails("EINVAL", nil, u:register(memory, 1, page, "missing"))
  fails("EINVAL", nil, u:register(memory.address, 100, "missing"))
  fails("EINVAL", nil, u:register(memory, 0))
  fails("EINVAL", nil, u:register(memory, "minor"))
  fails("EINVAL", nil, u:register(0, page, "missing"))
  fails("EINVAL", nil, u:register(math.maxinteger - page + 1, page, "missing"))
  raises("outside the", u.register, u, memory, 0, 5 * page, "missing")
  raises("outside the", u.register, u, memory, 5 * page, page, "missing")
  raises("unknown mode 'mising'", u.register, u, memory, "mising")
  raises("uffd.memory or address", u.register, u, "memory", "missing")
end

function tests.test_register_what_belongs_to_another()
  local first <close>, second = open(), open()
  local memory <close> = map(1)
  assert(first:register(memory, "missing"))
  fails("EBUSY", "another userfaultfd", second:register(memory, "missing"))
  second:close()
end

function tests.test_register_memory_that_cannot_be()
  local u <close> = open()
  local sysv = toucher.map_sysv(page)
  if sysv then fails("EINVAL", nil, u:register(sysv, page, "missing")) end
  local file = toucher.map_file("/proc/self/exe", page)
  fails("EINVAL", nil, u:register(file, page, "missing"))
  fails("EPERM", nil, u:register(assert(toucher.map_sealed(page)), page, "missing"))
  local gone = toucher.map(page)
  toucher.unmap(gone, page)
  fails("EINVAL", nil, u:register(gone, page, "missing"))
end

function tests.test_unregister_lets_sleepers_go()
  local u <close> = open()
  local memory <close> = map(1)
  assert(u:register(memory, "missing"))
  local thread = toucher.start("read", memory.address, page)
  lu.skipIf(not thread:asleep(), "this kernel does not tell where threads sleep")
  assert(u:unregister(memory))
  lu.assertEquals(thread:join(), "\0")
end

-- Filling

function tests.test_copy()
  local u <close> = open()
  local memory <close> = map(6)
  assert(u:register(memory, "missing"))
  lu.assertEquals(u:copy(memory, 0, "short"), page)
  lu.assertEquals(u:copy(memory.address + page, ("x"):rep(page)), page)
  lu.assertEquals(u:copy(memory, 2 * page, ("y"):rep(page + 1)), 2 * page)
  lu.assertEquals(memory:read(0, 4 * page), "short" .. ("\0"):rep(page - 5) .. ("x"):rep(page) ..
    ("y"):rep(page + 1) .. ("\0"):rep(page - 1))
end

function tests.test_copy_onto_a_page_that_is_there()
  local u <close> = open()
  local memory <close> = map(4)
  assert(u:register(memory, "missing"))
  assert(u:copy(memory, 2 * page, "there"))
  local done = fails("EEXIST", nil, u:copy(memory, 0, ("z"):rep(4 * page)))
  lu.assertEquals(done, 2 * page)
  lu.assertEquals(memory:read(2 * page, 5), "there")
end

function tests.test_copy_refuses()
  local u <close> = open()
  local memory <close> = map(2)
  fails("ENOENT", nil, u:copy(memory, 0, "not registered"))
  assert(u:register(memory, "missing"))
  fails("EINVAL", nil, u:copy(memory, 1, "x"))
  fails("EINVAL", nil, u:copy(memory, 0, ""))
  fails("EINVAL", nil, u:copy(memory, 0, "x", "wp"))
  fails("EINVAL", nil, u:copy(memory, 0, "x", 1 << 30))
  raises("outside the", u.copy, u, memory, page, ("x"):rep(page + 1))
  raises("unknown copy flag", u.copy, u, memory, 0, "x", "allow_src_holes")
end

function tests.test_zeropage()
  local u <close> = open()
  local memory <close> = map(3)
  assert(u:register(memory, "missing"))
  lu.assertEquals(u:zeropage(memory, page, page), page)
  lu.assertEquals(u:zeropage(memory.address, page, "dontwake"), page)
  local done = fails("EEXIST", nil, u:zeropage(memory))
  lu.assertEquals(done, 0)
end

function tests.test_continue()
  support.needs "minor_shmem"
  local u <close> = open()
  local memory <close> = map(2, "memfd")
  assert(u:register(memory, "missing|minor"))
  fails("EFAULT", nil, u:continue(memory, 0, page))
  assert(memory.alias:write(0, "through the alias"))
  lu.assertEquals(u:continue(memory, 0, page), page)
  lu.assertEquals(memory:read(0, 17), "through the alias")
end

function tests.test_poison()
  support.needs "poison"
  local u <close> = open()
  local memory <close> = map(2)
  assert(u:register(memory, "missing"))
  lu.assertEquals(u:poison(memory, 0, page), page)
  fails("EHWPOISON", "poison", memory:read(0, 1))
  local thread = toucher.start("read", memory.address, page)
  lu.assertEquals(select(2, thread:join()), 1)
end

function tests.test_move()
  support.needs "move"
  local u <close> = open()
  local memory <close>, source = map(4), map(4)
  assert(source:fill("m"))
  assert(u:register(memory, "missing"))
  lu.assertEquals(u:move(memory, 0, source, page, page), page)
  lu.assertEquals(u:move(memory.address + page, source.address + 2 * page, page), page)
  lu.assertEquals(u:move(memory.address + 2 * page, source, 3 * page, page, "dontwake"), page)
  lu.assertEquals(memory:read(0, 3 * page), ("m"):rep(3 * page))
  lu.assertEquals(source:read(page, page), ("\0"):rep(page))
  raises("outside the", u.move, u, memory, 0, source, 3 * page, 2 * page)
  raises("outside the", u.move, u, memory, 3 * page, source, 0, 2 * page)
end

function tests.test_writeprotect()
  support.needs "pagefault_flag_wp"
  local u <close> = open()
  local memory <close> = map(2)
  assert(memory:fill(1))
  assert(u:register(memory, "wp"))
  assert(u:writeprotect(memory))
  local thread = toucher.start("write", memory.address, 2 * page, page, 7)
  local kinds = {}
  for event in u:events(200) do
    kinds[#kinds + 1] = event.kind
    lu.assertIsTrue(event.write)
    assert(u:writeprotect(event.page, page, false))
  end
  thread:join()
  lu.assertEquals(kinds, { "wp", "wp" })
  lu.assertEquals(memory:read(0, 2), "\7\1")
  assert(u:writeprotect(memory, 0, page, "wp"))
  assert(u:writeprotect(memory, 0, page, 0))
  fails("ENOENT", nil, u:writeprotect(toucher.map(page), page))
end

function tests.test_wake_lets_try_again()
  local u <close> = open()
  local memory <close> = map(1)
  assert(u:register(memory, "missing"))
  local thread = toucher.start("read", memory.address, page)
  lu.assertEquals(#assert(u:read(5000)), 1)
  assert(u:copy(memory, 0, "x", "dontwake"))
  assert(u:wake(memory, 0, page))
  lu.assertEquals(thread:join(), "x")
  assert(u:wake(memory))
end

-- Events

function tests.test_read_times_out()
  local u <close> = open()
  lu.assertEquals(u:read(), {})
  lu.assertEquals(u:read(0), {})
  lu.assertEquals(u:read(5), {})
  raises("milliseconds", u.read, u, -2)
  raises("1 or more", u.read, u, 0, 0)
end

function tests.test_pagefault_event()
  local u <close> = open { optional = "thread_id" }
  local memory <close> = map(2)
  assert(u:register(memory, "missing"))
  local thread = toucher.start("write", memory.address + page + 5, 1, page, 9)
  local event = assert(u:read(5000, 1))[1]
  lu.assertEquals(event.type, "pagefault")
  lu.assertEquals(event.kind, "missing")
  lu.assertIsTrue(event.write)
  lu.assertEquals(event.page, memory.address + page)
  lu.assertEquals(event.page_size, page)
  lu.assertEquals(event.flags & 1, 1)
  lu.assertEquals(event.tid > 0, (u:has "thread_id"))
  local pending, total = u:pending()
  lu.assertEquals({ pending, total }, { 0, 1 })
  assert(u:copy(event.page, "x"))
  thread:join()
  lu.assertEquals(memory:read(page, 6), "x\0\0\0\0\9")
end

function tests.test_pending()
  local u <close> = open()
  local memory <close> = map(1)
  assert(u:register(memory, "missing"))
  lu.assertEquals({ u:pending() }, { 0, 0 })
  local thread = toucher.start("read", memory.address, page)
  lu.skipIf(not thread:asleep(), "this kernel does not tell where threads sleep")
  lu.assertEquals({ u:pending() }, { 1, 1 })
  assert(u:zeropage(memory))
  thread:join()
end

function tests.test_huge_page_event_names_the_huge_page()
  support.with_huge_pages(1, function(memory)
    local u <close> = open()
    assert(u:register(memory.address, memory.size, "missing"))
    local thread = toucher.start("read", memory.address + 12345, 1)
    local event = first_event(u)
    lu.assertEquals(event.page, memory.address)
    lu.assertEquals(event.page_size, 2 << 20)
    lu.assertEquals(u:copy(event.page, ("h"):rep(12346)), 2 << 20)
    lu.assertEquals(thread:join(), "h")
  end)
end

function tests.test_minor_event()
  support.needs "minor_shmem"
  local u <close> = open()
  local memory <close> = map(1, "memfd")
  assert(u:register(memory, "missing|minor"))
  assert(memory.alias:write(0, "q"))
  local thread = toucher.start("read", memory.address, page)
  local event = first_event(u)
  lu.assertEquals(event.kind, "minor")
  assert(u:continue(event.page, event.page_size))
  lu.assertEquals(thread:join(), "q")
end

function tests.test_remove_event_comes_before_faults()
  support.needs "event_remove"
  local u <close> = open { features = "event_remove" }
  local memory <close> = map(4)
  assert(u:register(memory, "missing"))
  assert(u:copy(memory, page, ("r"):rep(page)))
  local reader = toucher.start("read", memory.address, page)
  local dropper = toucher.start("drop", memory.address + page, page)
  lu.skipIf(not reader:asleep() or not dropper:asleep(), "this kernel does not tell where threads sleep")
  local types = {}
  for event in u:events(200) do
    types[#types + 1] = event.type
    if event.type == "remove" then
      lu.assertEquals(event.address, memory.address + page)
      lu.assertEquals(event.length, page)
      dropper:join()
    else
      assert(u:copy(event.page, "f"))
    end
  end
  lu.assertEquals(reader:join(), "f")
  lu.assertEquals(types, { "remove", "pagefault" })
end

function tests.test_unmap_event()
  support.needs "event_unmap"
  local u <close> = open { features = "event_unmap" }
  local address = toucher.map(4 * page)
  assert(u:register(address, 4 * page, "missing"))
  local thread = toucher.start("unmap", address, 4 * page)
  local event = assert(u:read(5000))[1]
  lu.assertEquals(event.type, "unmap")
  lu.assertEquals({ event.address, event.length }, { address, 4 * page })
  thread:join()
end

function tests.test_fork_event_brings_the_childs_object()
  support.needs_root()
  local u <close> = open { features = "event_fork" }
  local memory <close> = assert(uffd.map { size = page, fork = true })
  assert(u:register(memory, "missing"))
  local thread = toucher.start "fork"
  local event = first_event(u)
  lu.assertEquals(event.type, "fork")
  lu.assertEquals(event.object:features(), { "event_fork" })
  lu.assertIsTrue(event.object:close())
  thread:join()
end

-- What was read and not taken is not lost when a loop is left.
function tests.test_leaving_the_iterator_keeps_the_rest()
  local u <close> = open()
  local memory <close> = map(4)
  assert(u:register(memory, "missing"))
  local threads = {}
  for i = 1, 4 do threads[i] = toucher.start("read", memory.address + (i - 1) * page, page) end
  for _, thread in ipairs(threads) do
    lu.skipIf(not thread:asleep(), "this kernel does not tell where threads sleep")
  end
  for _ = 1, 4 do assert(u:copy(first_event(u).page, "k")) end
  for _, thread in ipairs(threads) do lu.assertEquals(thread:join(), "k") end
end

function tests.test_events_of_a_closed_object_raise()
  local u = open()
  local next_event = u:events(0)
  u:close()
  raises("closed uffd.object", next_event, u)
end

return tests
