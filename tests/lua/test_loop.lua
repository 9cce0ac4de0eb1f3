-- Loops with handler threads: regions, prefetch and complete, failures, statistics, traces, objects of one's own.
local lu = require "luaunit"
local support = require "support"
local toucher = require "toucher"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local resolver = uffd.resolver
local tests = {}

local function map(pages, kind)
  return assert(uffd.map { size = pages * page, kind = kind })
end

local function letters(pages)
  return assert(resolver.bytes(support.letters(pages)))
end

function tests.test_empty_loop_and_add()
  local loop <close> = assert(uffd.serve {})
  lu.assertEquals(loop:regions(), {})
  lu.assertEquals(tostring(loop), ("uffd.loop (%s, 0 regions)"):format(loop:engine()))
  local memory <close> = map(4)
  local region = assert(loop:add { memory = memory, resolver = letters(4) })
  lu.assertEquals({ region.offset, region.length, region.page_size, region.index }, { 0, 4 * page, page, 1 })
  lu.assertEquals(loop:regions(), { region })
  lu.assertStrContains(tostring(region), "uffd.region (" .. 4 * page .. " bytes at 0")
  lu.assertEquals(memory:read(), support.letters(4))
end

function tests.test_regions_of_several_memories()
  local first <close>, second = map(4), map(4)
  local other <close> = second
  local loop <close> = assert(uffd.serve {
    handlers = 2,
    { memory = first, resolver = letters(4), offset = page, length = 2 * page, around = "page" },
    { memory = first, resolver = letters(4), offset = 3 * page, from = "4K", around = "4K" },
    { memory = other, resolver = resolver.bytes { pattern = "o" }, around = 0 },
  })
  lu.assertEquals(first:read(), ("\0"):rep(page) .. support.letters(2) .. ("b"):rep(page))
  lu.assertEquals(other:read(), ("o"):rep(4 * page))
  lu.assertEquals(#loop:regions(), 3)
  lu.assertEquals(loop:regions()[2].offset, 3 * page)
  support.counts(loop, { faults = 7 })
end

function tests.test_add_refuses()
  local loop <close> = assert(uffd.serve {})
  local memory <close> = map(4)
  fails("EINVAL", nil, loop:add { memory = memory, resolver = letters(4), offset = 1 })
  fails("EINVAL", nil, loop:add { memory = memory, resolver = letters(4), length = 5 * page })
  fails("EINVAL", nil, loop:add { memory = memory, resolver = letters(4), offset = 5 * page })
  fails("EINVAL", nil, loop:add { memory = memory, resolver = letters(4), offset = math.maxinteger - page + 1 })
  fails("EINVAL", nil, loop:add { memory = memory, resolver = letters(4), length = math.maxinteger - page + 1 })
  fails("EINVAL", nil, loop:add { memory = memory, resolver = letters(4), from = math.maxinteger })
  raises("bytes are an integer", loop.add, loop, { memory = memory, resolver = letters(4), around = 0 / 0 })
  raises("bytes are an integer", loop.add, loop, { memory = memory, resolver = letters(4), offset = -page })
  assert(loop:add { memory = memory, resolver = letters(4), around = math.maxinteger })
  fails("EBUSY", nil, loop:add { memory = memory, resolver = letters(4) })
  lu.assertEquals(#loop:regions(), 1)
  local u <close>, others = assert(uffd.open()), map(1)
  assert(u:register(others, "missing"))
  fails("EBUSY", nil, loop:add { memory = others, resolver = letters(1) })
end

function tests.test_unknown_options()
  local memory <close> = map(1)
  raises("unknown option 'handler'", uffd.serve, { handler = 2 })
  raises("unknown option 'resolvers'", uffd.serve, { { memory = memory, resolvers = letters(1) } })
  raises("a region needs a memory", uffd.serve, { { resolver = letters(1) } })
  raises("a region needs a resolver", uffd.serve, { { memory = memory } })
  raises("uffd.resolver expected", uffd.serve, { { memory = memory, resolver = "zero" } })
  raises("unknown on_error 'explode'", uffd.serve, { on_error = "explode" })
  raises("unknown engine 'steam'", uffd.serve, { engine = "steam" })
  raises("unknown feature 'fork'", uffd.serve, { features = "fork" })
  raises("table of options expected, got nil", uffd.serve)
  raises("must not be negative", uffd.serve, { handlers = -1 })
  fails("EINVAL", nil, uffd.serve { handlers = 65 })
  local loop <close> = assert(uffd.serve {})
  raises("table of options expected", loop.add, loop, memory)
  raises("unknown option 'size'", loop.add, loop, { memory = memory, resolver = letters(1), size = page })
  raises("unknown mode 'writing'", loop.add, loop, { memory = memory, resolver = letters(1), modes = "writing" })
end

-- A mistake in an option is told with the line of the program, not with one of ours or of who called the program.
function tests.test_mistakes_have_the_programs_line()
  local memory <close> = map(1)
  local loop <close>, zero = assert(uffd.serve {}), assert(resolver.zero())
  local function at_the_second_line(f)
    local message = raises("", f)
    local line = debug.getinfo(f, "S").linedefined + 1
    lu.assertStrContains(message, ("test_loop.lua:%d: "):format(line))
  end
  for _, wrong in ipairs { { offset = -1 }, { around = "much" }, { retry_for = -1 }, { size = 1 }, { resolver = 5 },
    { modes = "x" }, { on_error = 7 } } do
    local entry = { memory = memory, resolver = zero }
    for name, value in pairs(wrong) do entry[name] = value end
    at_the_second_line(function()
      local region = loop:add(entry)
      return region
    end)
    at_the_second_line(function()
      local other = uffd.serve { entry }
      return other
    end)
  end
  for _, wrong in ipairs { { retry_for = "soon" }, { engine = "steam" }, { trace_to = 7 }, { trace_to = {} },
    { trace_to = { "x.csv", format = "xml" } }, { trace_to = { "x.csv", formats = 1 } }, { wrong = 1 } } do
    at_the_second_line(function()
      local other = uffd.serve(wrong)
      return other
    end)
    if wrong.trace_to then
      at_the_second_line(function()
        local done = loop:trace_to(wrong.trace_to)
        return done
      end)
    end
  end
  at_the_second_line(function()
    local faulty = resolver.faulty { below = zero, delay = "soon" }
    return faulty
  end)
end

-- A serve that fails half-way leaves nothing behind.
function tests.test_serve_that_fails_lets_go()
  local memory <close> = map(2)
  fails("EINVAL", nil, uffd.serve {
    { memory = memory, resolver = letters(2) },
    { memory = map(2), resolver = letters(1) },
  })
  raises("a region needs", uffd.serve, { { memory = memory, resolver = letters(2) }, {} })
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = letters(2) } })
  lu.assertEquals(memory:read(), support.letters(2))
  support.counts(loop, { faults = 2 })
