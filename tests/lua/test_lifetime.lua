-- Handles: closed, closed twice, collected, left by <close>, used in a forked child, closed while faults wait.
local lu = require "luaunit"
local support = require "support"
local toucher = require "toucher"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local tests = {}

local function map(pages, kind)
  return assert(uffd.map { size = pages * page, kind = kind })
end

local function letters(pages)
  return assert(uffd.resolver.bytes(support.letters(pages)))
end

-- Twice: what is finalised in the first round goes in the second.
local function collect()
  collectgarbage()
  collectgarbage()
end

-- One of each class, and a method that needs it open.
local function handles()
  local memory = map(1)
  local loop = assert(uffd.serve { { memory = memory, resolver = letters(1) } })
  return {
    { assert(uffd.open()), "fd", "uffd.object" },
    { map(1), "read", "uffd.memory" },
    { letters(1), nil, "uffd.resolver" },
    { loop, "stats", "uffd.loop" },
    { assert(loop:regions()[1]:prefetch { background = true }), "status", "uffd.prefetch" },
  }, loop:regions()[1], loop
end

function tests.test_closing_twice()
  for _, entry in ipairs((handles())) do
    lu.assertIsTrue(entry[1]:close())
    lu.assertIsTrue(entry[1]:close())
    lu.assertEquals(tostring(entry[1]), entry[3] .. " (closed)")
  end
end

