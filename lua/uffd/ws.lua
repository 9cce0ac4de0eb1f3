-- uffd-lua ws: looks into files of working sets. It only shows what uffd.workingset tells.
local arguments = require "uffd.arguments"

local usage = "ws info|merge|diff|plot FILE..."
local verbs = {}

return function(verb, ...)
  if verb == "--help" or verb == "-h" then
    print("usage: uffd-lua " .. usage)
    return 0
  end
  if verb == nil then return arguments.refuse("ws", "what is to be done with which file?", usage) end
  if not verbs[verb] then return arguments.refuse("ws", ("'%s' is none of its verbs"):format(verb), usage) end
  return verbs[verb](...)
end
