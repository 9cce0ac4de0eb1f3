-- Two plain processes: one hands over its memory, the other answers its page faults from an image, and one page of it
-- by a policy.
-- usage: uffd-lua handoff.lua (or lua5.4, with the rock)
-- This program is the owner of the memory; it starts itself once more as the pager, and shows what that reports.
local uffd = require "uffd"

local PAGE <const> = 4096
local PAGES <const> = 256
local IDENTITY <const> = 3 * PAGE -- where the page lies that is the client's own

-- The other process: serves one client, and ends when it is gone.
local function serve(socket, image)
  local pager <close> = assert(uffd.pager {
    socket = socket, image = image, once = true,
    resolver = function(client, contents) -- for each client, in the worker
      local identity = uffd.resolver.policy(function(args)
        return function() return ("I am client %d"):format(args.id) end
      end, { id = client.id })
      return uffd.resolver.layers { { 0, contents }, { IDENTITY, identity, length = PAGE } }
    end,
    report = function(event)
      local client = event.client
      if event.kind == "client" then print(("client %d has come: %d bytes"):format(client.id, client.size)) end
      if event.kind == "gone" then
        print(("client %d is gone: faults %d, bytes %d, policy calls %d")
          :format(client.id, client.stats.faults, client.stats.bytes, client.stats.policy_calls))
      end
    end,
  })
  print "listening"
  io.stdout:flush()
  assert(pager:run())
end

local function make_image(path)
  local file <close> = assert(io.open(path, "wb"))
  for i = 1, PAGES do assert(file:write((string.pack("<I8", i):rep(PAGE // 8)))) end
end

-- This program again, with these arguments.
local function start(...)
  local first = 0
  while arg[first - 1] do first = first - 1 end
  local words = {}
  for i = first, 0 do words[#words + 1] = ("%q"):format(arg[i]) end
  for _, word in ipairs { ... } do words[#words + 1] = ("%q"):format(word) end
  return assert(io.popen(table.concat(words, " ")))
end

local function own()
  local image = os.tmpname()
  local socket = image .. ".socket"
  local _ <close> = setmetatable({}, { __close = function() os.remove(image) end })
  make_image(image)
  local pager <close> = start("serve", socket, image)
  assert(pager:read "l" == "listening", "the pager does not listen")

  local memory = assert(uffd.map { size = PAGES * PAGE })
  local handoff = assert(uffd.handoff { socket = socket, memory = memory })
  print("page 100 holds", (assert(memory:unpack("<I8", 99 * PAGE))))
  print("page 4 holds", (assert(memory:unpack("z", IDENTITY))))
  local sum = 0
  for i = 1, PAGES do
    if (i - 1) * PAGE ~= IDENTITY then sum = sum + memory:unpack("<I8", (i - 1) * PAGE) end
  end
  print("the sum of all others", sum)
  handoff:close()

  for line in pager:lines() do print("pager: " .. line) end
end

if arg[1] == "serve" then serve(arg[2], arg[3]) else own() end
