-- The module itself: versions, errors by name and number, what the kernel can do, the clock.
local lu = require "luaunit"
local support = require "support"
local uffd = require "uffd"

local tests = {}

function tests.test_version()
  lu.assertStrMatches(uffd.version, "%d+%.%d+%.%d+")
  lu.assertEquals(uffd._VERSION, "uffd " .. uffd.version)
end

-- Lua files of one installation with the core of another say so when they are loaded.
function tests.test_versions_that_mix()
  local core = require "uffd.core"
  local path = assert(package.searchpath("uffd", package.path))
  local load_module = assert(loadfile(path))
  local version <close> = setmetatable({ core.version }, { __close = function(self) core.version = self[1] end })
  core.version = "0.0.7"
  local message = support.raises("two installations mix", load_module)
  lu.assertStrContains(message, "0.0.7")
  lu.assertStrContains(message, version[1])
end

function tests.test_nothing_global()
  lu.assertNil(rawget(_G, "uffd"))
  lu.assertIs(require "uffd", uffd)
end

function tests.test_errno_both_ways()
  lu.assertEquals({ uffd.errno.EPERM, uffd.errno.EINVAL, uffd.errno.EHWPOISON }, { 1, 22, 133 })
  lu.assertEquals({ uffd.errno[1], uffd.errno[22], uffd.errno[133] }, { "EPERM", "EINVAL", "EHWPOISON" })
  for name, number in pairs(uffd.errno) do
    if type(name) == "string" then lu.assertEquals(uffd.errno[number], name) end
  end
end

function tests.test_probe()
  local probe = uffd.probe()
  lu.assertIsTrue(probe.usable)
  lu.assertNotNil(({ syscall = true, device = true })[probe.route])
  lu.assertIsBoolean(probe.user_mode_only)
  lu.assertIsBoolean(probe.event_fork)
  lu.assertStrMatches(probe.kernel, "%d+%.%d+.*")
  lu.assertIsTrue(#probe.features > 0)
  local seen = {}
  for _, name in ipairs(probe.features) do seen[name] = true end
  for _, name in ipairs(probe.missing) do lu.assertNil(seen[name], name) end
  lu.assertEquals(probe.page_size % 4096, 0)
  for _, sentence in ipairs(probe.advice) do lu.assertIsTrue(#sentence > 0) end
  if support.user_mode_only then lu.assertIsTrue(#probe.advice > 0) end
end

function tests.test_now()
  local before = uffd.now()
  lu.assertEquals(math.type(before), "float")
  lu.assertIsTrue(uffd.now() >= before)
end

return tests
