-- uffd-lua offload: virtual machines of Cloud Hypervisor, saved and restored by its offload protocol.
local core = require "uffd.core"
local uffd = require "uffd"
local arguments = require "uffd.arguments"
local beside = require "uffd.beside"
local figures = require "uffd.figures"
local json = require "uffd.json"

local usage = "offload restore|snapshot SOCKET DIRECTORY [options]"
local help = [[
usage: uffd-lua offload restore SOCKET DIRECTORY [options]
       uffd-lua offload snapshot SOCKET DIRECTORY [--timeout TIME] [--json]
Virtual machines of Cloud Hypervisor, by its offload protocol. A snapshot is a directory of three files:
migration_config.json and state.json as Cloud Hypervisor sends them, and memory.img, its memory.
  snapshot        waits at SOCKET for a machine that is paused: ch-remote send-migration
                  destination_url=unix:SOCKET,local=on; it is on the disk when that ends
  restore         brings it back, to where SOCKET is that of: ch-remote receive-migration
                  receiver_url=unix:SOCKET,memory_mode=postcopy. The machine runs at once; a pager
                  fills its memory page by page, as it is asked for. Ends when all is there
of restore:
  --paused        the machine stays paused
  --door SOCKET   of a pager that runs already, whose image is memory.img, or layers on it; without
                  it a pager is started, which ends with this program
  --image FILE    what the memory holds, as for uffd-lua serve (default: memory.img of DIRECTORY)
  --policy FILE   a Lua chunk that makes the resolver of the machine, as for uffd-lua serve
  --around, --prefetch, --record, --replay, --rate, --workers, --watchdog, --control
                  as for uffd-lua serve, of the pager that is started
  --figures       of that pager: a table of what was served, on stderr at the end
  --label TEXT    what the pager is to call the machine
  --page-size N   of the machine's memory: 4K (default), or 2M for huge pages of the host
of both:
  --timeout TIME  for each answer of Cloud Hypervisor (default 60s); restore: also how long a page waits for
                  another pager when the pager is gone
  --json          what was done as JSON
  --help          show this and stop
exit codes: 0 done, 1 failed, 2 wrong usage, 77 the kernel or the permissions lack what is needed]]

local lacking = { ENOSYS = true, EOPNOTSUPP = true, EPERM = true }

local function fail(verb, message, errno)
  local code = arguments.fail("offload " .. verb, message)
  return lacking[uffd.errno[errno]] and 77 or code
end

local fields = { "slots", "bytes", "requests", "failed", "restarts", "doubts", "paused" }

local function encode(result)
  local list = {}
  for _, name in ipairs(fields) do
    if result[name] ~= nil then list[#list + 1] = { name, result[name] } end
  end
  return json.encode { object = list }
end

local function tell(given, text, result)
  print(given.json and encode(result) or text)
  io.stdout:flush()
end

local function describe(result)
  return ("%s, %s MiB"):format(figures.count(result.slots, "slot"), figures.mebibytes(result.bytes))
end

local function snapshot(given, socket, directory)
  local result, message, errno = uffd.offload.snapshot { socket = socket, directory = directory,
    timeout = given.timeout }
  if not result then return fail("snapshot", message, errno) end
  tell(given, "saved: " .. describe(result), result)
  return 0
end

local function restore_by(given, socket, directory, door)
  local result, message, errno = uffd.offload.restore { socket = socket, directory = directory, door = door,
    label = given.label, page_size = given["page-size"], timeout = given.timeout, paused = given.paused,
    restored = function()
      if given.json then return end
      tell(given, given.paused and "restored, and paused" or "restored, and running")
    end }
  if not result then return fail("restore", message, errno) end
  tell(given, ("all there: %s, %d requests for pages"):format(describe(result), result.requests), result)
  if result.restarts > 0 then
    io.stderr:write(("uffd-lua offload restore: whoever answers the machine was replaced %d times\n"):format(
      result.restarts))
  end
  if result.failed == 0 then return 0 end
  return fail("restore", ("%d pages could not be filled: the pager says why"):format(result.failed))
end

-- With a pager beside it: this program has the pager, and the restore is a child.
local function restore_beside(given, socket, directory)
  given.image = given.image or { directory .. "/memory.img" }
  local code, watch, errno = beside.run("offload restore", given, true, function(door)
    local words = { core.program(), "offload", "restore", socket, directory, "--door", door }
    for _, name in ipairs { "paused", "json" } do
      if given[name] then words[#words + 1] = "--" .. name end
    end
    for name, unit in pairs { label = "", timeout = "ms", ["page-size"] = "" } do
      if given[name] then words[#words + 1] = ("--%s=%s%s"):format(name, given[name], unit) end
    end
    return words, {}
  end)
  if not code then return fail("restore", watch, errno) end
  return watch.failed and code == 0 and 1 or code
end

local function page_size(text)
  local bytes = arguments.bytes(text)
  if bytes == 4096 or bytes == 2 << 20 then return bytes end
  return nil, "4K or 2M"
end

local function around(text)
  if text == "auto" then return text end
  return arguments.bytes(text)
end

local known = {
  help = true, ["-h"] = "help", json = true, paused = true, figures = true, prefetch = true,
  door = arguments.text, image = arguments.several(arguments.text), policy = arguments.text, around = around,
  record = arguments.text, replay = arguments.text, rate = arguments.bytes, workers = arguments.integer,
  watchdog = arguments.integer, control = arguments.text, label = arguments.text, ["page-size"] = page_size,
  timeout = arguments.milliseconds,
}

-- What is wrong with the options, or nil.
local function check(verb, given, count)
  if verb ~= "restore" and verb ~= "snapshot" then
    return verb and ("'%s' is none of its verbs"):format(verb) or "what is to be done: restore, or snapshot?"
  end
  if count ~= 2 then return "it needs a SOCKET and a DIRECTORY" end
  for name in pairs(given) do
    if verb == "snapshot" and name ~= "timeout" and name ~= "json" then
      return ("--%s is for a restore"):format(name)
    end
  end
  for _, name in ipairs(beside.passed) do
    if given.door and given[name] then
      return ("--%s is for a pager that is started here, without --door"):format(name)
    end
  end
  return given.door and given.figures and "--figures is for a pager that is started here, without --door" or nil
end

return function(...)
  local given, words = arguments.parse(known, ...)
  if not given then return arguments.refuse("offload", words, usage) end
  if given.help then
    print(help)
    return 0
  end
  local verb, socket, directory = table.unpack(words)
  local wrong = check(verb, given, #words - 1)
  if wrong then return arguments.refuse("offload", wrong, usage) end
  if verb == "snapshot" then return snapshot(given, socket, directory) end
  if given.door then return restore_by(given, socket, directory, given.door) end
  return restore_beside(given, socket, directory)
end
