-- Lists that stand in several places are the same everywhere: statistics, the options of a pager, those of the runner's
-- commands and their help, and what a pager tells of itself. Where a place cannot be asked, its text is read.
local lu = require "luaunit"
local support = require "support"
local core = require "uffd.core"
local uffd = require "uffd"

local tests = {}

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

local function set_of(list, but)
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  for _, name in ipairs(but or {}) do set[name] = nil end
  return set
end

-- Both sets hold the same names.
local function same(a, b, what)
  local only_a, only_b = {}, {}
  for name in pairs(a) do
    if not b[name] then only_a[#only_a + 1] = name end
  end
  for name in pairs(b) do
    if not a[name] then only_b[#only_b + 1] = name end
  end
  lu.assertEquals({ only_a, only_b }, { {}, {} }, what)
end

local function matches(text, pattern)
  local list = {}
  for name in text:gmatch(pattern) do list[#list + 1] = name end
  return list
end

-- The members of a struct in a public header, in their order.
local function members(header, name)
  local body = assert(read("include/" .. header):match("\nstruct " .. name .. " {\n(.-)\n};"), name)
  body = body:gsub("/%*.-%*/", "")
  local list = {}
  for declaration in body:gmatch "[^;]+;" do
    list[#list + 1] = declaration:match "%(%*([%w_]+)%)" or declaration:match "([%w_]+)%s*;$"
  end
  return list
end

-- The fields of a class in the types, or the names in backquotes.
local function typed(path, class)
  local block = assert(read(path):match("%-%-%-@class " .. class .. "\n(.-)\n[^-]"), class)
  return set_of(matches("\n" .. block, "\n%-%-%-@field ([%w_]+)"))
end

local function keys(values)
  local list = {}
  for key in pairs(values) do list[#list + 1] = key end
  return list
end

-- Statistics

function tests.test_statistics()
  local fields = members("uffd.h", "uffd_stats")
  lu.assertEquals(table.remove(fields, 1), "size")
  lu.assertEquals(core.stats_fields, fields)
  local _, loop = support.serve(uffd.resolver.zero(), 1)
  local _ <close> = loop
  same(set_of(keys(loop:stats())), set_of(fields), "loop:stats()")
  same(typed("lua/uffd/core.d.lua", "uffd%.Stats"), set_of(fields), "uffd.Stats")
end

-- The options of a pager

-- What uffd.pager says it takes.
local function pager_keys()
  local done, message = pcall(uffd.pager, { nonsense = true })
  lu.assertFalse(done)
  return set_of(matches(assert(message:match "it takes (.*)"), "[%w_]+"))
end

-- As they are called in C; others have the same name.
local in_lua = { socket_mode = { "mode" }, handshake_ms = { "handshake" }, watchdog_ms = { "watchdog" },
  hang_ms = { "hang" }, doors = {}, doors_count = {}, images = { "image" },
  flags = { "once", "prefetch", "keep", "share" }, size = {}, reserved = {}, resolver_ctx = {}, choose_ctx = {},
  report_ctx = {} }

function tests.test_options_of_a_pager()
  lu.skipIf(not core.pager_create, "built without the pager")
  local known, in_c, asked = pager_keys(), {}, {}
  for _, member in ipairs(members("uffd_pager.h", "uffd_pager_opts")) do
    for _, name in ipairs(in_lua[member] or { member }) do in_c[name] = true end
  end
  same(in_c, known, "struct uffd_pager_opts and uffd.pager")
  same(typed("lua/uffd/init.lua", "uffd%.PagerOptions"), known, "uffd.PagerOptions and uffd.pager")
  local options = setmetatable({}, { __index = function(_, key) asked[key] = true end })
  lu.assertNil((core.pager_create(options)))
  asked.doors = nil -- made of a `socket` that is a list
  same(asked, known, "what the core reads and uffd.pager")
end

-- The commands

-- A command's options as it parses them (name to its converter), and its help.
local function command(module, ...)
  local arguments = require "uffd.arguments"
  local parse, refuse, print_before, write_before = arguments.parse, arguments.refuse, print, io.write
  local known, help = nil, {}
  local _ <close> = setmetatable({}, { __close = function()
    arguments.parse, arguments.refuse = parse, refuse
    print, io.write = print_before, write_before -- luacheck: ignore 121 122
  end })
  print = function(text) help[#help + 1] = text end -- luacheck: ignore 122 121
  io.write = print -- luacheck: ignore 122
  arguments.refuse = function() return 2 end
  arguments.parse = function(list)
    known = list
    return nil, "no more is wanted"
  end
  local run = require(module)
  run(...)
  arguments.parse = parse
  run "--help"
  return known, table.concat(help, "\n")
end

-- The options that stand in a help: those that are told of, and those in the usage.
local function told(help)
  local set = set_of(matches(help, "%-%-(%l[%l-]*)"), { "help" })
  if help:find "%-o OUT" then set.output = true end
  return set
end

local function long(known)
  local set = {}
  for name, convert in pairs(known) do
    if type(convert) ~= "string" and name ~= "help" then set[name] = true end
  end
  return set
end

function tests.test_help_of_commands()
  for _, name in ipairs { "serve", "ctl", "run", "trace", "offload" } do
    local known, help = command("uffd." .. name)
    -- Words about other programs.
    local foreign = name == "ctl" and { "control", "on-drain" } or {}
    same(long(known), set_of(keys(told(help)), foreign), name)
  end
end

function tests.test_help_of_verbs()
  local verbs = { image = "info map cat compare diff verify index create convert compact commit rebase import cache",
    ws = "info merge diff plot" }
  verbs.image = verbs.image .. " plot bench"
  for name, list in pairs(verbs) do
    local all, help = {}, nil
    for verb in list:gmatch "%l+" do
      local known
      known, help = command("uffd." .. name, verb)
      for option in pairs(long(known)) do all[option] = true end
      lu.assertStrContains(help, "uffd-lua " .. name .. " " .. verb)
    end
    same(all, told(help), name)
  end
end

function tests.test_options_of_serve_are_those_of_a_pager()
  lu.skipIf(not core.pager_create, "built without the pager")
  local known, mine = command "uffd.serve", {}
  for name in pairs(long(known)) do mine[(name:gsub("-", "_"))] = true end
  -- A policy is the resolver, a function as image chooses; the program itself has the report and starts the workers;
  -- the default of handshake does.
  for _, name in ipairs { "json", "policy", "log", "timestamps", "check", "config" } do mine[name] = nil end
  for _, name in ipairs { "resolver", "choose", "report", "worker", "handshake" } do mine[name] = true end
  same(mine, pager_keys(), "serve and uffd.pager")
end

-- What a pager tells of itself

-- The names that a function of the control socket puts into its object.
local function put(name)
  local body = assert(read "csrc/serve/supervisor/control.c":match("\nstatic json_t %*" .. name .. "%(.-\n}"), name)
  return set_of(matches(body, '%(%l+, "([%w_]+)"'))
end

-- The words of an item in the documentation of uffd.pager_ask.
local function documented(request)
  local text = read "lua/uffd/init.lua":gsub("\n%-%-%-", " ")
  local item = assert(text:match('in that of "' .. request .. '": (.-) %*'), request)
  return set_of(matches((item:match "with (.*), and" or item):gsub("%b()", ""), "[%w_]+"))
end

function tests.test_status_of_a_pager()
  local fields = set_of(matches(read "lua/uffd/ctl.lua":match "\nlocal status_fields = {(.-)}", '"([%w_]+)"'))
  same(put "tell_status", fields, "control.c and ctl.lua")
  same(documented "status", fields, "init.lua and ctl.lua")
  local status = set_of(members("uffd_pager.h", "uffd_pager_status"), { "size" })
  same(set_of(keys(fields), { "version", "pid" }), status, "ctl.lua and struct uffd_pager_status")
  same(typed("lua/uffd/core.d.lua", "uffd%.PagerStatus"), status, "uffd.PagerStatus and struct uffd_pager_status")
end

function tests.test_clients_of_a_pager()
  local figures = require "uffd.figures"
  local all = setmetatable({}, { __index = function() return 0 end })
  local object, fields = figures.client_object(setmetatable({ regions = 1, stats = all }, getmetatable(all)), 1), {}
  for _, member in ipairs(object.object) do fields[member[1]] = true end
  same(put "client_object", fields, "control.c and figures.lua")
  fields.stats = nil
  same(documented "clients", fields, "init.lua and figures.lua")
end

return tests
