-- Policies: what they may return, what they get, what becomes of them when they misbehave.
local lu = require "luaunit"
local support = require "support"
local toucher = require "toucher"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local tests = {}

local function zeros(count)
  return ("\0"):rep(count)
end

local function policy(factory, args, options)
  return assert(uffd.resolver.policy(factory, args, options))
end

-- The first page of a policy that must not fail.
local function reads(factory, args, options)
  local data, message, _, sentence = support.answer(factory, args, options)
  lu.assertNil(sentence)
  return assert(data, message)
end

-- The failure of a policy, whose page is poisoned.
local function breaks(name, words, factory, args, options)
  support.needs "poison"
  local data, message, errno, sentence, number = support.answer(factory, args, options)
  fails("EHWPOISON", nil, data, message, errno)
  lu.assertIsString(sentence)
  lu.assertStrContains(sentence, words)
  lu.assertEquals(uffd.errno[number], name, sentence)
  return sentence
end

-- Answers

function tests.test_nothing_nil_and_zero()
  lu.assertEquals(reads(function() return function() end end), zeros(page))
  lu.assertEquals(reads(function() return function() return nil end end), zeros(page))
  lu.assertEquals(reads(function() return function() return "zero" end end), zeros(page))
  lu.assertEquals(reads(function() return function() return "" end end), zeros(page))
end

function tests.test_poison()
  support.needs "poison"
  local data, message, errno, sentence = support.answer(function() return function() return "poison" end end)
  fails("EHWPOISON", nil, data, message, errno)
  lu.assertNil(sentence)
end

function tests.test_string()
  lu.assertEquals(reads(function() return function() return "short" end end), "short" .. zeros(page - 5))
  lu.assertEquals(reads(function() return function(fault) return ("f"):rep(fault.page_size) end end), ("f"):rep(page))
end

function tests.test_string_with_an_offset_covers_more()
  local memory, served = support.serve(policy(function()
    return function(fault)
      return ("<" .. ("."):rep(fault.page_size - 1)):rep(2) .. "tail", fault.offset - fault.page_size
    end
  end), 4)
  local loop <close> = served
  local part = "<" .. ("."):rep(page - 1)
  lu.assertEquals(memory:read(2 * page, 1), "<")
  lu.assertEquals(memory:read(page, 3 * page), part:rep(2) .. "tail" .. zeros(page - 4))
  support.counts(loop, { faults = 1 })
  support.counts(loop, { policy_calls = 1 })
end

