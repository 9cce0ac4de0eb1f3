-- The pager from Lua: the supervisor is this process, its workers are forked from it, and the clients are others.
local lu = require "luaunit"
local support = require "support"
local core = require "uffd.core"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local tests = {}

if not core.pager_create then
  function tests.test_built_without_it()
    support.fails("ENOSYS", "without the pager", uffd.pager { socket = "x" })
  end
  return tests
end

-- Workers are forked: loops that the collector has not closed yet have threads that they would lack.
local function quiet()
  lu.skipIf(support.thread_sanitizer, "ThreadSanitizer has a thread of its own, and a worker would lack it")
  collectgarbage()
  collectgarbage()
end

local function path_of(name)
  local path = os.tmpname()
  os.remove(path)
  return path .. name
end

-- Images by their number of pages: workers open them when they start. Removed at the end of the program.
local images = setmetatable({}, { __gc = function(self)
  for _, path in pairs(self) do os.remove(path) end
end })

local function image_of(pages)
  images[pages] = images[pages] or support.file(support.letters(pages))
  return images[pages]
end

-- A pager that serves an image of so many pages once, what it reports, its socket.
local function open(pages, options)
  quiet()
  local image = image_of(pages)
  local events = {}
  options = options or {}
  options.socket = path_of ".door"
  if options.image == nil then options.image = image end
  if options.image == false then options.image = nil end
  if options.once == nil then options.once = true end
  options.report = options.report or function(event) events[#events + 1] = event end
  local pager, message = uffd.pager(options)
  lu.assertNotNil(pager, message)
  return pager, events, options.socket
end

-- A process that hands over as many pages and says what it reads in each of them.
local client = [[
  local uffd = require "uffd"
  local memory = assert(uffd.map { size = tonumber(arg[2]) })
  local handoff <close> = assert(uffd.handoff { socket = arg[1], memory = memory })
  for offset = 0, memory.size - 1, uffd.probe().page_size do
    io.write(assert(memory:read(offset, 1)))
  end
  io.write(" ", (assert(memory:read(0, 80)):match "^%Z*"))
]]

local function start(socket, pages)
  return support.child(client, "r", socket, pages * page)
end

local function kinds(events)
  local list = {}
  for _, event in ipairs(events) do
    if event.kind ~= "worker" and event.kind ~= "retired" then list[#list + 1] = event.kind end
  end
  return table.concat(list, " ")
end

local function find(events, kind)
  for _, event in ipairs(events) do
    if event.kind == kind then return event end
  end
end

function tests.test_serves_a_process_from_an_image()
  local served <close>, events, socket = open(8)
  lu.assertEquals(tostring(served), "uffd.pager (0 clients)")
  local process <close> = start(socket, 8)
  assert(served:run())
  lu.assertEquals(process:read "a":sub(1, 9), "abcdefgh ")
  lu.assertEquals(kinds(events), "client gone")
  local come, gone = find(events, "client").client, find(events, "gone").client
  lu.assertEquals({ come.id, come.of, come.size, #come.regions }, { 1, 0, 8 * page, 1 })
  lu.assertEquals(come.regions[1].offset, 0)
  lu.assertEquals(come.regions[1].length, 8 * page)
  lu.assertEquals(come.regions[1].page_size, page)
  lu.assertEquals(come.pid, gone.pid)
  lu.assertEquals(gone.state, "gone")
  lu.assertTrue(gone.stats.faults >= 1 and gone.stats.bytes >= 8 * page)
  lu.assertNotEquals(find(events, "gone").text, "")
  lu.assertEquals(served:status().served, 1)
end

-- The function sees the client and the image, in the worker; what it returns answers.
function tests.test_a_resolver_for_each_client()
  local served <close>, events, socket = open(4, {
    resolver = function(of, image)
      local policy = uffd.resolver.policy(function(args)
        return function() return args.text end
      end, { text = ("client %d of %d bytes in %d, image %d\0"):format(of.id, of.size, #of.regions, image.size) })
      return uffd.resolver.layers { { 0, image }, { 0, policy, length = page } }
    end,
  })
  local process <close> = start(socket, 4)
  assert(served:run())
  lu.assertEquals(process:read "a", ("cbcd client 1 of %d bytes in 1, image %d"):format(4 * page, 4 * page))
  lu.assertEquals(find(events, "gone").client.stats.policy_calls, 1)
end

function tests.test_the_image_itself_and_one_that_is_shared()
  for _, share in ipairs { false, true } do
    local kept
    local served <close>, _, socket = open(2, {
      resolver = function(_, image)
        kept = kept or (share and uffd.resolver.layers { { 0, image } } or image)
        return kept
      end,
    })
    local process <close> = start(socket, 2)
    assert(served:run())
    lu.assertEquals(process:read "a":sub(1, 3), "ab ")
  end
end

function tests.test_without_an_image_the_function_makes_everything()
  local served <close>, _, socket = open(1, {
    image = false,
    resolver = function(_, image)
      assert(image == nil)
      return uffd.resolver.bytes { pattern = "made" }
    end,
  })
  local process <close> = start(socket, 3)
  assert(served:run())
  lu.assertEquals(process:read "a":sub(1, 8), "mmm made")
end

-- A client that cannot be served is killed, and the report says why.
function tests.test_a_resolver_that_fails()
  local cases = {
    { function() error("it broke", 0) end, "resolver: it broke" },
    { function() return 7 end, "it returned a number; it must return a uffd.resolver" },
    { function() return uffd.resolver.file { path = "/nowhere/at/all" } end, "/nowhere/at/all" },
    { function() return uffd.resolver.policy(function() return 5 end) end, "the factory returned a number" },
    { function() error {} end, "resolver: " },
  }
  for _, case in ipairs(cases) do
    local served <close>, events, socket = open(1, { resolver = case[1] })
    local process = start(socket, 1)
    assert(served:run())
    lu.assertEquals(process:read "a", "")
    local ok, how, code = process:close()
    lu.assertEquals({ ok, how, code }, { nil, "signal", 9 })
    lu.assertStrContains(find(events, "frozen").text, case[2])
  end
end

function tests.test_what_is_wrong_with_options_raises()
  raises("unknown option 'sockets'", uffd.pager, { sockets = "x" })
  raises("uffd.pager: a table of options expected", uffd.pager, 5)
  raises("workers must be an integer from 0", uffd.pager, { socket = "x", workers = -1 })
  raises("workers must be an integer from 0", uffd.pager, { socket = "x", workers = "2" })
  raises("socket must be a string, not a boolean", uffd.pager, { socket = true })
  raises("socket has a zero byte", uffd.pager, { socket = "a\0b" })
  raises("unknown on_crash 'burn'; there are: kill, freeze", uffd.pager, { socket = "x", on_crash = "burn" })
  raises("unknown on_drain", uffd.pager, { socket = "x", on_drain = "burn" })
  raises("mode is an integer, or octal digits", uffd.pager, { socket = "x", mode = "999" })
  raises("mode is an integer, or octal digits", uffd.pager, { socket = "x", mode = 512 })
  raises("resolver must be a function", uffd.pager, { socket = "x", resolver = "x" })
  raises("report must be a function", uffd.pager, { socket = "x", report = {} })
  raises("worker must be a list", uffd.pager, { socket = "x", worker = "uffd-lua" })
  raises("worker must be a list of strings", uffd.pager, { socket = "x", worker = { 1 } })
  raises("rate: bytes are", uffd.pager, { socket = "x", rate = "fast" })
  raises("around: bytes are", uffd.pager, { socket = "x", around = "far" })
  raises("unknown option 'fd'", uffd.pager_work, 3, { fd = 5 })
  raises("must not be negative", uffd.pager_work, -1, {})
end

function tests.test_what_the_world_refuses_is_returned()
  quiet()
  local image = image_of(1)
  local function open_pager(options)
    options.image = options.image or image
    options.socket = options.socket or path_of ".door"
    return uffd.pager(options)
  end
  fails("ENOENT", "nowhere", open_pager { image = "/nowhere" })
  fails("ENOENT", "nowhere", open_pager { socket = "/nowhere/door" })
  fails("ENOENT", "nowhere", open_pager { replay = "/nowhere" })
  fails("EINVAL", nil, open_pager { replay = image })
  fails("ENAMETOOLONG", nil, open_pager { socket = "/tmp/" .. ("x"):rep(200) })
  local set = path_of ".set"
  local other <close> = assert(uffd.workingset { length = 64 * page })
  assert(other:save(set))
  local _ <close> = setmetatable({}, { __close = function() os.remove(set) end })
  fails("EINVAL", "image", open_pager { replay = set })
  local first <close> = assert(open_pager { socket = set .. ".door" })
  fails("EADDRINUSE", nil, open_pager { socket = set .. ".door" })
  lu.assertEquals(first:status().clients, 0)
end

function tests.test_the_handle()
  local served, _, socket = open(1)
  lu.assertEquals(served:status(),
    { clients = 0, workers = served:status().workers, served = 0, refused = 0, restarts = 0, hangs = 0, reloads = 0,
      reloading = false,
      draining = false })
  lu.assertEquals(served:clients(), {})
  lu.assertTrue(served:step(0))
  assert(served:close())
  assert(served:close())
  lu.assertNil(io.open(socket))
  lu.assertEquals(tostring(served), "uffd.pager (closed)")
  raises("attempt to use a closed uffd.pager", served.step, served)
  raises("attempt to use a closed uffd.pager", served.run, served)
  raises("attempt to use a closed uffd.pager", served.status, served)
end

-- luv, cqueues and LuaSocket can wait for it.
function tests.test_it_can_be_waited_for()
  local served <close>, events, socket = open(2)
  lu.assertTrue(math.type(served:fd()) == "integer")
  lu.assertEquals({ served:pollfd(), served:getfd(), served:events() }, { served:fd(), served:fd(), "r" })
  lu.assertNil(served:timeout())
  lu.assertFalse(served:dirty())
  local found, sockets = pcall(require, "socket")
  lu.skipIf(not found, "LuaSocket is not installed")
  local process <close> = start(socket, 2)
  local goes_on
  repeat
    sockets.select({ served }, nil, 10)
    goes_on = served:step(0)
  until goes_on ~= true
  lu.assertIsFalse(goes_on)
  lu.assertEquals(process:read "a":sub(1, 3), "ab ")
  lu.assertEquals(kinds(events), "client gone")
end

-- What a report raises, run and step raise; a pager is not closed or stepped under its own feet.
function tests.test_reports_that_misbehave()
  local served
  local misdeeds = {
    { "report failed", function() error "report failed" end },
    { "cannot be closed from its own report", function() served:close() end },
    { "cannot be stepped from its own report", function() served:step() end },
    { "cannot be stepped from its own report", function() served:run() end },
  }
  for _, misdeed in ipairs(misdeeds) do
    local done = false
    local socket
    served, _, socket = open(1, {
      report = function(event)
        if event.kind == "client" then misdeed[2]() end
        if event.kind == "gone" then done = true end
      end,
    })
    local closed <close> = served
    local process <close> = start(socket, 1)
    raises(misdeed[1], served.run, closed)
    assert(served:run())
    lu.assertTrue(done)
    lu.assertEquals(process:read "a":sub(1, 2), "a ")
  end
end

-- A client that waits for a line before it reads, and after.
local patient = [[
  local uffd = require "uffd"
  local memory = assert(uffd.map { size = tonumber(arg[2]) })
  local handoff <close> = assert(uffd.handoff { socket = arg[1], memory = memory })
  io.read "l"
  local seen <close> = assert(io.open(arg[3], "w"))
  for offset = 0, memory.size - 1, uffd.probe().page_size do seen:write(assert(memory:read(offset, 1))) end
  seen:flush()
  io.read "l"
]]

local function step_until(served, what)
  local goes_on
  lu.assertNotNil(support.await(function()
    goes_on = served:step(5)
    return what() or not goes_on
  end) and what() or nil)
  return goes_on
end

local function read_file(path)
  local file = io.open(path)
  local text = file and file:read "a" or ""
  if file then file:close() end
  return text
end

local function patient_client(socket, pages)
  local seen = path_of ".seen"
  images[seen] = seen -- to be removed too
  return support.child(patient, "w", socket, pages * page, seen), seen
end

function tests.test_reload_brings_a_new_worker()
  local served <close>, events, socket = open(4)
  local process <close>, seen = patient_client(socket, 4)
  step_until(served, function() return #served:clients() == 1 and served:clients()[1].state == "served" end)
  assert(served:reload())
  step_until(served, function() return find(events, "retired") end)
  lu.assertEquals(#served:clients(), 1)
  process:write "\n"
  process:flush()
  step_until(served, function() return read_file(seen) == "abcd" end)
  process:write "\n"
  process:flush()
  assert(served:run())
  lu.assertEquals(kinds(events), "client gone")
end

-- Drained, the client has all its memory, and needs nobody any more.
function tests.test_drain_completes()
  local served, events, socket = open(4, { once = false })
  local process <close>, seen = patient_client(socket, 4)
  step_until(served, function() return #served:clients() == 1 and served:clients()[1].state == "served" end)
  assert(served:drain())
  fails("EALREADY", nil, served:drain())
  assert(served:run())
  lu.assertEquals(kinds(events), "client complete")
  served:close()
  process:write "\n"
  process:flush()
  support.await(function() return read_file(seen) == "abcd" end)
  lu.assertEquals(read_file(seen), "abcd")
  process:write "\n"
end

function tests.test_signals_have_one_master()
  local served <close> = open(1)
  local other <close> = open(1)
  served:on_signals()
  served:on_signals()
  raises("another uffd.pager has the signals", other.on_signals, other)
  served:close()
  other:on_signals()
end

function tests.test_working_sets()
  local record = path_of ".set"
  local _ <close> = setmetatable({}, { __close = function() os.remove(record) end })
  local served <close>, events, socket = open(16, { record = record, around = page })
  local process <close> = start(socket, 16)
  assert(served:run())
  lu.assertEquals(kinds(events), "client gone record")
  process:read "a"
  local set <close> = assert(uffd.workingset.load(record))
  lu.assertEquals(set:count(), 16)
end

return tests