end

function tests.test_around()
  local memory, served = support.serve(letters(16), 16, { around = 4 * page })
  local loop <close> = served
  lu.assertEquals(memory:read(), support.letters(16))
  support.counts(loop, { faults = 4 })
  support.counts(loop, { copied = 16 })
end

function tests.test_prefetch_and_complete()
  local memory, served = support.serve(letters(8), 8)
  local loop <close> = served
  lu.assertIsTrue(loop:prefetch(0, 2 * page))
  lu.assertIsTrue(loop:prefetch(2 * page, 2 * page, 1))
  lu.assertEquals(memory:read(0, 4 * page), support.letters(4))
  support.counts(loop, { faults = 0, prefetched = 4 })
  local region = loop:regions()[1]
  lu.assertIsTrue(loop:prefetch(4 * page, page, region))
  lu.assertIsTrue(region:prefetch(0, 5 * page))
  fails("ERANGE", nil, loop:prefetch(0, 9 * page))
  raises("no region 2", loop.prefetch, loop, 0, page, 2)
  lu.assertIsTrue(loop:complete())
  lu.assertIsTrue(loop:complete())
  lu.assertIsTrue(region:complete())
  fails("ENOENT", nil, loop:prefetch())
  lu.assertEquals(memory:read(), support.letters(8))
  support.counts(loop, { faults = 0 })
  loop:close()
  lu.assertEquals(memory:read(), support.letters(8))
end

