-- uffd-lua serve: answers the page faults of other processes. The supervisor is this program; its workers are this
-- program started again with the same arguments, so that SIGHUP brings a new one and a new policy.
local core = require "uffd.core"
local uffd = require "uffd"
local arguments = require "uffd.arguments"
local config = require "uffd.serve_config"
local figures = require "uffd.figures"
local json = require "uffd.json"

local usage = "serve --socket PATH [--image FILE]... [options] [--policy FILE.lua [ARGS]]"
local help = [[
usage: uffd-lua ]] .. usage .. "\n" .. [[
Answers the page faults of processes that hand over their userfaultfd at a socket, as Firecracker does and uffd.handoff.
  --socket PATH         a front door; a stale socket is replaced. It may be given several times, and as
                        PATH,mode=OCTAL,uid=N it has a mode and a user of its own instead of those of --mode and --uid
  --image FILE          what their memory holds: a raw file, a zstd file, or an increment, whose parents are looked for;
                        several times for a stack of layers, the lowest first. With braces, such as
                        /snapshots/{label}/ram.img, each client has its own image: {label} is what it calls itself,
                        {socket} the name of the front door's file without its directory and ".sock", {uid}, {gid} and
                        {pid} those of who connected; two braces stand for one
  --door KIND           what is spoken at the front door: firecracker, as above, or criu, for its lazy restores: then
                        PATH is WORKDIR/lazy-pages.socket, and --image the directory of the dump (firecracker)
  --policy FILE [ARGS]  a Lua chunk that makes the resolver of a client: it is called in a worker, with the client, the
                        image and ARGS, and returns a resolver; without an image it must make everything. FILE may have
                        braces, as --image
  --workers N           worker processes (1)
  --around SIZE|auto    bytes answered around a fault (auto; with --record, a page)
  --prefetch            fill each client's memory in the background, faults first
  --share               one copy of the image's pages in memory for all clients that ask for it, as
                        uffd.handoff { shared = true } does; not with a policy, or an image for each client
  --record FILE         write the working set of the first client that is gone to FILE, those of others to FILE.ID
  --replay FILE         prefetch this working set (none). It may have braces where --image has; a client whose FILE is
                        not there is served without
  --rate SIZE           of prefetching, a second and client, such as 64M (no limit)
  --once                serve one client, and end when it is gone
  --max-clients N       clients at a time; more are refused (256)
  --max-clients-per-process N  of them, that one process may bring (three quarters)
  --max-clients-per-user N  of them, that one user may have (all)
  --max-regions N       of a client (4096)
  --max-bytes SIZE      of a handshake (1M)
  --mode OCTAL          of the front door's file (600)
  --uid N               a user who may connect, beside root and this one
  --control PATH        a control socket, for uffd-lua ctl
  --control-mode OCTAL  of its file: whoever may connect may look (600)
  --control-uid N       a user who may give orders there, beside root and this one
  --metrics WHERE       metrics for Prometheus by HTTP: path of a socket, or HOST:PORT of a loopback address
  --on-crash WHAT       kill or freeze the clients of a worker that cannot be replaced (kill)
  --on-drain WHAT       on SIGTERM: complete the memory of all clients, or refuse new ones and serve on (complete)
  --watchdog MS         name faults that wait for longer (1000)
  --hang TIME           replace a worker that hangs for so long, such as 500ms or 10s; a client whose policy does it
                        twice is dealt with as --on-crash says (10s)
  --log LEVEL           of the lines on stderr: error, warning, or info, which is all (info)
  --timestamps          a time before each of them; in the journal of systemd they have a priority and a time anyway
  --keep                a small process beside this one holds the clients' descriptors: when this one is killed, also
                        together with its workers, it is started again and takes all clients over. systemd does the
                        same without it (FileDescriptorStoreMax=, NotifyAccess=main)
  --config FILE         a Lua file that returns a table of these options: { image = "base.img", on_crash = "freeze",
                        policy = "p.lua", args = { "web" } }; those of the command line stand. image and policy may be
                        functions of the client (id, pid, uid, gid, label, socket) that return a path; nil and a
                        sentence refuse it; client_path(TEMPLATE, client) is there for them
  --check               tell whether it would work: image, working set, and the policy, which is called for a client
                        that is made up; nothing is served
  --json                a line of JSON for each thing that happens, and each client's figures at the end
  --help                show this and stop
SIGHUP replaces the workers, without a lost fault; the policy and the --config are read anew. What changes: --around,
--prefetch, --rate, --watchdog, --log, --timestamps, --max-clients..., --max-regions, --max-bytes, --on-crash,
--on-drain, --hang, --control-uid, and --image for new clients; what cannot is told, and stays. SIGTERM and SIGINT
drain (see --on-drain); another one ends at once, and the clients that are there are killed. On a terminal, a line on
stderr tells how it goes; at the end, a table on stdout how it went. systemd: uffd-pager.service and .socket are
installed; their sockets take the place of --socket.
exit codes: 0 done, 1 failed, or a client could not be served, 2 wrong usage, 3 served, but pages of a client failed or
were poisoned: it lost data, 77 the kernel or the permissions lack what is needed]]

