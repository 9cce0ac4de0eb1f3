-- Runs every test_*.lua of this directory, each of which returns its tests, with luaunit, whose options are taken.
-- step, UFFD_TEST_GC=generational in that mode. Exit 77: nothing can be tested here, with the reason.
local directory = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = directory .. "/?.lua;" .. package.path

local function leave(reason)
  print("skipped: " .. reason)
  os.exit(77, true)
end

local found, luaunit = pcall(require, "luaunit")
if not found then leave "luaunit is not installed (Debian: lua-unit)" end
local probe = require "uffd".probe()
if not probe.usable then leave(table.concat(probe.advice, " ")) end

local modes = {
  hostile = function() collectgarbage("incremental", 1, 1000, 1) end,
  generational = function() collectgarbage("generational", 1, 1) end,
}
local mode = os.getenv "UFFD_TEST_GC"
if mode and mode ~= "" then assert(modes[mode], "UFFD_TEST_GC: hostile or generational")() end

local listing = assert(io.popen(("ls '%s'"):format(directory)))
for name in listing:lines() do
  local module = name:match "^(test_.*)%.lua$"
  if module then _G[module] = require(module) end
end
listing:close()

os.exit(luaunit.LuaUnit.run(), true)
