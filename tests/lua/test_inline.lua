-- The inline engine from Lua: policies that run in the faulting threads' signal handlers.
local lu = require "luaunit"
local support = require "support"
local toucher = require "toucher"
local uffd = require "uffd"

local page = 4096
local tests = {}

local function serve(resolver, pages, options)
  support.needs "sigbus"
  local memory = assert(uffd.map { size = pages * page })
  local loop = assert(uffd.serve {
    { memory = memory, resolver = resolver, around = options and options.around or "page" },
    engine = "inline", on_error = options and options.on_error,
  })
  return loop, memory
end

function tests.test_engine_and_why()
  local loop <close>, memory = serve(uffd.resolver.zero(), 1)
  local engine, why = loop:engine()
  lu.assertEquals(engine, "inline")
  lu.assertStrContains(why, "asked for")
  lu.assertStrContains(tostring(loop), "inline")
  local pump <close> = assert(uffd.serve { engine = "pump" })
  lu.assertEquals((pump:engine()), "pump")
  lu.assertEquals(memory:read(0, 1), "\0")
end

function tests.test_auto_is_inline_where_it_costs_nothing()
  support.needs "sigbus"
  local loop <close> = assert(uffd.serve { user_mode_only = true })
  local engine, why = loop:engine()
  lu.assertEquals(engine, "inline")
  lu.assertStrContains(why, "user-mode-only")
end

-- Each thread that faults takes one of the prepared states: none is ever in two threads.
function tests.test_policy_in_faulting_threads()
  local policy = uffd.resolver.policy(function()
    local calls = 0
    return function(fault)
      calls = calls + 1
      return string.pack("<I8I8I8", fault.offset, fault.tid, calls)
    end
  end)
  local loop <close>, memory = serve(policy, 256)
  local threads = {}
  for i = 0, 3 do threads[i + 1] = toucher.start("read", memory.address + i * 64 * page, 64 * page) end
  for _, thread in ipairs(threads) do thread:join() end
  local tids, calls = {}, 0
  for i = 0, 255 do
    local offset, tid = string.unpack("<I8I8", memory:read(i * page, 16))
    lu.assertEquals(offset, i * page)
    lu.assertTrue(tid > 0)
    tids[tid] = true
  end
  for _ in pairs(tids) do calls = calls + 1 end
  lu.assertEquals(calls, 4)
  local stats = loop:stats()
  lu.assertEquals({ stats.faults, stats.policy_calls, stats.copied, stats.errors }, { 256, 256, 256, 0 })
end

function tests.test_a_policy_that_fails()
  local policy = uffd.resolver.policy(function()
    return function(fault) if fault.offset > 0 then error "no such page" end end
  end)
  local loop <close>, memory = serve(policy, 3)
  lu.assertEquals(memory:read(0, 1), "\0")
  support.fails("EHWPOISON", "poisoned", memory:read(page, 1))
  local thread = toucher.start("read", memory.address, 3 * page)
  local _, faulted = thread:join()
  lu.assertEquals(faulted, 2)
  lu.assertStrContains((loop:error()), "no such page")
end

function tests.test_garbage_is_collected()
  local policy = uffd.resolver.policy(function()
    return function(fault) return ("%8d"):format(fault.offset):rep(512) end
  end, nil, { memory = "1M" })
  local loop <close>, memory = serve(policy, 4096)
  toucher.start("read", memory.address, 4096 * page):join()
  lu.assertEquals(loop:stats().errors, 0)
  lu.assertEquals(memory:read(4095 * page, 16), ("%8d"):format(4095 * page):rep(2))
end

function tests.test_around_auto()
  local loop <close>, memory = serve(uffd.resolver.bytes { pattern = "abcd" }, 1024, { around = "auto" })
  toucher.start("read", memory.address, 1024 * page):join()
  local stats = loop:stats()
  lu.assertEquals(stats.copied + stats.moved, 1024)
  lu.assertTrue(stats.faults < 40, stats.faults .. " faults")
  support.raises("around", function()
    return uffd.serve { { memory = memory, resolver = uffd.resolver.zero(), around = "always" } }
  end)
end

function tests.test_prefault()
  local loop <close>, memory = serve(uffd.resolver.bytes { pattern = "xy" }, 8)
  lu.assertTrue(memory:prefault(page, 2 * page))
  lu.assertEquals(loop:stats().copied, 2)
  lu.assertTrue(memory:prefault())
  lu.assertEquals(loop:stats().copied, 8)
  support.raises("outside", function() memory:prefault(8 * page, 1) end)
end

return tests