-- With its offset, a string is contents, whatever it says.
function tests.test_contents_that_look_like_verdicts()
  for _, word in ipairs { "zero", "poison", "later" } do
    local data = reads(function(text) return function(fault) return text, fault.offset end end, word)
    lu.assertEquals(data, word .. zeros(page - #word))
  end
end

function tests.test_sentinels()
  support.needs "poison"
  lu.assertEquals(reads(function() return function() return uffd.ZERO end end), zeros(page))
  local poison = policy(function() return function() return uffd.POISON end end)
  lu.assertEquals(uffd.ask(poison), "poison")
  lu.assertEquals({ tostring(uffd.ZERO), tostring(uffd.POISON), tostring(uffd.LATER), tostring(uffd.FILE) },
    { "uffd.ZERO", "uffd.POISON", "uffd.LATER", "uffd.FILE" })
  local passed = policy(function(args) return function() return args.what end end, { what = uffd.LATER })
  lu.assertEquals(uffd.ask(passed), "later")
  lu.assertEquals(uffd.ask(policy(function() return function() return "later" end end)), "later")
end

-- The library reads the file: by a descriptor, or by a file that the policy has opened itself.
function tests.test_bytes_of_a_file()
  local path <const>, _ <close> = support.file(support.letters(3) .. "tail")
  local function opened(args)
    local file <const> = assert(io.open(args.path, "rb"))
    return function(fault)
      local length <const> = fault.offset == 0 and 2 * fault.page_size or fault.page_size + 4
      return uffd.FILE, file, fault.offset, length
    end
  end
  local resolver <close> = policy(opened, { path = path }, { libs = "io" })
  local memory <const>, loop <close> = support.serve(resolver, 4)
  lu.assertEquals(memory:read(0, page), support.letters(1))
  support.counts(loop, { copied = 2, policy_calls = 1 })
  lu.assertEquals(memory:read(), support.letters(3) .. "tail" .. zeros(page - 4))
  support.counts(loop, { copied = 4, policy_calls = 2 })
  lu.assertEquals({ uffd.ask(policy(function() return function() return uffd.FILE, 7, 8192, 5 end end)) },
    { "file", 7, 8192, 5 })
  breaks("EIO", "no file descriptor", function() return function() return uffd.FILE, 1 << 40, 0 end end)
  breaks("EIO", "offset in the file", function() return function() return uffd.FILE, 3 end end)
  breaks("EIO", "length of 0 bytes", function() return function() return uffd.FILE, 3, 0, 0 end end)
  breaks("EIO", "is closed", function()
    return function()
      local file <const> = io.tmpfile()
      file:close()
      return uffd.FILE, file, 0
    end
  end, nil, { libs = "io" })
  breaks("EBADF", "Bad file descriptor", function() return function() return uffd.FILE, 123456, 0 end end)
end

-- The thread waits until the policy has made up its mind.
function tests.test_later()
  local data = reads(function()
    local asked = 0
    return function()
      asked = asked + 1
      if asked < 4 then return uffd.LATER end
      return ("asked %d times"):format(asked)
    end
  end)
  lu.assertEquals(data:sub(1, 13), "asked 4 times")
end

-- A word that is almost an answer does not become the page.
function tests.test_words_like_answers()
  for _, word in ipairs { "Zero", "ZERO", "zeros", "zero ", "zeroes", "zeroed", "uffd.ZERO" } do
    breaks("EIO", "return uffd.ZERO", function(text) return function() return text end end, word)
  end
  for _, word in ipairs { "Poison", " poison\n", "poisoned", "uffd.POISON" } do
    breaks("EIO", "return uffd.POISON", function(text) return function() return text end end, word)
  end
  breaks("EIO", "return uffd.LATER", function(text) return function() return text end end, "LATER")
  for _, text in ipairs { "zero!", "poison pill", "zero\0", "laterally", "0", " " } do
    lu.assertEquals(reads(function(args) return function() return args end end, text):sub(1, #text), text)
  end
  local data = reads(function() return function(fault) return "Poison", fault.offset end end)
  lu.assertEquals(data:sub(1, 6), "Poison")
end

function tests.test_traceback_ends_in_the_policy()
  local sentence = breaks("EIO", "stack traceback", function() return function() error "mine" end end)
  lu.assertNil(sentence:find("[C]: in ?", 1, true))
end

function tests.test_another_resolver()
  local letters = assert(uffd.resolver.bytes(support.letters(4)))
  local handed = policy(function(args)
    return function(fault)
      if fault.offset == 0 then return args.letters, 2 * fault.page_size end
      if fault.offset == fault.page_size then return args.letters end
      return args.letters, 2 * fault.page_size, 2 * fault.page_size
    end
  end, { letters = letters })
  letters:close()
  local memory, served = support.serve(handed, 4, { around = 4 * page })
  local loop <close> = served
  lu.assertEquals(memory:read(2 * page, page), ("c"):rep(page))
  lu.assertEquals(memory:read(), ("c"):rep(page) .. ("b"):rep(page) .. ("c"):rep(page) .. ("d"):rep(page))
  support.counts(loop, { policy_calls = 3 })
  lu.assertNil(loop:error())
end

function tests.test_another_policy()
  local inner = policy(function() return function(fault) return ("inner %d"):format(fault.offset) end end)
  local data = reads(function(args) return function() return args[1], 8192 end end, { inner })
  lu.assertEquals(data:sub(1, 10), "inner 8192")
end

function tests.test_what_is_no_answer()
  breaks("EIO", "returned a number", function() return function() return 42 end end)
  breaks("EIO", "returned a table", function() return function() return {} end end)
  breaks("EIO", "returned a boolean", function() return function() return true end end)
  breaks("EIO", "returned a function", function() return function() return print end end)
  breaks("EIO", "5000 bytes for a page", function() return function() return ("x"):rep(5000) end end)
  breaks("EIO", "did not get in its args", function() return function() return io.stdout end end, nil, { libs = "io" })
end

function tests.test_offsets_that_are_none()
  breaks("EIO", "not a multiple of the page size", function() return function() return "x", 5 end end)
  breaks("EIO", "do not cover", function() return function() return "x", 8192 end end)
  breaks("EIO", "must be an integer", function() return function() return "x", "0" end end)
  breaks("EIO", "must be an integer", function() return function() return "x", -4096 end end)
  breaks("EIO", "must be an integer", function() return function() return "x", 0 / 0 end end)
  local zero = assert(uffd.resolver.zero())
  breaks("EIO", "must be an integer", function(args) return function() return args[1], {} end end, { zero })
  local bytes = assert(uffd.resolver.bytes "x")
  breaks("EINVAL", "", function(args) return function() return args[1], 1 << 40 end end, { bytes })
end

function tests.test_five_mebibytes()
  local function factory() return function() return ("x"):rep(5 << 20) end end
  breaks("ENOMEM", "not enough memory", factory)
  breaks("EIO", "5242880 bytes for a page", factory, nil, { memory = "32M" })
  -- With an offset they are an answer, of which the region takes what it has room for.
  local big = policy(function() return function() return ("x"):rep(5 << 20), 0 end end, nil, { memory = "32M" })
  local memory, served = support.serve(big, 4)
  local loop <close> = served
  lu.assertEquals(memory:read(), ("x"):rep(4 * page))
  support.counts(loop, { faults = 1 })
end

-- What it gets

function tests.test_fault_fields()
  local function factory()
    return function(fault)
      local keys = {}
      for key, value in pairs(fault) do keys[#keys + 1] = ("%s=%s"):format(key, value) end
      table.sort(keys)
      local text = table.concat(keys, " ")
      fault.offset, fault.write, fault.mine = nil, "changed", 1
      return text
    end
  end
  local memory <close> = assert(uffd.map { size = 4 * page })
  local loop <close> = assert(uffd.serve {
    engine = "threads",
    { memory = memory, resolver = policy(factory), offset = page, from = 8 * page, around = 2 * page },
  })
  local text = memory:read(2 * page, page):match "^%Z+"
  lu.assertStrContains(text, ("address=%d "):format(memory.address + 2 * page))
  lu.assertStrContains(text, ("region_offset=%d "):format(page))
  lu.assertStrContains(text, (" offset=%d "):format(9 * page))
  lu.assertStrContains(text, ("page_size=%d "):format(page))
  lu.assertStrContains(text, ("cover_length=%d "):format(2 * page))
  lu.assertStrContains(text, "handler=0 minor=false")
  lu.assertStrContains(text, "prefetch=false")
  lu.assertStrMatches(text, ".* tid=%d+ wp=false write=false")
  assert(memory:write(page, ""))
  assert(loop:prefetch(0, page))
  local again = memory:read(page, page):match "^%Z+"
  lu.assertStrContains(again, (" offset=%d "):format(8 * page))
  lu.assertStrContains(again, "prefetch=true")
  lu.assertStrContains(again, "write=false")
end

function tests.test_write_faults_are_told()
  local writes = policy(function() return function(fault) return tostring(fault.write) end end)
  local memory, served = support.serve(writes, 2)
  local loop <close> = served
  toucher.start("write", memory.address + 100, 1):join()
  lu.assertEquals(memory:read(0, 4), "true")
  lu.assertEquals(memory:read(page, 5), "false")
  support.counts(loop, { writes = 1 })
end

function tests.test_args_are_deep_copies()
  local args = { 1, 2.5, "three", true, nested = { deep = { [1.5] = "float key", [false] = "boolean key" } },
    binary = "\0\1\255", huge = math.maxinteger, infinite = 1 / 0 }
  local made = policy(function(got)
    return function()
      local deep = got.nested.deep
      return table.concat({ got[1], got[2], got[3], tostring(got[4]), deep[1.5], deep[false], #got.binary, got.huge,
        got.infinite, math.type(got[1]) }, " ")
    end
  end, args)
  args[1], args.nested.deep = 99, nil
  local kind, text = uffd.ask(made)
  lu.assertEquals(kind, "bytes")
  lu.assertEquals(text, "1 2.5 three true float key boolean key 3 9223372036854775807 inf integer")
  lu.assertEquals(reads(function(got) return function() return tostring(got) end end):sub(1, 3), "nil")
  lu.assertEquals(reads(function(got) return function() return got end end, "text"):sub(1, 4), "text")
end

function tests.test_args_that_cannot_be_copied()
  local function factory() end
  local cycle = { inner = {} }
  cycle.inner.outer = cycle
  raises("args.inner.outer is a table that contains itself", uffd.resolver.policy, factory, cycle)
  raises("args.list[2] is a function", uffd.resolver.policy, factory, { list = { 1, print } })
  raises("args is a thread", uffd.resolver.policy, factory, coroutine.create(print))
  raises("args.file is a userdata", uffd.resolver.policy, factory, { file = io.stdout })
  raises("args.object has a metatable", uffd.resolver.policy, factory, { object = setmetatable({}, {}) })
  local deep = {}
  for _ = 1, 200 do deep = { deep } end
  raises("nested deeper", uffd.resolver.policy, factory, deep)
  local closed = assert(uffd.resolver.zero())
  closed:close()
  raises("closed uffd.resolver", uffd.resolver.policy, factory, { closed })
  local shared = {}
  lu.assertNotNil(uffd.resolver.policy(factory, { shared, shared }))
end

function tests.test_memory_that_is_not_served_can_be_read()
  local source = assert(uffd.map { size = 2 * page })
  assert(source:write(page, "from the other memory"))
  local made = policy(function(args)
    return function()
      return args.memory:read(args.memory.page_size, 21) .. " of " .. args.memory.size
    end
  end, { memory = source })
  fails("EBUSY", nil, uffd.serve { { memory = source, resolver = uffd.resolver.zero() } })
  source:close()
  local memory, served = support.serve(made, 1)
  local loop <close> = served
  lu.assertEquals(memory:read(0, 29), "from the other memory of 8192")
  lu.assertNil(loop:error())
  fails("EBUSY", nil, uffd.resolver.policy(function() end, memory))
  breaks("EIO", "outside the memory", function(from) return function() return from:read(from.size, 1) end end,
    assert(uffd.map { size = 1 }))
end

function tests.test_resolvers_in_a_handler_tell_what_they_are()
  local bytes = assert(uffd.resolver.bytes "12345")
  local data = reads(function(args) return function() return ("%s %d"):format(args[1].kind, args[1].size) end end,
    { bytes })
  lu.assertEquals(data:sub(1, 7), "bytes 5")
end

-- The factory

function tests.test_upvalues_are_refused()
  local name = "clone-7"
  local message = raises("the local 'name'", uffd.resolver.policy, function() return function() return name end end)
  lu.assertStrContains(message, "args")
  raises("the factory must be a Lua function", uffd.resolver.policy, print)
  raises("function expected", uffd.resolver.policy, "return 1")
  raises("function expected", uffd.resolver.policy)
  raises("unknown option 'timeout'", uffd.resolver.policy, function() end, nil, { timeout = 1 })
  raises("unknown library 'ffi'", uffd.resolver.policy, function() end, nil, { libs = "ffi" })
  raises("256 KiB or more", uffd.resolver.policy, function() end, nil, { memory = 1000 })
  raises("must not be negative", uffd.resolver.policy, function() end, nil, { timeout_ms = -1 })
end

local function serve_one(factory, args, options)
  local memory = assert(uffd.map { size = page })
  return uffd.serve { { memory = memory, resolver = policy(factory, args, options) } }
end

function tests.test_factories_that_fail()
  fails("EIO", "no luck", serve_one(function() error "no luck" end))
  fails("EIO", "test_policy.lua", serve_one(function() error "no luck" end))
  fails("EIO", "returned nothing", serve_one(function() end))
  fails("EIO", "returned a table", serve_one(function() return {} end))
  fails("EIO", "error object", serve_one(function() error {} end))
  fails("EIO", "spoken", serve_one(function()
    error(setmetatable({}, { __tostring = function() return "spoken" end }))
  end))
  fails("EIO", "may not yield", serve_one(function() coroutine.yield() end))
  fails("ETIMEDOUT", "100 ms", serve_one(function() while true do end end, nil, { timeout_ms = 10 }))
  fails("ENOMEM", "option memory", serve_one(function()
    local list = {}
    while #list < math.huge do list[#list + 1] = {} end
  end))
  fails("ENOMEM", nil, serve_one(function(args) return function() return args end end, ("x"):rep(9 << 20)))
end

-- A loop goes on after a factory that failed in it.
function tests.test_a_loop_survives_a_bad_factory()
  local memory <close> = assert(uffd.map { size = 2 * page })
  local good = policy(function() return function() return "good" end end)
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = good, length = page } })
  fails("EIO", "bad", loop:add { memory = memory, offset = page, resolver = policy(function() error "bad" end) })
  assert(loop:add { memory = memory, offset = page, resolver = good })
  lu.assertEquals(memory:read(0, 4) .. memory:read(page, 4), "goodgood")
end

function tests.test_libraries()
  local text = reads(function()
    local log = require "uffd".log
    return function()
      return table.concat({ type(io), type(os.getenv), type(os.clock), type(debug), type(dofile), type(loadfile),
        type(string.pack), type(utf8), type(coroutine.wrap), type(math.random), type(log), type(load) }, " ")
    end
  end):match "^%Z+"
  lu.assertEquals(text, "nil nil function nil nil nil function table function function function function")
  text = reads(function() return function() return type(io) .. type(os.getenv) .. type(debug) end end, nil,
    { libs = { "io", "os", "debug" } }):match "^%Z+"
  lu.assertEquals(text, "tablefunctiontable")
end

function tests.test_require_is_for_the_factory()
  local path <const>, _ <close> = support.file "return { word = 'required' }"
  local name = path:match "([^/]+)$"
  local before = package.path
  local _ <close> = setmetatable({}, { __close = function() package.path = before end })
  package.path = path:match "^(.*/)" .. "?;" .. before
  lu.assertEquals(reads(function(module)
    local word = require(module).word
    return function() return word end
  end, name):sub(1, 8), "required")
  breaks("EIO", "require is for the factory", function(module)
    return function() return require(module).word end
  end, name)
  lu.assertEquals(reads(function()
    local version = require "uffd".version
    return function() return version end
  end):match "^%Z+", uffd.version)
end

-- Misbehaviour

function tests.test_errors()
  local sentence = breaks("EIO", "I threw", function() return function() error "I threw" end end)
  lu.assertStrContains(sentence, "test_policy.lua")
  lu.assertStrContains(sentence, "stack traceback")
  breaks("EIO", "(error object is a table value)", function() return function() error {} end end)
  breaks("EIO", "attempt to index a nil value", function() return function(fault) return fault.nothing.more end end)
  breaks("EIO", "may not yield", function() return function() coroutine.yield("page") end end)
  breaks("EIO", "", function() return function() error(nil) end end)
end

function tests.test_coroutines_inside_are_fine()
  lu.assertEquals(reads(function()
    local next_word = coroutine.wrap(function()
      while true do coroutine.yield "word" end
    end)
    return function() return next_word() end
  end):sub(1, 4), "word")
end

function tests.test_the_first_tracebacks_only()
  local memory, served = support.serve(policy(function()
    local calls = 0
    return function()
      calls = calls + 1
      error("call " .. calls)
    end
  end), 8, { on_error = "zero" })
  local loop <close> = served
  lu.assertEquals(memory:read(), zeros(8 * page))
  support.counts(loop, { errors = 8 })
  lu.assertStrContains(loop:error(), "call 1")
end

function tests.test_endless_loops()
  breaks("ETIMEDOUT", "longer than the time limit of 20 ms", function()
    return function() while true do end end
  end, nil, { timeout_ms = 20 })
  -- Nor can pcall, or a coroutine, go on.
  breaks("ETIMEDOUT", "time limit", function()
    return function()
      while true do pcall(function() while true do end end) end
    end
  end, nil, { timeout_ms = 20 })
  breaks("ETIMEDOUT", "time limit", function()
    return function()
      while true do
        coroutine.wrap(function() pcall(function() while true do end end) end)()
      end
    end
  end, nil, { timeout_ms = 20 })
end

-- After a time-out the handler answers as before, by the same coroutine too.
function tests.test_after_a_time_out()
  local memory, served = support.serve(policy(function()
    local calls, spin = 0, false
    local work = coroutine.wrap(function()
      while true do
        pcall(function() while spin do end end)
        coroutine.yield "worked"
      end
    end)
    return function()
      calls = calls + 1
      spin = calls == 2
      return work()
    end
  end, nil, { timeout_ms = 20 }), 4, { on_error = "zero" })
  local loop <close> = served
  lu.assertEquals(memory:read(0, 6), "worked")
  lu.assertEquals(memory:read(page, 6), zeros(6))
  lu.assertEquals(memory:read(2 * page, 6), zeros(6)) -- the error ended the coroutine
  support.counts(loop, { errors = 2 })
end

function tests.test_no_time_limit()
  lu.assertEquals(reads(function()
    return function()
      local n = 0
      for i = 1, 2000000 do n = n + i end
      return "done"
    end
  end, nil, { timeout_ms = 0 }):sub(1, 4), "done")
end

function tests.test_all_memory()
  local words = "not enough memory"
  breaks("ENOMEM", words, function() return function() return ("x"):rep(1 << 30) end end)
  breaks("ENOMEM", words, function()
    return function()
      local list = {}
      while #list < math.huge do list[#list + 1] = {} end
    end
  end)
  breaks("ENOMEM", words, function()
    return function()
      local text = "x"
      while true do text = text .. text end
    end
  end)
  breaks("ENOMEM", words, function()
    local function deep(n) return deep(n + 1) + 1 end
    return function() return deep(1) end
  end, nil, { memory = "1M" })
end

-- A state that was filled with small things, and with large ones, has room again.
function tests.test_after_all_memory()
  local memory, served = support.serve(policy(function()
    return function(fault)
      local number = fault.offset // fault.page_size
      local list = {}
      if number % 3 == 0 then
        while true do list[#list + 1] = { number } end
      elseif number % 3 == 1 then
        while true do list[#list + 1] = ("x"):rep(5000 + #list) end
      end
      return ("page %d"):format(number) .. (" "):rep(fault.page_size - 20)
    end
  end, nil, { memory = "1M" }), 9, { on_error = "zero" })
  local loop <close> = served
  for i = 0, 8 do lu.assertEquals(memory:read(i * page, 6), i % 3 == 2 and "page " .. i or zeros(6)) end
  support.counts(loop, { errors = 6 })
end

-- Fresh strings for ever: the collector keeps up, whether the handler is ever idle or not.
function tests.test_garbage_is_collected()
  local pages = 2000
  local memory, served = support.serve(policy(function()
    local n = 0
    return function(fault)
      n = n + 1
      return string.pack("<I8", n) .. (("%d"):format(n)):rep(fault.page_size // 8)
    end
  end, nil, { memory = "512K" }), pages)
  local loop <close> = served
  for i = 0, pages - 1 do lu.assertEquals((memory:unpack("<I8", i * page)), i + 1, loop:error()) end
  lu.assertNil(loop:error())
end

function tests.test_on_error_stop()
  support.needs "poison"
  local memory, served = support.serve(policy(function() return function() error "enough" end end), 2,
    { on_error = "stop" })
  local loop <close> = served
  fails("EHWPOISON", nil, memory:read(0, 1))
  fails("EHWPOISON", nil, memory:read(page, 1))
  fails("ECANCELED", nil, loop:prefetch())
  lu.assertStrContains(loop:error(), "enough")
end

function tests.test_prefetch_gives_the_policys_error()
  local _, served = support.serve(policy(function() return function() error "not this one" end end), 2)
  local loop <close> = served
  fails("EIO", "not this one", loop:prefetch(0, page))
end

-- States

function tests.test_one_state_a_handler()
  local function factory(name)
    -- luacheck: ignore 111 113 142 143
    count = (count or 0) + 1
    string.policies = (string.policies or 0) + 1
    return function(fault) return ("%s %d %d %d"):format(name, count, string.policies, fault.handler) end
  end
  local memory <close> = assert(uffd.map { size = 4 * page })
  local loop <close> = assert(uffd.serve {
    engine = "threads",
    { memory = memory, resolver = policy(factory, "one"), length = page },
    { memory = memory, resolver = policy(factory, "two"), offset = page, length = page },
    { memory = memory, resolver = policy(factory, "apart", { memory = "1M" }), offset = 2 * page },
  })
  -- Globals are each policy's own; what is behind them is the handler's; other options, another state.
  lu.assertEquals(memory:read(0, page):match "^%Z+", "one 1 2 0")
  lu.assertEquals(memory:read(page, page):match "^%Z+", "two 1 2 0")
  lu.assertEquals(memory:read(2 * page, page):match "^%Z+", "apart 1 1 0")
  lu.assertNil(loop:error())
end

function tests.test_several_handlers()
  local memory, served = support.serve(policy(function()
    local calls = 0
    return function(fault)
      calls = calls + 1
      return ("%d %d"):format(fault.handler, calls)
    end
  end), (8 << 20) // page, { handlers = 4 })
  local loop <close> = served
  local threads = {}
  for i = 0, 3 do threads[i + 1] = toucher.start("read", memory.address + i * (2 << 20), 16 * page) end
  for _, thread in ipairs(threads) do thread:join() end
  local handlers = {}
  for i = 0, 3 do
    local own = memory:read(i * (2 << 20), 1)
    handlers[own] = true
    for k = 0, 15 do
      lu.assertEquals(memory:read(i * (2 << 20) + k * page, page):match "^%Z+", ("%s %d"):format(own, k + 1))
    end
  end
  lu.assertEquals(handlers, { ["0"] = true, ["1"] = true, ["2"] = true, ["3"] = true })
  support.counts(loop, { policy_calls = 64 })
end

function tests.test_random_numbers_differ_between_handlers()
  local memory, served = support.serve(policy(function()
    return function() return ("%d"):format(math.random(0)) end
  end), (8 << 20) // page, { handlers = 4 })
  local loop <close> = served
  local seen = {}
  for i = 0, 3 do
    local text = memory:read(i * (2 << 20), page):match "^%Z+"
    lu.assertNil(seen[text])
    seen[text] = true
  end
  lu.assertNil(loop:error())
end

-- Adding regions while the same handler answers: whoever comes late waits, nobody is lost.
function tests.test_adding_policies_while_serving()
  local memory <close> = assert(uffd.map { size = 256 * page })
  local function factory(name)
    local total = 0
    for i = 1, 1000 do total = total + i end
    return function() return name .. total end
  end
  local first = policy(factory, "first ")
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = first, length = 128 * page } })
  local threads = { toucher.start("read", memory.address, 64 * page),
    toucher.start("read", memory.address + 64 * page, 64 * page) }
  for i = 128, 255 do
    assert(loop:add { memory = memory, resolver = policy(factory, i .. " "), offset = i * page, length = page })
  end
  for _, thread in ipairs(threads) do lu.assertEquals(thread:join(), ("f"):rep(64)) end
  for i = 128, 255 do lu.assertEquals(memory:read(i * page, page):match "^%Z+", i .. " 500500") end
  lu.assertNil(loop:error())
end

function tests.test_one_policy_in_two_loops()
  local made = policy(function()
    local calls = 0
    return function()
      calls = calls + 1
      return tostring(calls)
    end
  end)
  local first, a = support.serve(made, 1)
  local second, b = support.serve(made, 1)
  local loop <close>, other = a, b
  made:close()
  lu.assertEquals(first:read(0, 1) .. second:read(0, 1), "11")
  other:close()
  lu.assertNil(loop:error())
end

-- A policy never runs in the program's own state, so a program may touch what it serves.
function tests.test_the_programs_state_is_not_involved()
  local memory, served = support.serve(policy(function() return function() return "answered" end end), 1)
  local loop <close> = served
  local inside = coroutine.wrap(function() return memory:read(0, 8) end)()
  lu.assertEquals(inside, "answered")
  lu.assertNil(loop:error())
end

function tests.test_policies_in_layers()
  local page_policy = policy(function(word) return function(fault) return word .. fault.offset end end, "own ")
  local layers = assert(uffd.resolver.layers {
    { 0, uffd.resolver.bytes { pattern = "-" } },
    { page, page_policy, length = page, from = 5 * page },
  })
  local memory, served = support.serve(layers, 3)
  local loop <close> = served
  lu.assertEquals(memory:read(page, page):match "^%Z+", "own " .. 5 * page)
  lu.assertEquals(memory:read(0, 1) .. memory:read(2 * page, 1), "--")
  support.counts(loop, { policy_calls = 1 })
end

-- Log, ask

function tests.test_messages()
  local memory, served = support.serve(policy(function()
    local log = require "uffd".log
    print("factory", 1, nil)
    return function(fault)
      log("fault", fault.offset)
      print(("long "):rep(200))
    end
  end), 1, { engine = "threads" })
  local loop <close> = served
  assert(memory:read())
  local lines = {}
  for line, handler in loop:messages() do
    lines[#lines + 1] = line
    lu.assertEquals(handler, 0)
  end
  lu.assertEquals(lines, { "factory\t1\tnil", "fault\t0", (("long "):rep(200)):sub(1, 504) })
  lu.assertNil(loop:messages()(loop))
end

function tests.test_messages_that_find_no_room()
  local _, served = support.serve(policy(function()
    for i = 1, 300 do print(i) end
    return function() end
  end), 1, { engine = "threads" })
  local loop <close> = served
  local lines = {}
  for line in loop:messages() do lines[#lines + 1] = line end
  lu.assertEquals(lines[1], "(44 lines were lost)")
  lu.assertEquals({ lines[2], lines[257], #lines }, { "1", "256", 257 })
end

function tests.test_ask()
  local zero = assert(uffd.resolver.zero())
  local function ask(factory, ...) return uffd.ask(policy(factory, { zero }), ...) end
  lu.assertEquals({ ask(function() return function() end end) }, { "zero" })
  lu.assertEquals({ ask(function() return function() return "poison" end end) }, { "poison" })
  lu.assertEquals({ ask(function() return function(f) return "at " .. f.offset end end, 5 * page + 1) },
    { "bytes", "at " .. 5 * page, 5 * page })
  local kind, resolver, offset = ask(function(args) return function() return args[1], 3 end end)
  lu.assertEquals({ kind, offset }, { "resolver", 3 })
  lu.assertIs(resolver, zero)
  lu.assertEquals({ ask(function() return function(f) return tostring(f.write) .. f.page_size end end, 0,
    { write = true, page_size = 2 << 20 }) }, { "bytes", "true2097152", 0 })
  fails("EIO", "broken", ask(function() return function() error "broken" end end))
  fails("EIO", "at once", ask(function() error "at once" end))
  raises("only a policy can be asked", uffd.ask, zero)
  raises("unknown option 'size'", uffd.ask, zero, 0, { size = 1 })
end

-- Each failure is told, not only the first.
function tests.test_each_failure_is_a_message()
  support.needs "poison"
  local memory, served = support.serve(policy(function()
    return function(fault)
      print("asked for", fault.offset)
      if fault.offset == 0 then error "first" end
      if fault.offset == fault.page_size then return "x", 5 end
      return "fine"
    end
  end), 3)
  local loop <close> = served
  fails("EHWPOISON", nil, memory:read(0, 1))
  fails("EHWPOISON", nil, memory:read(page, 1))
  lu.assertEquals(memory:read(2 * page, 1), "f")
  support.counts(loop, { errors = 2 })
  local failures, lines = {}, 0
  for text, handler, kind in loop:messages() do
    if kind == "failure" then
      failures[#failures + 1] = text
      lu.assertNil(handler)
    else
      lines = lines + 1
      lu.assertIsNumber(handler)
    end
  end
  lu.assertEquals({ #failures, lines }, { 2, 3 })
  lu.assertStrContains(failures[1], "first")
  lu.assertStrContains(failures[2], "not a multiple of the page size")
end

return tests
