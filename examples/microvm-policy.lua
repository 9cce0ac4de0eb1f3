-- A policy of uffd-lua serve: memory as the image has it, but for one page, in which each clone finds who it is.
-- usage: uffd-lua serve --socket PATH --image FILE --policy microvm-policy.lua OFFSET [NAME]
--   OFFSET  where the page lies in the image, bytes
--   NAME    clones are NAME-1, NAME-2, ... (clone)
-- The page: the name and 32 random bytes, each after its length in 4 bytes, then zeros.
-- This chunk is called in a worker for each client, before the client's first fault.
local uffd = require "uffd"
local client, image, offset, name = ...
local PAGE <const> = 4096

offset = math.tointeger(tonumber(offset))
assert(offset and offset % PAGE == 0, "OFFSET must be that of a page")
assert(client.regions[1].page_size == PAGE, "this policy is for pages of 4 KiB")

local function random_bytes(count)
  local file <close> = assert(io.open("/dev/urandom", "rb"))
  return file:read(count)
end

-- Asked for that page alone, in a handler's Lua state of its own, which gets copies of the arguments.
local identity = assert(uffd.resolver.policy(function(args)
  local page = string.pack("<s4s4", args.name, args.secret)
  return function() return page end
end, { name = ("%s-%d"):format(name or "clone", client.id), secret = random_bytes(32) }))

return uffd.resolver.layers { { 0, image }, { offset, identity, length = PAGE } }
