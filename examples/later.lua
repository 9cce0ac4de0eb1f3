-- Pages that are fetched: the policy says LATER for what is not there, luv reads it in the background, many pages at a
-- time, and loop:ready() has the page asked for again as soon as its bytes are there. Nobody waits in the handler
-- meanwhile.
-- usage: uffd-lua examples/later.lua [FILE]
local uv   = require "luv"
local uffd = require "uffd"

local path = arg[1] or uv.exepath()
local fd   = assert(uv.fs_open(path, "r", 0))
local PAGE <const> = 4096
local pages = math.min(64, assert(uv.fs_fstat(fd)).size // PAGE)

-- What has come, and which pages these are: a policy may read memory that is not served.
local bytes = assert(uffd.map { size = pages * PAGE })
local here  = assert(uffd.map { size = pages })
local fetched = assert(uffd.resolver.policy(function(args)
  return function(fault)
    local page = fault.offset // args.page
    if args.here:read(page, 1) == "\1" then return args.bytes:read(fault.offset, args.page), fault.offset end
    print(page)
    return uffd.LATER
  end
end, { bytes = bytes, here = here, page = PAGE }))

local memory = assert(uffd.map { size = pages * PAGE })
local loop   = assert(uffd.serve { { memory = memory, resolver = fetched, around = "page" }, engine = "pump" })

local on_their_way, requests = {}, 0
local function fetch(page)
  if on_their_way[page] then return end
  on_their_way[page], requests = true, requests + 1
  uv.fs_read(fd, PAGE, page * PAGE, function(message, data)
    assert(data, message)
    bytes:write(page * PAGE, data)
    here:write(page, "\1")
    assert(loop:ready(page * PAGE, PAGE))
  end)
end

local poll, due = uv.new_poll(loop:fd()), uv.new_timer()
local function pump()
  assert(loop:step(0))
  for line in loop:messages() do fetch(tonumber(line)) end
  local seconds = loop:timeout()
  if seconds then due:start(math.ceil(seconds * 1000), 0, pump) else due:stop() end
end
poll:start("r", pump)

-- Threads of luv touch the memory, as the rest of a program would.
local THREADS <const> = 4
local running, threads, ends = THREADS, {}, {}
for i = 1, THREADS do
  ends[i] = uv.new_async(function()
    running = running - 1
    if running == 0 then uv.stop() end
  end)
  threads[i] = uv.new_thread(function(sender, address, size, page, step, first)
    local there = assert(require("uffd").map { address = address, size = size })
    for offset = first * page, size - page, step do there:read(offset, 1) end
    sender:send()
  end, ends[i], memory.address, memory.size, PAGE, THREADS * PAGE, i - 1)
end
uv.run()
for _, thread in ipairs(threads) do thread:join() end

local file <close> = assert(io.open(path, "rb"))
print(("%d pages fetched once each: %s"):format(pages, requests == pages))
print(("they hold the file: %s"):format(memory:read(0, memory.size) == file:read(memory.size)))
for _, handle in ipairs { poll, due, table.unpack(ends) } do handle:close() end
uv.run()
loop:close()
