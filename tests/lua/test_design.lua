-- The two programs that the design opens with, as they stand.
local lu = require "luaunit"
local support = require "support"
local toucher = require "toucher"
local uffd = require "uffd"

local tests = {}

local first_program = [==[
local uffd = require "uffd"

-- memory that reads like snapshot.img, filled as it is touched, except one page that is this clone's own
local image    = assert(uffd.resolver.file { path = "snapshot.img" })
local identity = uffd.resolver.policy(function(args)          -- the factory: once in each handler's own Lua state
  return function(fault)                                       -- the policy: asked for its own pages only
    return string.pack("<s4", args.name)                       -- shorter than the page: the rest is zeros
  end
end, { name = "clone-7" })

local memory = assert(uffd.map { size = image.size })
local loop <close> = assert(uffd.serve {
  { memory = memory, resolver = uffd.resolver.layers { { 0, image }, { 64 << 12, identity, length = 4096 } } },
})
print(memory:read(0, 16), loop:stats().faults)
]==]

local function interpreter()
  local i = -1
  while arg[i - 1] do i = i - 1 end
  return arg[i]
end

local function absolute(path)
  if path:find "^/" then return path end
  local pwd = io.popen "pwd"
  local directory = pwd:read "l"
  pwd:close()
  return directory .. "/" .. path
end

local function write(path, contents)
  local file = assert(io.open(path, "wb"))
  assert(file:write(contents))
  file:close()
end

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  return text, pipe:close()
end

-- Word for word, beside a snapshot.img of 65 pages.
function tests.test_first_program()
  local directory = os.tmpname()
  os.remove(directory)
  assert(os.execute(("mkdir '%s'"):format(directory)))
  local _ <close> = setmetatable({}, { __close = function() os.execute(("rm -r '%s'"):format(directory)) end })
  write(directory .. "/snapshot.img", support.letters(65))
  write(directory .. "/first.lua", first_program)
  local program = interpreter()
  if program:find "/" then program = absolute(program) end
  local text, ok = output_of(("cd '%s' && '%s' first.lua 2>&1"):format(directory, program))
  lu.assertEquals(text, ("a"):rep(16) .. "\t1\n")
  lu.assertTrue(ok)
end

-- The same in this process, with the page of its own looked at.
function tests.test_first_program_contents()
  local page = support.page
  local letters = support.letters(65)
  local path <const>, _ <close> = support.file(letters)
  local image = assert(uffd.resolver.file { path = path })
  local identity = uffd.resolver.policy(function(args)
    return function() return string.pack("<s4", args.name) end
  end, { name = "clone-7" })
  local memory = assert(uffd.map { size = image.size })
  local loop <close> = assert(uffd.serve {
    { memory = memory, resolver = uffd.resolver.layers { { 0, image }, { 64 * page, identity, length = page } } },
  })
  lu.assertEquals(memory:read(0, 64 * page), letters:sub(1, 64 * page))
  lu.assertEquals(memory:read(64 * page, page), ("\7\0\0\0clone-7" .. ("\0"):rep(page - 11)))
  support.counts(loop, { policy_calls = 1, copied = 65 })
  lu.assertTrue(loop:stats().faults < 33) -- the reads are in order
end

-- The second program; its memory is touched by another thread.
function tests.test_second_program()
  local memory = assert(uffd.map { size = 4 * support.page })
  local contents = "contents of the page"
  local thread, seen

  local u <close> = assert(uffd.open { features = { "event_remove" }, nonblock = true })
  assert(u:register(memory, "missing"))
  thread = toucher.start("read", memory.address, memory.size)
  for event in u:events(1000) do
    if event.type == "pagefault" then assert(u:copy(event.page, contents)) end
  end

  seen = thread:join()
  lu.assertEquals(seen, "cccc")
  lu.assertEquals(memory:read(0, support.page), contents .. ("\0"):rep(support.page - #contents))
end

return tests