local function octal(text)
  local mode = text:find "^[0-7]+$" and tonumber(text, 8)
  if mode and mode > 0 and mode <= 511 then return mode end
  return nil, "an octal mode, such as 660"
end

local function size_or_auto(text)
  if text == "auto" then return text end
  return arguments.bytes(text)
end

-- "PATH", "PATH,mode=660", "PATH,uid=1000,mode=660": only what has that form is taken off the path.
local function door(text)
  local taken = { path = text }
  for _ = 1, 2 do
    local path, name, value = taken.path:match "^(.+),(%l+)=(%d+)$"
    if name == "mode" and not taken.mode then
      taken.mode = octal(value)
      if not taken.mode then return nil, "a path, with a mode such as ,mode=660" end
    elseif name == "uid" and not taken.uid then
      taken.uid = math.tointeger(tonumber(value))
      if not taken.uid or taken.uid > 0xfffffffe then return nil, "a path, with a user's number such as ,uid=1000" end
    else
      break
    end
    taken.path = path
  end
  return taken
end

-- What the core has 32 bits for; 0 would be the default.
local count, user = arguments.range(1, 0xffffffff), arguments.range(0, 0xfffffffe)

local function count_of_bytes(text)
  local bytes, expected = arguments.bytes(text)
  if not bytes or bytes > 0 and bytes <= 0xffffffff then return bytes, expected end
  return nil, "bytes, at least 1 and less than 4G"
end

local known = {
  help = true, h = "help", check = true, config = arguments.text, keep = true, json = true, timestamps = true,
  log = arguments.choice("error", "warning", "info"),
  once = true, prefetch = true, share = true,
  socket = arguments.several(door), control = arguments.text, metrics = arguments.text,
  image = arguments.several(arguments.text), policy = arguments.text, record = arguments.text, replay = arguments.text,
  workers = arguments.range(1, 64), uid = user, watchdog = count,
  hang = arguments.milliseconds, ["control-uid"] = user, ["control-mode"] = octal,
  ["max-regions"] = count, ["max-bytes"] = count_of_bytes,
  door = arguments.choice("firecracker", "criu"),
  mode = octal, rate = arguments.bytes, around = size_or_auto,
  ["max-clients"] = count, ["max-clients-per-process"] = count, ["max-clients-per-user"] = count,
  ["on-crash"] = arguments.choice("kill", "freeze"),
  ["on-drain"] = arguments.choice("complete", "refuse"),
}

-- What is this program's, and not the pager's.
local own = {
  help = true, check = true, config = true, json = true, policy = true, log = true, timestamps = true, keep = true,
}

