-- Where handler threads run.
local lu = require "luaunit"
local support = require "support"
local uffd = require "uffd"

local page = 4096
local tests = {}

function tests.test_placements_serve_and_say_what_they_are()
  for _, placement in ipairs { "none", "companion" } do
    local memory = assert(uffd.map { size = 64 * page })
    local loop <close> = assert(uffd.serve {
      { memory = memory, resolver = assert(uffd.resolver.bytes(support.letters(64))) },
      engine = "threads", placement = placement,
    })
    local _, why = loop:placement()
    lu.assertEquals(type(why), "string")
    lu.assertEquals(memory:read(), support.letters(64))
  end
  local loop <close> = assert(uffd.serve { engine = "threads", placement = "none" })
  local placement, why = loop:placement()
  lu.assertEquals(placement, "none")
  lu.assertStrContains(why, "asked for")
end

function tests.test_policies_move_between_threads()
  local policy = assert(uffd.resolver.policy(function()
    local calls = 0
    return function() calls = calls + 1 return string.pack("<I4", calls) end
  end))
  local memory = assert(uffd.map { size = 512 * page })
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = policy } })
  local seen = {}
  for i = 0, 511 do seen[memory:unpack("<I4", i * page)] = true end
  lu.assertEquals(#seen, 512)
  lu.assertEquals(loop:stats().policy_calls, 512)
end

function tests.test_refusals()
  support.raises("unknown placement 'here'", uffd.serve, { placement = "here" })
  local pump <close> = assert(uffd.serve { engine = "pump" })
  lu.assertEquals((pump:placement()), "none")
end

return tests
