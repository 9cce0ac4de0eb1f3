-- A loop that luv's event loop drives: faults are answered between the ticks of a timer, all in one thread.
-- Another thread must touch the memory: one that waits for a page cannot answer the fault at the same time.
-- usage: uffd-lua examples/pump-luv.lua
local uv   = require "luv"
local uffd = require "uffd"

local PAGE, PAGES <const> = 4096, 64
local numbers = uffd.resolver.policy(function(args)
  return function(fault) return ("page %d"):format(fault.offset // args.page) end
end, { page = PAGE })
local memory = assert(uffd.map { size = PAGES * PAGE })
local loop   = assert(uffd.serve { { memory = memory, resolver = numbers }, engine = "pump" })

local poll, due, clock = uv.new_poll(loop:fd()), uv.new_timer(), uv.new_timer()
local answered, ticks = 0, 0

-- A fault that was put off is due after a time, also when nothing comes at the descriptor.
local function pump()
  answered = answered + assert(loop:step(0))
  local seconds = loop:timeout()
  if seconds then due:start(math.ceil(seconds * 1000), 0, pump) else due:stop() end
end
poll:start("r", pump)
clock:start(0, 1, function() ticks = ticks + 1 end) -- the rest of the program goes on

local result = uv.new_async(function(first, last)
  print(("a thread has read %q to %q"):format(first, last))
  print(("%d faults answered; the timer went on: %s"):format(answered, ticks > 0))
  uv.stop()
end)

-- A thread of luv has a Lua state of its own. It gets the address, and makes a handle of it.
local thread = uv.new_thread(function(sender, address, size, page)
  local there = assert(require("uffd").map { address = address, size = size })
  local first, last = there:unpack("z"), nil
  for offset = page, size - page, page do last = there:unpack("z", offset) end
  sender:send(first, last)
end, result, memory.address, memory.size, PAGE)

uv.run()
thread:join()
for _, handle in ipairs { poll, due, clock, result } do handle:close() end
uv.run()
loop:close()