function tests.test_use_after_close_raises()
  local list, region = handles()
  for _, entry in ipairs(list) do
    local handle, method, name = table.unpack(entry, 1, 3)
    handle:close()
    if method then raises("closed " .. name, handle[method], handle) end
  end
  raises("closed uffd.memory", function() return list[2][1].size end)
  raises("closed uffd.memory", function() return #list[2][1] end)
  raises("closed uffd.resolver", function() return list[3][1].size end)
  raises("its loop is closed", region.prefetch, region)
  lu.assertEquals(tostring(region), "uffd.region (closed)")
  raises("closed uffd.memory", uffd.serve, { { memory = list[2][1], resolver = letters(1) } })
  raises("closed uffd.resolver", uffd.serve, { { memory = map(1), resolver = list[3][1] } })
  raises("closed uffd.loop", list[4][1].add, list[4][1], { memory = map(1), resolver = letters(1) })
end

function tests.test_methods_of_another_class_raise()
  local memory = map(1)
  local loop <close> = assert(uffd.serve {})
  raises("uffd.memory expected, got uffd.loop", memory.read, loop)
  raises("uffd.loop expected, got uffd.memory", loop.stats, memory)
  raises("uffd.loop expected, got string", loop.close, "loop")
  raises("uffd.object expected", assert(uffd.open()).read, 1)
end

function tests.test_to_be_closed()
  local kept = {}
  do
    local memory <close> = map(1)
    local u <close> = assert(uffd.open())
    local bytes <close> = letters(1)
    local loop <close> = assert(uffd.serve { { memory = memory, resolver = bytes } })
    for _, handle in ipairs { memory, u, bytes, loop } do kept[#kept + 1] = handle end
  end
  for _, handle in ipairs(kept) do lu.assertStrContains(tostring(handle), "(closed)") end
end

-- Handler threads end with the loop, whoever closes it. A handler has two: the ordinary one, and a companion.
function tests.test_threads_are_joined()
  collect()
  local before = toucher.handlers()
  local loop = assert(uffd.serve { handlers = 4, { memory = map(4), resolver = letters(4) } })
  lu.assertEquals(toucher.handlers(), before + 2 * 4)
  loop:close()
  lu.assertEquals(toucher.handlers(), before)
end

function tests.test_collected_without_close()
  collect()
  local before = toucher.handlers()
  do
    local memory = map(4)
    local loop = assert(uffd.serve { handlers = 2, { memory = memory, resolver = letters(4) } })
    lu.assertEquals(memory:read(0, 1), "a")
    support.counts(loop, { faults = 1 })
    lu.assertEquals(toucher.handlers(), before + 2 * 2)
    loop = nil -- luacheck: ignore 311
  end
  collect()
  lu.assertEquals(toucher.handlers(), before)
end

-- The variable that is left is the memory: its pages are still what they should be.
function tests.test_memory_keeps_its_loop()
  collect()
  local before = toucher.handlers()
  local function start()
    local memory = map(4)
    assert(uffd.serve { engine = "threads", { memory = memory, resolver = letters(4) } })
    return memory
  end
  local memory = start()
  collect()
  lu.assertEquals(memory:read(page, 1), "b")
  lu.assertEquals(toucher.handlers(), before + 2)
  memory = nil -- luacheck: ignore 311
  collect()
  lu.assertEquals(toucher.handlers(), before)
end

-- What is complete, removed or closed keeps nothing.
function tests.test_memory_lets_its_loop_go()
  local ends = {
    function(loop) assert(loop:complete()) end,
    function(loop) assert(loop:regions()[1]:complete()) end,
    function(loop) assert(loop:regions()[1]:remove()) end,
    function(_, memory) memory:close() end,
  }
  for _, finish in ipairs(ends) do
    collect()
    local before = toucher.handlers()
    local memory = map(4)
    local function start() finish(assert(uffd.serve { { memory = memory, resolver = letters(4) } }), memory) end
    start()
    collect()
    lu.assertEquals(toucher.handlers(), before)
  end
end

-- Collected while pages are missing: a warning says so. Messages that nobody has read go to stderr.
function tests.test_what_a_collected_loop_tells()
  local script = [[
    local uffd = require "uffd"
    warn "@on"
    io.stderr:setvbuf "no"
    local function start(finish)
      local memory <close> = assert(uffd.map { size = 4 * 4096 })
      local loop = assert(uffd.serve { { memory = memory, resolver = uffd.resolver.policy(function()
        return function(fault) print("asked for " .. fault.offset) end
      end) } })
      memory:read(4096, 1)
      if finish then assert(loop:complete()) end
    end
    start(false)
    collectgarbage() collectgarbage()
    print "next"
    io.stdout:flush()
    start(true)
    collectgarbage() collectgarbage()
  ]]
  local pipe = support.child(script, "r", "2>&1")
  local text = pipe:read "a"
  pipe:close()
  local first, second = text:match "^(.-)next\n(.*)$"
  lu.assertStrContains(first, "policy: asked for 4096\n")
  lu.assertStrContains(first, "collected before loop:close()")
  lu.assertStrContains(second, "policy: asked for 12288\n")
  lu.assertNil(second:find("collected", 1, true))
end

-- A region keeps its loop, a loop does not need the handles of what it serves.
function tests.test_what_keeps_what()
  collect()
  local before = toucher.handlers()
  local function start()
    local loop = assert(uffd.serve { engine = "threads" })
    local memory = map(4)
    local address = memory.address
    local region = assert(loop:add { memory = memory, resolver = uffd.resolver.policy(function()
      return function(fault) return "page " .. fault.offset // fault.page_size end
    end) })
    return region, address
  end
  local region, address = start()
  collect()
  lu.assertEquals(toucher.handlers(), before + 2)
  lu.assertEquals(toucher.start("read", address + page + 5, 1):join(), "1")
  assert(region:complete())
  region = nil -- luacheck: ignore 311
  collect()
  lu.assertEquals(toucher.handlers(), before)
end

-- An object given to a loop that was made before it is finalised first: the loop still has it.
function tests.test_an_object_that_is_younger_than_its_loop()
  collect()
  local before = toucher.handlers()
  do
    local loop = assert(uffd.serve { engine = "threads" })
    local u = assert(uffd.open())
    assert(loop:add { memory = map(1), resolver = letters(1), object = u })
    loop, u = nil, nil -- luacheck: ignore 311
  end
  collect()
  lu.assertEquals(toucher.handlers(), before)
end

function tests.test_memory_may_be_closed_while_it_is_served()
  local memory = map(2)
  local address = memory.address
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = letters(2) } })
  memory:close()
  lu.assertEquals(toucher.start("read", address, 2 * page):join(), "ab")
  support.counts(loop, { faults = 2 })
end

-- Closing and faults

-- A policy that holds faults back until the loop closes: the sleepers go on, nobody hangs.
function tests.test_closing_while_faults_wait()
  local slow = assert(uffd.resolver.policy(function()
    return function()
      local until_then = os.clock() + 0.05
      repeat until os.clock() > until_then
      return "s"
    end
  end))
  local memory, loop = support.serve(slow, 8)
  local threads = {}
  for i = 1, 8 do threads[i] = toucher.start("read", memory.address + (i - 1) * page, page) end
  for _, thread in ipairs(threads) do thread:asleep() end
  lu.assertIsTrue(loop:close())
  for _, thread in ipairs(threads) do
    local seen, faulted = thread:join()
    lu.assertTrue(seen == "s" or seen == "\0")
    lu.assertEquals(faulted, 0)
  end
end