function tests.test_prefetch_of_ranges()
  local memory, served = support.serve(letters(16), 16)
  local loop <close> = served
  local region = loop:regions()[1]
  lu.assertIsTrue(region:prefetch { ranges = { { 8 * page, "4K" }, { 0, 2 * page }, { page, page } } })
  support.counts(loop, { prefetched = 3 })
  lu.assertIsTrue(region:prefetch { ranges = {} })
  lu.assertIsTrue(region:prefetch { ranges = { { 3 * page, page } }, rate = "1G" })
  support.counts(loop, { prefetched = 4 })
  fails("ERANGE", nil, region:prefetch { ranges = { { 16 * page, 1 } } })
  raises("unknown option 'speed'", region.prefetch, region, { speed = 1 })
  raises("a list of", region.prefetch, region, { ranges = 7 })
  raises("a table of options expected", region.prefetch, region, { ranges = { 7 } })
  raises("offset: bytes are", region.prefetch, region, { ranges = { { -1, 1 } } })
  raises("rate: bytes are", region.prefetch, region, { rate = "fast" })
  lu.assertIsTrue(region:prefetch {})
  lu.assertEquals(memory:read(), support.letters(16))
  support.counts(loop, { faults = 0, prefetched = 16 })
end

function tests.test_prefetch_in_the_background()
  local memory, served = support.serve(letters(16), 16)
  local loop <close> = served
  local region = loop:regions()[1]
  local slow <close> = assert(region:prefetch { rate = 1, background = true }) -- a page is hours
  local prefetch <close> = assert(region:prefetch { ranges = { { 9 * page, 3 * page } }, background = true })
  lu.assertIsTrue(prefetch:wait())
  lu.assertEquals(prefetch:status(), { done = true, bytes_wanted = 3 * page, bytes_done = 3 * page })
  lu.assertEquals(tostring(prefetch), ("uffd.prefetch (%d of %d bytes)"):format(3 * page, 3 * page))
  lu.assertIsFalse(slow:wait(0))
  lu.assertIsFalse(slow:status().done)
  lu.assertEquals(memory:read(9 * page, 3 * page), support.letters(12):sub(9 * page + 1))
  loop:close()
  fails("ECANCELED", "closed", slow:wait())
  lu.assertEquals(slow:status().error, uffd.errno.ECANCELED)
end

function tests.test_remove()
  local memory, served = support.serve(letters(4), 4)
  local loop <close> = served
  lu.assertEquals(memory:read(0, page), support.letters(1))
  local region = loop:regions()[1]
  lu.assertIsTrue(region:remove())
  lu.assertIsTrue(region:remove())
  lu.assertEquals(memory:read(), support.letters(1) .. ("\0"):rep(3 * page))
  fails("ENOENT", nil, region:prefetch())
  assert(loop:add { memory = memory, resolver = letters(4) })
end

function tests.test_a_region_of_another_loop()
  local first, a = support.serve(letters(1), 1)
  local second, b = support.serve(letters(1), 1)
  local loop <close>, other = a, b
  raises("another loop", loop.prefetch, loop, 0, page, other:regions()[1])
  lu.assertEquals(first:read() .. second:read(), support.letters(1):rep(2))
  other:close()
end

function tests.test_write_faults()
  support.needs "pagefault_flag_wp"
  local memory <close> = map(2)
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = letters(2), modes = { "missing", "wp" } } })
  lu.assertEquals(memory:read(), support.letters(2))
  toucher.start("write", memory.address, 2 * page, page, 66):join()
  support.counts(loop, { missing = 2, wp = 2, unprotected = 2 })
  lu.assertEquals(memory:read(0, 2), "Ba")
end

function tests.test_on_error()
  local path <const>, _ <close> = support.file(support.letters(2))
  local function shrunk(on_error, region_error)
    local file = assert(io.open(path, "wb"))
    file:write(support.letters(2))
    file:close()
    local memory, loop = support.serve(assert(resolver.file(path)), 2,
      { on_error = on_error, region_error = region_error })
    assert(io.open(path, "wb")):close()
    return memory, loop
  end
  local memory, loop = shrunk "zero"
  lu.assertNil(loop:error())
  lu.assertEquals(memory:read(), ("\0"):rep(2 * page))
  local sentence, errno = loop:error()
  lu.assertIsString(sentence)
  lu.assertIsString(uffd.errno[errno])
  support.counts(loop, { errors = 2 })
  loop:close()
  support.needs "poison"
  memory, loop = shrunk("zero", "poison")
  fails("EHWPOISON", nil, memory:read())
  loop:close()
  memory, loop = shrunk "stop"
  fails("EHWPOISON", nil, memory:read())
  fails("ECANCELED", nil, loop:add { memory = map(1), resolver = letters(1) })
  loop:close()
