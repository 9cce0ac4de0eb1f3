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
