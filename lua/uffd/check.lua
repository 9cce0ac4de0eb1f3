-- uffd-lua --check: runs a script up to its first uffd.serve, and asks every policy that it made so far for one page.
-- Nothing is served, because uffd.serve and uffd.resolver.policy are replaced.
local core = require "uffd.core"
local uffd = require "uffd"

local policies = {}

local function ask(policy)
  local answer, message = core.ask(policy.resolver, 0)
  if answer ~= nil then return true end
  io.stderr:write(("uffd-lua: the policy made at %s: %s\n"):format(policy.place, message))
  return false
end

-- Asks all policies, prints how many answered, and returns the exit code.
local function conclude(script)
  local failed = 0
  for _, policy in ipairs(policies) do
    if not ask(policy) then failed = failed + 1 end
  end
  local found = #policies == 0 and "no policy" or ("%d of %d policies answered"):format(#policies - failed, #policies)
  print(script .. ": " .. found)
  return failed == 0 and 0 or 1
end

local make_policy = uffd.resolver.policy

local function keep_policy(...)
  local resolver, message, code = make_policy(...)
  if not resolver then return resolver, message, code end
  local caller = debug.getinfo(2, "Sl")
  policies[#policies + 1] = { resolver = resolver, place = ("%s:%d"):format(caller.short_src, caller.currentline) }
  return resolver
end

return function(script, run, ...)
  uffd.resolver.policy = keep_policy
  uffd.serve = function() os.exit(conclude(script), true) end
  run(...)
  return conclude(script)
end