end

function tests.test_histograms()
  local first <close>, second = map(4), map(4)
  local other <close> = second
  local loop <close> = assert(uffd.serve {
    { memory = first, resolver = letters(4), around = "page" }, { memory = other, resolver = resolver.zero() },
  })
  local regions = loop:regions()
  lu.assertEquals(#loop:histogram(), 0)
  lu.assertEquals({ regions[1]:histogram().count, regions[1]:histogram():percentile(99) }, { 0, 0 })
  lu.assertEquals(first:read(), support.letters(4))
  assert(other:read(0, page))
  local all, of_first, of_other = loop:histogram(), regions[1]:histogram(), regions[2]:histogram()
  lu.assertEquals({ all.count, of_first.count, of_other.count }, { 5, 4, 1 })
  local before, sum = -1, 0
  for _, bucket in ipairs(all) do
    lu.assertTrue(bucket.up_to_ns > before and bucket.count > 0)
    before, sum = bucket.up_to_ns, sum + bucket.count
  end
  lu.assertEquals(sum, 5)
  lu.assertEquals(all:percentile(0), all[1].up_to_ns)
  lu.assertEquals(all:percentile(100), all[#all].up_to_ns)
  lu.assertEquals(math.min(all:percentile(50), loop:stats().latency_max), loop:stats().latency_p50)
  raises("from 0 to 100, not 101", all.percentile, all, 101)
  raises("from 0 to 100, not x", all.percentile, all, "x")
  assert(regions[1]:remove())
  lu.assertEquals(regions[1]:histogram().count, 4)
  loop:close()
  raises("closed", loop.histogram, loop)
  raises("its loop is closed", regions[1].histogram, regions[1])
end

function tests.test_set_resolver()
  local memory <close> = map(2)
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = letters(2) } })
  local region = loop:regions()[1]
  lu.assertEquals(memory:read(0, 1), "a")
  local policy = assert(resolver.policy(function()
    print "made anew"
    return function() return "p" end
  end))
  lu.assertIsTrue(region:set_resolver(policy))
  lu.assertEquals(loop:messages()(loop), "made anew")
  policy:close()
  lu.assertEquals({ memory:read(0, 1), memory:read(page, 1) }, { "a", "p" })
  assert(memory:discard(0, page))
  lu.assertEquals(memory:read(0, 1), "p")
  fails("EINVAL", "has 3 bytes", region:set_resolver(assert(resolver.bytes "abc")))
  raises("uffd.resolver expected", region.set_resolver, region, memory)
  assert(region:remove())
  fails("ENOENT", "removed", region:set_resolver(letters(2)))
end

function tests.test_retries_with_a_limit()
  support.needs "poison"
  local failing = assert(resolver.faulty { below = resolver.zero(), error = 1 })
  local memory, served = support.serve(failing, 1, {
    engine = "threads", on_error = "retry", retry_for = "20ms", retry_then = "zero",
  })
  local loop <close> = served
  local before = uffd.now()
  lu.assertEquals(memory:read(0, 1), "\0")
  lu.assertTrue(uffd.now() - before >= 0.02)
  local other = map(1)
  assert(loop:add { memory = other, resolver = failing, on_error = "retry", retry_for = 1 })
  fails("EHWPOISON", nil, other:read(0, 1))
  fails("EINVAL", "for on_error retry", uffd.serve { retry_for = "5s" })
  fails("EINVAL", "retry_then without", uffd.serve { engine = "threads", on_error = "retry", retry_then = "zero" })
  fails("EINVAL", "retry_then 4", uffd.serve {
    engine = "threads", on_error = "retry", retry_for = "1s", retry_then = "retry",
  })
  raises("uffd.serve: retry_for: a time is milliseconds", uffd.serve, { on_error = "retry", retry_for = "soon" })
  raises("loop:add: retry_for: a time is", loop.add, loop, { memory = other, resolver = failing, retry_for = -1 })
  raises("unknown retry_then 'pray'", uffd.serve, { on_error = "retry", retry_for = 1, retry_then = "pray" })