-- The options of uffd.pager. Workers and the supervisor get the same arguments, and make the same options of them.
local function pager_options(given)
  local options = {}
  for name, value in pairs(given) do
    if not own[name] then options[name:gsub("-", "_")] = value end
  end
  return options
end

local function is_template(path) return type(path) == "string" and path:find "[{}]" ~= nil end

-- The path of a client's own policy; nil and a sentence.
local function policy_of(policy, client)
  if type(policy) == "string" then return uffd.client_path(policy, client) end
  local path, message = policy(client)
  if type(path) == "string" then return path end
  return nil, message or ("the function policy returned a %s, and not a path"):format(type(path))
end

-- The resolver function of a policy file. It is compiled now; nil and the message if that fails. Where each client has
-- its own, a worker compiles each file once.
local function load_policy(policy, words)
  local chunks = {}
  if type(policy) ~= "function" and not is_template(policy) then
    local chunk, message = loadfile(policy)
    if not chunk then return nil, message end
    chunks[policy] = chunk
  end
  return function(client, image)
    local path, message = policy, nil
    if not chunks[path] then path, message = policy_of(policy, client) end
    if path and not chunks[path] then chunks[path], message = loadfile(path) end
    if not path or not chunks[path] then return nil, message end
    return chunks[path](client, image, table.unpack(words))
  end
end

-- A policy file prints to stderr, because stdout has the supervisor's table or JSON.
local function print_to_stderr()
  io.output(io.stderr)
  function print(...) -- luacheck: ignore 121
    local words = table.pack(...)
    for i = 1, words.n do words[i] = tostring(words[i]) end
    io.stderr:write(table.concat(words, "\t"), "\n")
  end
end

-- The function that finds a client's image, and looks whether its policy can be had: a client that would have none is
-- refused, and told so. It runs in a copy of this process. nil: all clients have the same.
local function chooser(given)
  local policy = (type(given.policy) == "function" or is_template(given.policy)) and given.policy
  local image = type(given.image) == "function" and given.image
  if not policy and not image then return nil end
  return function(client)
    print_to_stderr()
    if policy then
      local path, message = policy_of(policy, client)
      local chunk
      if path then chunk, message = loadfile(path) end
      if not chunk then return nil, "policy: " .. message end
    end
    if image then return image(client) end
    return true
  end
end

-- The command line of this program, with what stands before the script's name.
local function command_line()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  local command = { core.program() }
  for i = first + 1, #arg do command[#command + 1] = arg[i] end
  return command
end

-- What a person sees

local rows_most = 1000 -- clients whose figures are shown at the end

local View = {}
View.__index = View

local levels = { error = 3, warning = 4, info = 6 }

local function new_view(given)
  return setmetatable({
    json = given.json,
    times = given.timestamps,
    level = levels[given.log or "info"],
    journal = os.getenv "JOURNAL_STREAM" ~= nil, -- a service of systemd: lines carry their priority
    refusals = { window_ns = 0, count = 0, left_out = 0 },
    columns = core.terminal(2),
    rows = {},        -- of clients that came, by id
    order = {},       -- their ids
    forgotten = 0,    -- how many are in neither any more
    lost = false,     -- a client could not be served
    past = { faults = 0, bytes = 0, policy_calls = 0, deferred = 0 }, -- of clients that are gone
    drawn = 0,        -- when the line was, and the faults then
    faults = 0,
    rate = 0,
  }, View)
end

