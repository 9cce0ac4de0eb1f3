local uffd = require "uffd"

local image    = uffd.resolver.bytes { pattern = "an image, repeated. " } -- or uffd.resolver.file "snapshot.img"
local identity = uffd.resolver.policy(function(args)     -- the factory: runs once in each handler's own Lua state
  return function() return "I am " .. args.name end       -- the policy: fills one page; after the text come zeros
end, { name = "clone-7" })

local memory = assert(uffd.map { size = "1M" })
local layers = uffd.resolver.layers { { 0, image }, { 64 * 4096, identity, length = 4096 } }
local loop <close> = assert(uffd.serve { { memory = memory, resolver = layers } })
print(memory:read(0, 8), (memory:unpack("z", 64 * 4096))) -- touches two pages: two faults
print(loop:stats().faults .. " faults, " .. loop:stats().policy_calls .. " answered by the policy")