end

local function read_file(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

function tests.test_trace_to()
  local path, gone = support.file ""
  local _ <close> = gone
  local memory <close> = map(4)
  local loop <close> = assert(uffd.serve {
    { memory = memory, resolver = letters(4), around = "page" }, trace_to = { path, format = "csv", loop = 9 },
  })
  lu.assertEquals(memory:read(), support.letters(4))
  lu.assertIsTrue(loop:trace_to())
  lu.assertIsTrue(loop:trace_to(false))
  local lines = {}
  for line in read_file(path):gmatch "[^\n]+" do lines[#lines + 1] = line end
  lu.assertEquals(#lines, 5)
  lu.assertStrContains(lines[1], "latency_ns,loop,region,offset")
  for i = 2, 5 do lu.assertStrContains(lines[i], (",9,1,%d,%d,missing,"):format((i - 2) * page, page)) end
  lu.assertIsTrue(loop:trace_to { path, format = "ndjson", room = 2 })
  loop:close()
  lu.assertEquals(read_file(path), "")
  raises("closed", loop.trace_to, loop, path)
end

function tests.test_trace_to_refuses()
  local loop <close> = assert(uffd.serve {})
  fails("EINVAL", "tells no format", loop:trace_to "trace.txt")
  fails("ENOENT", "cannot be opened", loop:trace_to "/nowhere/trace.csv")
  fails("EINVAL", "Room for 1 records", loop:trace_to { "/dev/null", format = "csv", room = 1 })
  fails("ENOENT", "cannot be opened", uffd.serve { trace_to = "/nowhere/trace.csv" })
  raises("unknown format 'xml'", loop.trace_to, loop, { "/dev/null", format = "xml" })
  raises("the path of a file expected, got number", loop.trace_to, loop, 7)
  raises("the path of a file expected, got nil", loop.trace_to, loop, {})
  raises("unknown option 'formats'", loop.trace_to, loop, { "x.csv", formats = 1 })
  raises("unknown option 'formats'", uffd.serve, { trace_to = { "x.csv", formats = 1 } })
end

-- A disk that is full is told by loop:messages(), and by ending the trace.
function tests.test_trace_to_a_full_disk()
  local memory, served = support.serve(letters(2), 2, { trace_to = { "/dev/full", format = "ndjson" } })
  local loop <close> = served
  lu.assertEquals(memory:read(), support.letters(2))
  fails("ENOSPC", "/dev/full", loop:trace_to())
  local line, _, kind = loop:messages()(loop)
  lu.assertStrContains(line, "The trace /dev/full cannot be written")
  lu.assertEquals(kind, "failure")
  lu.assertNil(loop:error())
end

function tests.test_stats()
  local memory, served = support.serve(letters(4), 4)
  local loop <close> = served
  toucher.start("write", memory.address + page, page):join()
  assert(memory:read(0, 1))
  support.counts(loop, { faults = 2, missing = 2, writes = 1, copied = 2, bytes = 2 * page, latency_count = 2 })
  local stats = loop:stats()
  lu.assertIsTrue(stats.latency_max >= stats.latency_p50 and stats.latency_p50 > 0)
  for name, value in pairs(stats) do lu.assertIsTrue(math.type(value) == "integer", name) end
end

-- A fault is recorded after its thread was woken: whoever looks at once may be early.
local function take_traces(loop, count)
  local traces, dropped = {}, 0
  support.await(function()
    for trace in loop:traces() do
      traces[#traces + 1] = trace
      dropped = dropped + (trace.dropped or 0)
    end
    return #traces >= count
  end)
  return traces, dropped
end

function tests.test_traces()
  local memory, served = support.serve(letters(4), 4, { engine = "threads" })
  local loop <close> = served
  lu.assertNil(loop:traces()(loop))
  assert(loop:trace())
  assert(memory:read(2 * page, 1))
  toucher.start("write", memory.address + 3 * page, page):join()
  local traces = take_traces(loop, 2)
  assert(loop:trace(false))
  assert(memory:read(0, 1))
  lu.assertNil(loop:traces()(loop))
  lu.assertEquals(#traces, 2)
  local first, second = traces[1], traces[2]
  lu.assertEquals({ first.region, first.offset, first.cover, first.answer, first.outcome, first.handler },
    { 1, 2 * page, page, "bytes", "installed", 0 })
  lu.assertEquals({ second.offset, second.flags & 1 }, { 3 * page, 1 })
  lu.assertIsTrue(second.time_ns >= first.time_ns and first.latency_ns > 0)
  lu.assertNil(first.error)
  lu.assertNil(first.dropped)
end

function tests.test_traces_that_find_no_room()
  local memory, served = support.serve(letters(8), 8)
  local loop <close> = served
  assert(loop:trace(true, 4))
  assert(memory:read(0, 7 * page))
  assert(memory:read()) -- answered after the other seven were recorded
  local traces, dropped = take_traces(loop, 4)
  lu.assertEquals(#traces, 4)
  lu.assertIsTrue(dropped == 3 or dropped == 4)
  raises("records", loop.trace, loop, true, 0)
end

function tests.test_an_object_of_ones_own()
  local u = assert(uffd.open { optional = "thread_id" })
  local memory <close> = map(2)
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = letters(2), object = u } })
  lu.assertEquals(memory:read(), support.letters(2))
  raises("a loop reads the events", u.read, u)
  raises("a loop reads the events", u:events(0), u)
  -- Closing it while the loop uses it only lets go: the loop serves on.
  u:close()
  raises("closed uffd.object", u.fd, u)
  assert(memory:write(0, "x"))
  lu.assertEquals(memory:read(0, 1), "x")
  support.counts(loop, { errors = 0 })
end

-- Auto would choose inline where that is all that an ordinary user may have.
function tests.test_auto_reads_an_object_without_sigbus()
  local memory <close> = map(2)
  local loop <close> = assert(uffd.serve {
    engine = "auto", user_mode_only = true,
    { memory = memory, resolver = letters(2), object = assert(uffd.open { user_mode_only = true }) },
  })
  lu.assertEquals(loop:engine(), "threads")
  lu.assertEquals(memory:read(), support.letters(2))
  fails("EINVAL", "choose the engine threads", uffd.serve {
    engine = "inline", { memory = map(1), resolver = letters(1), object = assert(uffd.open { user_mode_only = true }) },
  })
end

function tests.test_user_mode_only()
  local loop <close> = assert(uffd.serve { user_mode_only = true })
  fails("ENOENT", nil, loop:user_mode_only())
  local memory <close> = map(1)
  assert(loop:add { memory = memory, resolver = letters(1) })
  lu.assertIsTrue(loop:user_mode_only())
  lu.assertEquals(memory:read(), support.letters(1))
end

function tests.test_kinds_of_memory()
  for _, kind in ipairs { "thp", "memfd" } do
    local memory, loop = support.serve(letters(4), 4, { kind = kind })
    lu.assertEquals(memory:read(0, 4 * page), support.letters(4))
    loop:close()
  end
  support.with_huge_pages(2, function(memory)
    local pattern = assert(resolver.bytes { pattern = "huge" })
    local loop <close> = assert(uffd.serve { { memory = memory, resolver = pattern } })
    lu.assertEquals(memory:read((2 << 20) - 4, 8), "hugehuge")
    lu.assertEquals(loop:regions()[1].page_size, 2 << 20)
    support.counts(loop, { faults = 2 })
  end)
end

function tests.test_two_loops_at_once()
  local a, first = support.serve(letters(8), 8)
  local b, second = support.serve(resolver.bytes { pattern = "2" }, 8)
  local one <close>, two = first, second
  local threads = {
    toucher.start("read", a.address, a.size), toucher.start("read", b.address, b.size),
    toucher.start("read", a.address, a.size), toucher.start("read", b.address, b.size),
  }
  for i, thread in ipairs(threads) do
    lu.assertEquals(thread:join(), i % 2 == 1 and "abcdefgh" or "22222222")
  end
  lu.assertIsTrue(one:stats().faults >= 8 and two:stats().faults >= 8)
  two:close()
end

-- The handle is of another process's memory; here that is this process, so that it can be looked at.
function tests.test_foreign_memory()
  local u <close> = assert(uffd.open { nonblock = true })
  local memory <close> = map(4)
  assert(u:register(memory, "missing"))
  local there <close> = assert(uffd.foreign { address = memory.address, size = memory.size, page_size = "4K", pid = 1 })
  lu.assertEquals({ there.kind, there.address, there.size }, { "foreign", memory.address, memory.size })
  lu.assertStrContains(tostring(there), "foreign")
  fails("EOPNOTSUPP", "another process", there:read())
  fails("EINVAL", "object", uffd.serve { { memory = there, resolver = letters(4) } })
  local loop <close> = assert(uffd.serve {
    paused = true,
    { memory = there, resolver = letters(4), object = u, length = 2 * page },
  })
  assert(loop:add { memory = there, resolver = letters(4), object = u, offset = 2 * page })
  local thread = toucher.start("read", memory.address, page)
  lu.assertEquals(loop:stats().faults, 0)
  lu.assertNil(loop:oldest())
  assert(loop:start())
  lu.assertEquals(thread:join(), "a")
  lu.assertEquals(memory:read(), support.letters(2):rep(2))
  loop:close()
  fails("EINVAL", nil, uffd.foreign { address = memory.address + 1, size = page })
  raises("not a process", uffd.foreign, { address = 0, size = page, pid = -1 })
  raises("foreign: unknown option", uffd.foreign, { addres = 0 })
end

-- In the policy, the fault that it is asked for is the oldest; afterwards there is none.
function tests.test_oldest()
  local memory <close> = map(4)
  local told = os.tmpname()
  os.remove(told)
  local slow = assert(resolver.policy(function(path)
    return function()
      while not io.open(path) do end -- until the test has seen the fault
      return "x"
    end
  end, told, { libs = { "io" }, timeout_ms = 0 }))
  local loop <close> = assert(uffd.serve { engine = "threads", { memory = memory, resolver = slow } })
  lu.assertNil(loop:oldest())
  local thread = toucher.start("read", memory.address + page, page)
  local oldest = assert(support.await(function() return loop:oldest() end), "no fault was told")
  assert(io.open(told, "w")):close()
  lu.assertEquals({ oldest.offset, oldest.address, oldest.region, oldest.resolver, oldest.handler },
    { page, memory.address + page, 1, "policy", 0 })
  lu.assertIsTrue(oldest.age >= 0)
  lu.assertEquals(thread:join(), "x")
  os.remove(told)
end

-- A sentence names each range once, and one thing is no plural.
function tests.test_sentences_say_a_thing_once()
  local memory <close> = map(4)
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = resolver.zero() } })
  lu.assertStrContains(tostring(loop), "1 region)")
  local range = ("0x%x-0x%x"):format(memory.address, memory.address + 4 * page)
  local _, message = loop:add { memory = memory, resolver = resolver.zero() }
  lu.assertEquals(message, range .. " is served already: a range is served once.")
  _, message = loop:add { memory = memory, resolver = resolver.zero(), offset = page }
  lu.assertStrContains(message, " overlaps " .. range .. ", which is served already")
  local object <close> = assert(uffd.open())
  local plain <close> = map(1)
  assert(object:register(plain, "missing"))
  lu.assertStrContains(tostring(object), "1 range)")
end

-- What one writes first says what it should have been.
function tests.test_mistakes_of_beginners()
  local memory <close> = assert(uffd.map { size = page })
  local zero = uffd.resolver.zero()
  support.raises("a region is a table of its own", uffd.serve, { memory = memory, resolver = zero })
  support.raises("uffd.resolver.policy makes a resolver of a function", uffd.serve,
    { { memory = memory, resolver = function() return "x" end } })
  support.raises("it needs a size", uffd.map, {})
  local message = raises("there are: anonymous, thp, memfd, hugetlb", uffd.map, { size = page, kind = "memfdd" })
  lu.assertNil(message:find("foreign", 1, true))
  local layers = assert(uffd.resolver.layers { { "0", zero }, { "4K", zero, length = "4K", from = "8K" } })
  lu.assertEquals(layers.kind, "layers")
end

return tests
