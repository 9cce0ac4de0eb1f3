-- The configuration file of uffd-lua serve: a Lua table with the names of its options, and what --check finds out.
local core = require "uffd.core"
local uffd = require "uffd"

local config = {}

-- A value of the file as its option takes it; nil and what was expected.
local function convert(known, name, value)
  local converter = known[name]
  if converter == true then
    if type(value) == "boolean" then return value end
    return nil, "true or false"
  end
  if type(value) ~= "string" and math.type(value) ~= "integer" then return nil, "a string or an integer" end
  return converter(tostring(value))
end

-- A list of them, or one. A table with path, mode and uid is what the command line has as one text.
local function convert_several(known, name, value)
  local list = {}
  if type(value) ~= "table" or value.path then value = { value } end
  for i, one in ipairs(value) do
    if type(one) == "table" then
      local text = tostring(one.path)
      for _, key in ipairs { "mode", "uid" } do
        if one[key] then text = ("%s,%s=%s"):format(text, key, one[key]) end
      end
      one = text
    end
    local expected
    list[i], expected = convert({ [name] = known[name].convert }, name, one)
    if not list[i] then return nil, expected end
  end
  if #list == 0 then return nil, "a string, or a list of them" end
  return list
end

-- Puts the table that the file returns under the options of the command line, which stand; args are the words when
-- there are none. nil and a sentence: it is wrong. The file is a chunk of its own: it changes no globals.
function config.read(path, known, given, words)
  local chunk, message = loadfile(path, "t", setmetatable({ client_path = uffd.client_path }, { __index = _G }))
  if not chunk then return nil, message end
  local done, file = pcall(chunk)
  if not done then return nil, file end
  if type(file) ~= "table" then return nil, path .. ": it must return a table of options" end
  for key, value in pairs(file) do
    local name = type(key) == "string" and key:gsub("_", "-") or key
    if name == "args" then
      if #words == 0 then
        for i, word in ipairs(value) do words[i] = tostring(word) end
      end
    elseif not known[name] or name == "config" or name == "h" or name == "help" then
      return nil, ("%s: '%s' is not an option"):format(path, tostring(key))
    elseif given[name] == nil then
      local take = type(known[name]) == "table" and convert_several or convert
      if type(value) == "function" and (name == "image" or name == "policy") then
        take = function() return value end
      end
      local converted, expected = take(known, name, value)
      if converted == nil then return nil, ("%s: %s takes %s"):format(path, key, expected) end
      given[name] = converted or nil
    end
  end
  return true
end

-- ------------------------------------------------------------------------------------------------ --check

local ALONE = 64 << 10 -- bytes of a client of a policy that makes all contents

-- A client that there might be: one region, all of the image.
local function make_client(size)
  local page = uffd.probe().page_size
  local region = { address = 1 << 40, length = size, offset = 0, page_size = page }
  return { id = 1, of = 0, pid = core.pid(), uid = 0, gid = 0, size = size, regions = { region }, fds = {} }
end

-- Fills the first page, as a worker would for the client's first fault. Where nothing can be served here, nothing is
-- asked.
local function ask(resolver, size)
  local memory <close> = assert(uffd.map { size = size })
  local loop <close> = uffd.serve { { memory = memory, resolver = resolver } }
  if not loop then return "its pages are not asked for: no userfaultfd can be had here" end
  local byte, message = memory:read(0, 1)
  if not byte then return nil, loop:error() or message end
  return "the first page can be had"
end

-- The resolver of an image as the pager opens it: one raw file as it is, all else as layers.
local function open_image(paths)
  if not core.image_open and #paths == 1 then return uffd.resolver.file(paths[1]) end
  local image, message = uffd.image(paths)
  if not image then return nil, message end
  local top, count = image:layer(1), image:info().layers
  if count == 1 and top.format == "raw" and not top.indexed then return uffd.resolver.file(paths[1]) end
  return image.resolver
end

-- Tells what the options would do, without a socket. The exit code.
function config.check(given, resolver_of, fail)
  local image, message
  local size = ALONE
  local chosen = type(given.image) == "function" and "a function"
  for _, path in ipairs(not chosen and given.image or {}) do
    if path:find "[{}]" then
      local expanded
      expanded, message = uffd.client_path(path, { label = "x", socket = "x" })
      if not expanded then return fail(message) end
      chosen = table.concat(given.image, " + ")
    end
  end
  if chosen then
    print(("image: %s, for each client"):format(chosen))
  elseif given.image then
    image, message = open_image(given.image)
    if not image then return fail(message) end
    size = image.size
    print(("image: %s, %d bytes"):format(table.concat(given.image, " + "), size))
  end
  if given.replay and not given.replay:find "[{}]" then
    local set
    set, message = uffd.workingset.load(given.replay)
    if set and given.image then
      local length, identity = uffd.image_identity(given.image)
      if not length then return fail(identity) end
      local fits
      fits, message = set:check(length, identity)
      if not fits then return fail(message) end
    end
    if not set then return fail(message) end
    print(("replay: %s, %d pages"):format(given.replay, set:count()))
  end
  local resolver = image
  if chosen and not image then return 0 end
  if resolver_of then
    local done
    done, resolver, message = pcall(resolver_of, make_client(size), image)
    if not done then return fail(("%s: %s"):format(given.policy, resolver)) end
    if resolver == nil and message then return fail(("%s: %s"):format(given.policy, message)) end
    if not tostring(resolver):find "^uffd.resolver" then
      return fail(("%s: it returned a %s; it must return a uffd.resolver"):format(given.policy, type(resolver)))
    end
  end
  local answer
  answer, message = ask(resolver, math.max(size, 1))
  if not answer then return fail(("%s: %s"):format(given.policy or given.image[#given.image], message)) end
  print(("%s: %s"):format(given.policy or "client", answer))
  return 0
end

return config
