-- ws.lua FILE LENGTH PAGE...: writes a working set of these pages of 4 KiB, in this order; "w" behind a number: by a
-- write. IDENTITY in the environment is that of the image (default 42).
local uffd = require "uffd"

local path, length = arg[1], arg[2]
local set = assert(uffd.workingset { length = length, identity = math.tointeger(os.getenv "IDENTITY" or 42) })
for i = 3, #arg do
  local number, kind = arg[i]:match "^(%d+)(w?)$"
  assert(set:add(math.tointeger(number) << 12, kind == "w" and "write" or nil))
end
assert(set:save(path))
