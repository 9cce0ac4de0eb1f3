-- A loop that cqueues drives: a coroutine answers the faults, beside other coroutines, all in one thread.
-- Another thread must touch the memory: one that waits for a page cannot answer the fault at the same time.
-- usage: uffd-lua examples/pump-cqueues.lua
local cqueues   = require "cqueues"
local condition = require "cqueues.condition"
local thread    = require "cqueues.thread"
local uffd      = require "uffd"

local PAGE, PAGES <const> = 4096, 64
local numbers = uffd.resolver.policy(function(args)
  return function(fault) return ("page %d"):format(fault.offset // args.page) end
end, { page = PAGE })
local memory = assert(uffd.map { size = PAGES * PAGE })
local loop   = assert(uffd.serve { { memory = memory, resolver = numbers }, engine = "pump" })

-- A thread of cqueues has a Lua state of its own. It gets the address, and makes a handle of it.
local reader, result = assert(thread.start(function(sender, address, size, page)
  local there = assert(require("uffd").map { address = address, size = size })
  local first, last = there:unpack("z"), nil
  for offset = page, size - page, page do last = there:unpack("z", offset) end
  sender:write(first, "\n", last, "\n")
end, memory.address, memory.size, PAGE))

local queue = cqueues.new()
local answered, ticks, done, finished = 0, 0, false, condition.new()

queue:wrap(function() -- the pump: cqueues asks the loop for its descriptor, and when it is due
  while not done do
    cqueues.poll(loop, finished)
    answered = answered + assert(loop:step(0))
  end
end)
queue:wrap(function() -- the rest of the program goes on
  while not done do
    ticks = ticks + 1
    cqueues.sleep(0.001)
  end
end)
queue:wrap(function()
  local first, last = result:read("*l", "*l")
  print(("a thread has read %q to %q"):format(first, last))
  print(("%d faults answered; the other coroutine went on: %s"):format(answered, ticks > 0))
  done = true
  finished:signal()
end)
assert(queue:loop())
assert(reader:join())
loop:close()
