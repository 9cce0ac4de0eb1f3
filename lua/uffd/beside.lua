-- A pager that is started beside one program, and ends with it: shared by uffd-lua run and uffd-lua offload.
local core = require "uffd.core"
local uffd = require "uffd"
local figures = require "uffd.figures"

local beside = {}

-- The options of serve that are passed on to the pager; its workers get them as arguments.
beside.passed = { "image", "policy", "around", "prefetch", "record", "replay", "rate", "workers", "watchdog",
  "control" }

local function pager_options(given, door)
  local options, command = { socket = door }, { core.program(), "serve", "--socket", door }
  for _, name in ipairs(beside.passed) do
    local value = given[name]
    if name ~= "policy" then options[name] = value end
    for _, word in ipairs(type(value) == "table" and value or { value }) do -- nil: none
      command[#command + 1] = "--" .. name
      if word ~= true then command[#command + 1] = tostring(word) end
    end
  end
  options.worker = command
  return options
end

local Watch = {}
Watch.__index = Watch

local ended = { gone = "gone", complete = "complete", frozen = "frozen" }

function Watch:say(text) io.stderr:write("uffd-lua ", self.command, ": ", text, "\n") end

function Watch:keep(client, now_ns, state)
  local row = self.rows[client.id] or {}
  if not self.rows[client.id] then self.order[#self.order + 1] = row end
  self.rows[client.id] = row
  row.client = client
  row.elapsed_ns = math.max(now_ns - client.since_ns, 0)
  row.ended = state or row.ended or client.state
end

-- Prints what went wrong. A program whose memory was refused, and which is not told, would sleep for ever.
function Watch:tell(event)
  local client, kind = event.client, event.kind
  if client then self:keep(client, event.time_ns, ended[kind]) end
  local who = client and ("process %d: "):format(client.pid) or ""
  if kind == "refused" and self.told then
    return
  elseif kind == "refused" then
    self:say("the pager refuses this memory: " .. event.text)
    self.failed = true
    core.kill(event.pid and event.pid > 0 and event.pid or self.child)
  elseif kind == "frozen" then
    self:say(who .. "its faults are not answered any more: " .. event.text)
    self.failed = true
  elseif kind == "died" then
    self:say(("worker %d of the pager has died, and is replaced"):format(event.worker))
  elseif kind ~= "client" and kind ~= "gone" and kind ~= "complete" and kind ~= "worker" and kind ~= "retired" then
    self:say(who .. event.text)
  end
end

-- Serves until the child has ended, and all processes that it left behind.
local function serve(pager, watch)
  local code
  repeat
    local goes_on, message, errno = pager:step(50)
    if goes_on == nil then
      core.kill(watch.child)
      return nil, message, errno
    end
    code = code or core.wait(watch.child)
  until code and #pager:clients() == 0
  return code
end

-- Starts a pager with the options that are given, and the program that start(door) tells: its words and environment.
-- told: the program itself hears when its memory is refused, and says so.
-- The exit code of the program, and what was seen: whether something failed, and a row for each client; or nil, a
-- message and an errno.
function beside.run(command, given, told, start)
  local directory, message, errno = core.make_directory()
  if not directory then return nil, message, errno end
  local door = directory .. "/door"
  local watch = setmetatable({ command = command, told = told, rows = {}, order = {} }, Watch)
  local options = pager_options(given, door)
  options.report = function(event) watch:tell(event) end
  if given.policy then
    options.resolver, message = loadfile(given.policy)
    if not options.resolver then
      os.remove(directory)
      return nil, message
    end
  end
  local pager, code
  pager, message, errno = uffd.pager(options)
  if pager then
    watch.child, message, errno = core.spawn(start(door))
    if watch.child then code, message, errno = serve(pager, watch) end
    pager:close()
  end
  os.remove(directory)
  if not code then return nil, message, errno end
  if given.figures and #watch.order > 0 then io.stderr:write(figures.table(watch.order), "\n") end
  return code, watch
end

return beside
