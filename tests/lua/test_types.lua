-- Every function of the module and of every class is in the types that are shipped, and the types name no others.
local lu = require "luaunit"
local core = require "uffd.core"
local uffd = require "uffd"

local tests = {}

local function source(name)
  local path = assert(package.searchpath("uffd", package.path)):gsub("init%.lua$", name)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

-- "Class.name" for every function that is declared in the text, by the class annotation of its local table.
local function declared(text)
  local class_of, found = {}, {}
  local class, documented
  for line in text:gmatch "[^\n]*" do
    class = line:match "^%-%-%-@class ([%w_.]+)" or class
    local variable = line:match "^local ([%w_]+) = {}"
    if variable then class_of[variable] = class end
    local owner, name = line:match "^function ([%w_]+)[:.]([%w_]+)"
    if not owner then owner, name = line:match '^([%w_]+)%["([%w_]+)"%] = function' end
    if owner and class_of[owner] and documented then found[class_of[owner] .. "." .. name] = true end
    documented = line:find "^%-%-%-" ~= nil
  end
  return found
end

local classes = {
  object = "uffd.Object", memory = "uffd.Memory", resolver = "uffd.Resolver", loop = "uffd.Loop",
  region = "uffd.Region", prefetch = "uffd.Prefetch", workingset = "uffd.WorkingSet",
  pager = "uffd.Pager", handoff = "uffd.Handoff", image = "uffd.Image", store = "uffd.Store",
}

local function functions_of(list, class, found)
  for name, value in pairs(list) do
    if type(value) == "function" then found[class .. "." .. name] = true end
  end
end

local function compare(real, typed)
  local missing, extra = {}, {}
  for name in pairs(real) do
    if not typed[name] then missing[#missing + 1] = name end
  end
  for name in pairs(typed) do
    if not real[name] then extra[#extra + 1] = name end
  end
  lu.assertEquals(missing, {}, "without types")
  lu.assertEquals(extra, {}, "types of nothing")
end

function tests.test_core()
  local real = {}
  functions_of(core, "uffd.core", real)
  for name, methods in pairs(core.methods) do
    lu.assertNotNil(classes[name], name)
    functions_of(methods, classes[name], real)
  end
  compare(real, declared(source "core.d.lua"))
end

function tests.test_module()
  local real = {}
  functions_of(uffd, "uffd", real)
  functions_of(uffd.resolver, "uffd.resolver", real)
  functions_of(uffd.workingset, "uffd.workingset", real)
  functions_of(uffd.image, "uffd.image", real)
  functions_of(uffd.image.cache, "uffd.image.cache", real)
  functions_of(uffd.store, "uffd.store", real)
  functions_of(uffd.offload, "uffd.offload", real)
  functions_of(getmetatable(require "uffd.histogram" {}), "uffd.Histogram", real)
  local typed = declared(source "init.lua")
  for name in pairs(declared(source "histogram.lua")) do typed[name] = true end
  for name in pairs(declared(source "images.lua")) do typed[name] = true end
  compare(real, typed)
end

-- Fields of the classes, of events, statistics and the like.
function tests.test_fields()
  local text = source "core.d.lua"
  local function fields(class)
    local found = {}
    local block = assert(text:match("%-%-%-@class " .. class:gsub("%.", "%%.") .. "\n(.-)\n[^-]"), class)
    for name in (block .. "\n"):gmatch "%-%-%-@field ([%w_]+)" do found[name] = true end
    return found
  end
  local memory <close> = assert(uffd.map { size = "1M", kind = "memfd" })
  for name in pairs(fields "uffd.Memory") do lu.assertNotNil(memory[name], name) end
  local loop <close> = assert(uffd.serve { { memory = memory, resolver = uffd.resolver.zero() } })
  compare(loop:stats(), fields "uffd.Stats")
  for name in pairs(fields "uffd.Region") do lu.assertNotNil(loop:regions()[1][name], name) end
  if core.workingset_create then
    compare(uffd.workingset({ length = 4096 }):info(), fields "uffd.WorkingSetInfo")
  end
  local probed = fields "uffd.Probe"
  for name in pairs(uffd.probe()) do lu.assertTrue(probed[name], name) end
end

return tests