-- RFC 3339, in UTC.
local function timestamp(wall_ns)
  local seconds = wall_ns // 1000000000
  return os.date("!%Y-%m-%dT%H:%M:%S", seconds) .. (".%06dZ"):format(wall_ns % 1000000000 // 1000)
end

local severity = {
  died = "error", hung = "error", error = "error", frozen = "error", late = "warning", refused = "warning",
}

-- Prints a line on stderr in the place of the status line. level: "error", "warning" or "info"; wall_ns: since 1970.
function View:say(level, wall_ns, line)
  if levels[level] > self.level then return end
  if self.times then line = timestamp(wall_ns) .. " " .. line end
  if self.journal then line = ("<%d>%s"):format(levels[level], (line:gsub("\n", ("\n<%d>"):format(levels[level])))) end
  if self.columns then line = "\r\27[K" .. line end
  io.stderr:write(line, "\n")
end

local function write_json(kind, event, row)
  local members = { { "kind", kind }, { "ts", timestamp(event.wall_ns or core.wall_clock()) } }
  for _, name in ipairs { "time_ns", "worker", "pid", "socket", "error", "text" } do
    if event[name] ~= nil then members[#members + 1] = { name, event[name] } end
  end
  if event.error then members[#members + 1] = { "errno", uffd.errno[event.error] } end
  if event.client then
    members[#members + 1] = { "client", figures.client_object(event.client, row.elapsed_ns) }
  end
  print(json.encode { object = members })
  io.stdout:flush()
end

local function sentence(event)
  local client = event.client
  local name = client and ("client %d"):format(client.id) or ""
  local text = event.text ~= "" and ": " .. event.text or ""
  if event.kind == "client" then
    local from = client.of ~= 0 and (", forked from client %d"):format(client.of) or ""
    return ("%s has come: process %d, %s MiB in %s%s"):format(name, client.pid,
      figures.mebibytes(client.size), figures.count(#client.regions, "region"), from)
  end
  if event.kind == "adopted" then return ("%s is taken over: process %d"):format(name, client.pid) end
  if event.kind == "refused" then return "refused" .. text end
  if event.kind == "gone" then return name .. " is gone. " .. event.text end
  if event.kind == "complete" then return name .. " is complete" end
  if event.kind == "worker" then return ("worker %d has started: process %d"):format(event.worker, event.pid or 0) end
  if event.kind == "died" then return ("worker %d has died"):format(event.worker) .. text end
  if event.kind == "hung" then
    return ("worker %d hangs%s%s"):format(event.worker, name ~= "" and " with " .. name or "", text)
  end
  if event.kind == "retired" then return ("worker %d has retired"):format(event.worker) end
  return (name ~= "" and name .. text or event.text)
end

-- The oldest that has gone: memory must not grow with every client that ever came.
function View:forget()
  for i, id in ipairs(self.order) do
    local row = self.rows[id]
    if row.past then
      self.lost_before = self.lost_before or figures.lost(row.client)
      self.forgotten = self.forgotten + 1
      self.rows[id] = nil
      table.remove(self.order, i)
      return
    end
  end
end

-- Remembers the last figures of a client.
function View:keep(client, now_ns, ended)
  local row = self.rows[client.id]
  if not row then
    row = {}
    self.rows[client.id] = row
    self.order[#self.order + 1] = client.id
    if #self.order > rows_most then self:forget() end
  end
  row.client = client
  row.elapsed_ns = math.max(now_ns - client.since_ns, 0)
  row.ended = ended or row.ended or client.state
  return row
end

function View:tell(event)
  local client, row = event.client, nil
  if client then
    row = self:keep(client, event.time_ns, event.kind == "frozen" and "frozen" or client.ended)
  end
  if row and not row.past and (event.kind == "gone" or event.kind == "complete") then
    row.past = true
    for name, sum in pairs(self.past) do self.past[name] = sum + client.stats[name] end
  end
  if event.kind == "frozen" or event.kind == "record" and event.error then self.lost = true end
  if event.kind == "refused" and self:leaves_out(event) then return end
  self:write(event, row)
end

function View:write(event, row)
  if self.json then
    write_json(event.kind, event, row)
  else
    self:say(severity[event.kind] or "info", event.wall_ns, sentence(event))
  end
end

local WINDOW_NS, WINDOW_LINES = 10 * 1000000000, 20

-- Whoever is refused may try again at once: so many lines, then their number.
function View:leaves_out(event)
  local refusals = self.refusals
  self:count_refusals(event.time_ns)
  refusals.count = refusals.count + 1
  if refusals.count > WINDOW_LINES then refusals.left_out = refusals.left_out + 1 end
  return refusals.count > WINDOW_LINES
end

-- The window is over: says how many were left out.
function View:count_refusals(now_ns)
  local refusals = self.refusals
  if now_ns - refusals.window_ns < WINDOW_NS then return end
  local left_out = refusals.left_out
  refusals.window_ns, refusals.count, refusals.left_out = now_ns, 0, 0
  if left_out == 0 then return end
  local text = ("%s more in the last %d s, which are not listed."):format(left_out, WINDOW_NS // 1000000000)
  self:write { kind = "refused", worker = 0, time_ns = now_ns, wall_ns = core.wall_clock(), text = text }
end

-- Are there pages that failed, or were poisoned?
function View:lost_data()
  if self.lost_before then return true end
  for _, row in pairs(self.rows) do
    if figures.lost(row.client) then return true end
  end
  return false
end

local function status_line(view, pager, clients)
  local sum, worst = {}, { latency_p50 = 0, latency_p99 = 0, oldest_ns = 0 }
  for name, past in pairs(view.past) do sum[name] = past end
  for _, client in ipairs(clients) do
    for name in pairs(sum) do sum[name] = sum[name] + client.stats[name] end
    worst.latency_p50 = math.max(worst.latency_p50, client.stats.latency_p50)
    worst.latency_p99 = math.max(worst.latency_p99, client.stats.latency_p99)
    worst.oldest_ns = math.max(worst.oldest_ns, client.oldest_ns)
  end
  local now, status = uffd.now(), pager:status()
  if view.drawn > 0 then view.rate = (sum.faults - view.faults) / (now - view.drawn) end
  view.faults = sum.faults
  local words = {
    figures.count(#clients, "client"), ("%.0f faults/s"):format(math.max(view.rate, 0)),
    figures.mebibytes(sum.bytes) .. " MiB",
  }
  if worst.latency_p99 > 0 then
    words[#words + 1] = "p50 " .. figures.duration(worst.latency_p50)
    words[#words + 1] = "p99 " .. figures.duration(worst.latency_p99)
  end
  local function add(number, name) words[#words + 1] = ("%s %d"):format(name, number) end
  if sum.policy_calls > 0 then add(sum.policy_calls, "policy") end
  if sum.deferred > 0 then add(sum.deferred, "deferred") end
  if worst.oldest_ns > 0 then words[#words + 1] = "oldest " .. figures.duration(worst.oldest_ns) end
  if status.restarts > 0 then add(status.restarts, "restarts") end
  if status.draining then words[#words + 1] = "draining" end
  return table.concat(words, "  ")
end

-- Draws the status line, a few times a second at most.
function View:refresh(pager)
  if not self.columns or uffd.now() - self.drawn < 0.25 then return end
  local line = status_line(self, pager, pager:clients())
  self.drawn = uffd.now()
  io.stderr:write("\r", line:sub(1, self.columns - 1), "\27[K")
  io.stderr:flush()
end

function View:clear()
  if self.columns and self.drawn > 0 then io.stderr:write "\r\27[K" end
end

-- The figures of every client, also of those that are still there.
function View:conclude()
  self:clear()
  local rows = {}
  for _, id in ipairs(self.order) do rows[#rows + 1] = self.rows[id] end
  if self.json then
    for _, row in ipairs(rows) do write_json("figures", { client = row.client, text = row.ended }, row) end
  elseif #rows > 0 then
    if self.forgotten > 0 then print(figures.count(self.forgotten, "earlier client") .. " not shown") end
    print(figures.table(rows))
  end
end

-- Running

local lacking = { ENOSYS = true, EOPNOTSUPP = true, EPERM = true }

local function fail(message, errno)
  local code = arguments.fail("serve", message)
  return lacking[uffd.errno[errno]] and 77 or code
end

-- systemd wants to hear within WATCHDOG_USEC that this process works: it does when a step has come back, as a step also
-- sees to it that workers which hang are replaced. Returns how long a step may wait, in milliseconds, and what says so.
local function watchdog(wait)
  local usec, pid = tonumber(os.getenv "WATCHDOG_USEC"), tonumber(os.getenv "WATCHDOG_PID")
  if not usec or pid and pid ~= core.pid() then return wait, function() end end
  local every, fed = usec / 3e6, 0
  local function feed()
    if uffd.now() - fed < every then return end
    fed = uffd.now()
    core.notify "WATCHDOG=1"
  end
  local most = math.max(1, math.floor(every * 1000))
  return wait < 0 and most or math.min(wait, most), feed
end

-- What the service manager is told beside that: that a reload begins and ends, and how it goes.
local Manager = {}
Manager.__index = Manager

local function new_manager()
  return setmetatable({ reloads = 0, reloading = false, status = "", said = uffd.now() }, Manager)
end

function Manager:step(status)
  local now = uffd.now()
  if status.reloads > self.reloads then
    self.reloads, self.reloading = status.reloads, true
    core.notify(("RELOADING=1\nMONOTONIC_USEC=%d"):format(math.floor(now * 1e6)))
  end
  if self.reloading and not status.reloading then
    self.reloading = false
    core.notify "READY=1"
  end
  local text = ("%s, %s, %d refused, %d restarts"):format(figures.count(status.clients, "client"),
    figures.count(status.workers, "worker"), status.refused, status.restarts)
  if text ~= self.status and now - self.said > 1 then
    self.status, self.said = text, now
    core.notify("STATUS=" .. text)
  end
end

local function run(pager, view, reconfigure)
  local reloads = 0
  local wait, feed = watchdog(view.columns and 250 or -1)
  local stopping = false
  local manager = new_manager()
  local goes_on, message, errno
  repeat
    goes_on, message, errno = pager:step(wait)
    if goes_on then
      feed()
      view:refresh(pager)
      view:count_refusals(math.floor(uffd.now() * 1e9))
      local status = pager:status()
      manager:step(status)
      if status.reloads > reloads then
        reloads = status.reloads
        reconfigure()
      end
      if not stopping and status.draining then
        stopping = true
        core.notify "STOPPING=1"
      end
    end
  until not goes_on
  if not stopping then core.notify "STOPPING=1" end
  for _, client in ipairs(pager:clients()) do view:keep(client, math.floor(uffd.now() * 1e9)) end
  return goes_on == false, message, errno
end

-- Who reads what is printed may be stopped, or gone: this program and its workers do not wait for it.
local function open_outlets(given)
  local notice = "%d lines were dropped: nobody read them\n"
  local finish_err = core.outlet(2, notice)
  local finish_out = core.outlet(1, given.json and '{"kind":"dropped","lines":%d}\n' or notice)
  return function()
    if finish_out then finish_out() end
    if finish_err then finish_err() end
  end
end

-- The front doors, for people; nil: none are named.
local function paths_of(given)
  local paths = {}
  for i, socket in ipairs(given.socket or {}) do paths[i] = socket.path end
  return #paths > 0 and table.concat(paths, ", ") or nil
end

-- The pager's options as the supervisor has them.
local function complete(given, options, report)
  options.worker = command_line()
  options.choose = chooser(given)
  if type(options.image) == "function" then options.image = nil end
  options.keep = (tonumber(os.getenv "FDSTORE") or 0) > 0
  options.report = report
  return options
end

-- read: the options once more, as they are in the files now.
local function supervise(given, options, read)
  local view = new_view(given)
  local where = paths_of(given) or "the socket of the service manager"
  local ready = false
  local function report(event)
    if event.kind == "worker" and not ready then
      ready = true
      core.notify("READY=1\nSTATUS=listening on " .. where)
    end
    view:tell(event)
  end
  core.pager_hold_signals()
  local pager, message, errno = uffd.pager(complete(given, options, report))
  if not pager then return fail(message, errno) end
  pager:on_signals()
  local finish = open_outlets(given)
  if given.json then
    write_json("listening", { socket = paths_of(given), pid = core.pid() })
  else
    view:say("info", core.wall_clock(), "uffd-lua serve: listening on " .. where)
  end
  local done
  done, message, errno = run(pager, view, function()
    if not given.config then return end
    local now, changed = read()
    local taken, wrong
    if now then
      taken, wrong = uffd.pager_configure(pager, complete(now, changed, report))
    else
      wrong = changed
    end
    if taken then
      view.level, view.times = levels[now.log or "info"], now.timestamps
    else
      view:say("error", core.wall_clock(), "the options stay as they were: " .. wrong)
    end
  end)
  pager:close()
  view:conclude()
  finish()
  if not done then return fail(message, errno) end
  return view.lost and 1 or view:lost_data() and 3 or 0
end

-- This program runs itself once more, without --keep.
local function keep()
  local command = command_line()
  for i, word in ipairs(command) do
    if word == "--keep" then
      table.remove(command, i)
      break
    end
  end
  local code, message, errno = core.pager_keep(command)
  return code or fail(message, errno)
end

local function work(fd, options)
  print_to_stderr()
  if type(options.image) == "function" then options.image = nil end
  local done, message, errno = uffd.pager_work(fd, options)
  return done and 0 or fail(message, errno)
end

-- A supervisor adds "--worker FD" to what it was started with.
local function take_worker(given)
  local fd = given[#given - 1] == "--worker" and math.tointeger(tonumber(given[#given]))
  if fd then given[#given], given[#given - 1] = nil, nil end
  return fd
end

-- All options: those of the command line, and of the file that it names. nil, a sentence, and whether the usage is
-- wrong.
local function read_all(raw)
  local given, words = arguments.parse(known, table.unpack(raw))
  if not given then return nil, words, true end
  if given.config and not given.help then
    local read, message = config.read(given.config, known, given, words)
    if not read then return nil, message end
  end
  return given, words
end

-- The pager's options, with the policy; nil, a sentence, and whether it is wrong usage.
local function options_of(given, words)
  if not given.image and not given.policy then
    return nil, "it needs an --image, or a --policy that makes one", true
  end
  if #words > 0 and not given.policy then
    return nil, ("'%s' is an argument for no policy"):format(words[1]), true
  end
  local options = pager_options(given)
  if given.policy then
    local message
    options.resolver, message = load_policy(given.policy, words)
    if not options.resolver then return nil, message end
  end
  return options
end

return function(...)
  local raw = { ... }
  local fd = take_worker(raw)
  local function refuse(message, usage_is_wrong)
    if usage_is_wrong then return arguments.refuse("serve", message, usage) end
    return arguments.fail("serve", message)
  end
  local given, words, wrong = read_all(raw)
  if not given then return refuse(words, wrong) end
  if given.help then
    print(help)
    return 0
  end
  if not given.socket and not given.check and not fd and not os.getenv "LISTEN_FDS" then
    return refuse("it needs a --socket to listen on, or one of the service manager", true)
  end
  local options, message
  options, message, wrong = options_of(given, words)
  if not options then return refuse(message, wrong) end
  if given.check then return config.check(given, options.resolver, refuse) end
  if fd then return work(fd, options) end
  if given.keep then return keep() end
  return supervise(given, options, function()
    local now, others = read_all(raw)
    if not now then return nil, others end
    local changed, why = options_of(now, others)
    return changed and now, changed or why
  end)
end