function tests.test_closing_an_object_with_sleepers()
  local u = assert(uffd.open())
  local memory <close> = map(2)
  assert(u:register(memory, "missing"))
  local threads = { toucher.start("read", memory.address, page), toucher.start("read", memory.address + page, page) }
  for _, thread in ipairs(threads) do
    lu.skipIf(not thread:asleep(), "this kernel does not tell where threads sleep")
  end
  lu.assertEquals(#assert(u:read(0, 1)), 1)
  u:close()
  for _, thread in ipairs(threads) do lu.assertEquals(thread:join(), "\0") end
end

function tests.test_closing_while_threads_touch()
  for _ = 1, 10 do
    local memory, loop = support.serve(letters(64), 64, { handlers = 2 })
    local thread = toucher.start("read", memory.address, memory.size)
    while loop:stats().faults < 3 do assert(memory:read(0, 1)) end
    loop:close()
    local seen, faulted = thread:join()
    lu.assertEquals({ #seen, faulted }, { 64, 0 })
  end
end

-- Forked children

-- What f raises or returns in a forked child.
local function in_child(f)
  local ok, text = toucher.fork(f)
  lu.assertIsBoolean(ok, text)
  return ok, text
end

function tests.test_handles_in_a_forked_child()
  local list, region = handles()
  for _, entry in ipairs(list) do
    local handle, method, name = table.unpack(entry, 1, 3)
    local ok, text = in_child(function()
      if method then return handle[method](handle) end
      return handle.size
    end)
    lu.assertFalse(ok)
    lu.assertStrContains(text, "uffd." .. name:match "%.(.*)")
    lu.assertStrContains(text, "forked child")
  end
  local ok, text = in_child(function() region:prefetch() end)
  lu.assertFalse(ok)
  lu.assertStrContains(text, "forked child")
  for _, entry in ipairs(list) do
    if entry[2] then lu.assertNotNil(entry[1][entry[2]](entry[1])) end
  end
end

-- In a child, closing only frees: the parent's loop serves on.
function tests.test_closing_in_a_forked_child()
  local memory, served = support.serve(assert(uffd.resolver.policy(function()
    return function() return "policy" end
  end)), 4)
  local loop <close> = served
  local u <close> = assert(uffd.open())
  lu.assertEquals(memory:read(0, 6), "policy")
  local ok, text = in_child(function()
    loop:close()
    u:close()
    memory:close()
    collectgarbage()
    return tostring(loop) .. tostring(u) .. tostring(memory)
  end)
  lu.assertTrue(ok, text)
  lu.assertEquals(text, "uffd.loop (closed)uffd.object (closed)uffd.memory (closed)")
  lu.assertEquals(memory:read(page, 6), "policy")
  lu.assertIsTrue(u:fd() > 2)
end

-- A child may have loops of its own, with policies.
function tests.test_a_loop_made_in_a_forked_child()
  lu.skipIf(not toucher.children_have_threads(), "ThreadSanitizer ends children that start threads")
  local function factory() return function(fault) return "page " .. fault.offset end end
  local parents, served = support.serve(assert(uffd.resolver.policy(factory)), 1)
  local loop <close> = served
  assert(parents:read(0, 1))
  local ok, text = in_child(function()
    local memory, own = support.serve(assert(uffd.resolver.policy(factory)), 2)
    local data = assert(memory:read(page, page)):match "^%Z+"
    own:close()
    return data
  end)
  lu.assertTrue(ok, text)
  lu.assertEquals(text, "page " .. page)
  lu.assertNil(loop:error())
end

-- Limits

-- A loop whose only region was refused, at whatever step, gives all of its descriptors back.
function tests.test_what_fails_leaves_no_descriptor()
  local bad = assert(uffd.resolver.policy(function() error "not today" end))
  local taken = map(1)
  local u <close> = assert(uffd.open())
  assert(u:register(taken, "missing"))
  collect()
  local before = toucher.descriptors()
  for _ = 1, 3 do
    fails("EIO", "not today", uffd.serve { { memory = map(1), resolver = bad } })
    fails("EBUSY", nil, uffd.serve { { memory = taken, resolver = letters(1) } })
    fails("EINVAL", nil, uffd.serve { { memory = map(2), resolver = letters(1) } })
    fails("ENOENT", nil, uffd.resolver.file "/nowhere")
    fails("EINVAL", nil, uffd.open { features = 1 << 40 })
  end
  collect()
  lu.assertEquals(toucher.descriptors(), before)
end

function tests.test_no_descriptors_left()
  local u = assert(uffd.open())
  local highest = u:fd()
  u:close()
  local before = toucher.limit_files(highest)
  local _ <close> = setmetatable({}, { __close = function() toucher.limit_files(before) end })
  local held = {}
  repeat
    local file = io.open "/dev/null"
    held[#held + 1] = file
  until not file
  fails("EMFILE", nil, uffd.open())
  fails("EMFILE", nil, uffd.map { size = page, kind = "memfd" })
  fails("EMFILE", nil, uffd.resolver.file "/proc/self/exe")
  local loop, message, errno = uffd.serve { { memory = map(1), resolver = letters(1) } }
  fails("EMFILE", nil, loop, message, errno)
  for _, file in ipairs(held) do file:close() end
end

return tests
