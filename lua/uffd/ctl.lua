-- uffd-lua ctl: asks a pager by its control socket, and shows what it says.
local core = require "uffd.core"
local uffd = require "uffd"
local arguments = require "uffd.arguments"
local figures = require "uffd.figures"
local json = require "uffd.json"

local usage = "ctl --socket PATH REQUEST [--json]"
local help = [[
usage: uffd-lua ]] .. usage .. "\n" .. [[
Asks the pager that was started with --control PATH.
  status          clients and workers now, clients served and refused so far, workers replaced
  clients         a line for each client that is there
  workers         the worker processes
  top             the clients and their rates, drawn anew each second; --count N: so many times
  stats           the counts of all clients so far together; of the latencies, the largest
  errors [N]      what went wrong, the last N (20), the newest last: refusals, deaths, late faults, pages that failed
  metrics         all figures as OpenMetrics text, as Prometheus takes it
  kill ID         kills the process of a client
  complete ID     fills the memory of a client, so that it needs no pager any more
  label ID TEXT   what to call a client in tables
  drain [ID]      no new clients; --on-drain of serve says what becomes of the others. With ID: that client alone, and
                  its connection brings no other
  image FILE...   new clients get this image, or this stack of layers; those that are there go on with theirs
  reload          new workers take over, with the program and the policy that are there now
  --socket PATH   the control socket of the pager
  --json          what it says as JSON, a line for each client
  --help          show this and stop
exit codes: 0 done, 1 failed, 2 wrong usage]]

local known = { help = true, h = "help", json = true, socket = arguments.text, count = arguments.positive }

local function write_members(fields, values)
  for _, name in ipairs(fields) do print(("%-14s%s"):format(name, values[name])) end
end

local status_fields = { "version", "pid", "clients", "workers", "served", "refused", "restarts", "hangs",
  "reloads", "reloading", "draining" }
local show, show_json = {}, {}

function show.status(reply) write_members(status_fields, reply) end

function show.clients(reply)
  local rows = {}
  for i, client in ipairs(reply.clients) do
    rows[i] = { client = client, elapsed_ns = client.age_ns, ended = client.state }
  end
  print(figures.table(rows, true))
end

function show.stats(reply)
  for _, member in ipairs(figures.stats_object(reply.stats).object) do
    print(("%-14s%d"):format(member[1], member[2]))
  end
end

-- The last `most`, the oldest of them first.
local function in_order(errors, most)
  local list = {}
  for i = math.min(#errors, most), 1, -1 do list[#list + 1] = errors[i] end
  return list
end

function show.errors(reply, most)
  for _, error in ipairs(in_order(reply.errors, most or 20)) do
    local who = error.client ~= 0 and ("client %d: "):format(error.client) or ""
    local when = os.date("%Y-%m-%d %H:%M:%S", error.time_ns // 1000000000)
    print(("%s  %-7s  %s%s"):format(when, error.kind, who, error.text:match "^[^\n]*"))
  end
end

function show_json.errors(reply, most)
  for _, error in ipairs(in_order(reply.errors, most or 20)) do
    local members = {}
    for i, name in ipairs { "time_ns", "kind", "client", "errno", "text" } do members[i] = { name, error[name] } end
    print(json.encode { object = members })
  end
end

function show.metrics(reply) io.write(reply.text) end

show_json.metrics = show.metrics

function show_json.status(reply)
  local members = {}
  for i, name in ipairs(status_fields) do members[i] = { name, reply[name] } end
  print(json.encode { object = members })
end

function show_json.clients(reply)
  for _, client in ipairs(reply.clients) do print(json.encode(figures.client_object(client, client.age_ns))) end
end

function show_json.stats(reply) print(json.encode(figures.stats_object(reply.stats))) end

function show_json.drain() print '{"ok":true}' end

show_json.reload, show_json.image = show_json.drain, show_json.drain

function show.workers(reply)
  print(("%6s  %8s  %8s  %8s  %s"):format("worker", "pid", "time", "clients", "state"))
  for _, worker in ipairs(reply.workers) do
    print(("%6d  %8d  %8s  %8d  %s"):format(worker.worker, worker.pid, figures.duration(worker.age_ns), worker.clients,
      worker.state))
  end
end

function show_json.workers(reply)
  for _, worker in ipairs(reply.workers) do
    local members = {}
    for i, name in ipairs { "worker", "pid", "state", "clients", "age_ns" } do members[i] = { name, worker[name] } end
    print(json.encode { object = members })
  end
end

show_json.kill, show_json.complete, show_json.label = show_json.drain, show_json.drain, show_json.drain

-- The words behind each request, as converters; optional ones stand in brackets.
local requests = {
  status = {}, clients = {}, workers = {}, stats = {}, metrics = {}, reload = {},
  drain = { optional = true, arguments.positive },
  top = {},
  errors = { optional = true, arguments.positive },
  kill = { arguments.positive }, complete = { arguments.positive }, label = { arguments.positive, arguments.text },
  image = { arguments.text, more = true },
}

-- The words of a request as values; nil and what is wrong.
local function take_words(request, words)
  local takes, values = requests[request], {}
  if not takes then return nil, ("'%s' is no request"):format(request) end
  if words[#takes + 2] and not takes.more then return nil, ("'%s' is no request"):format(words[#takes + 2]) end
  for i, convert in ipairs(takes) do
    local word = words[i + 1]
    if not word and not takes.optional then
      local what = request == "image" and "a file" or i == 1 and "the id of a client" or "a text"
      return nil, ("'%s' needs %s"):format(request, what)
    end
    if word then
      local value, expected = convert(word)
      if value == nil then return nil, ("'%s' takes %s"):format(request, expected) end
      values[i] = value
    end
  end
  if takes.more then table.move(words, #takes + 2, #words, #takes + 1, values) end
  return values
end

-- The pager's reply; nil and a sentence.
local function ask(socket, members)
  local timeout = members[1][2] == "image" and 60000 or nil -- the pager may have to wait for the disk
  local line, message = uffd.pager_ask(socket, json.encode { object = members }, timeout)
  if not line then return nil, message end
  local reply, wrong = json.decode(line)
  if not reply then return nil, "the pager's reply is not JSON: " .. wrong end
  if not reply.ok then return nil, reply.error end
  return reply
end

-- A line of rates, then the table of clients.
local function draw(status, stats, before, seconds)
  local rates = {}
  for i, name in ipairs { "faults", "bytes", "errors", "poisoned" } do
    rates[i] = seconds > 0 and math.max(stats[name] - before[name], 0) / seconds or 0
  end
  print(("%s  %s  %.0f faults/s  %.1f MiB/s  %d errors  %d poisoned  %d refused  %d restarts%s"):format(
    figures.count(status.clients, "client"), figures.count(status.workers, "worker"), rates[1], rates[2] / (1 << 20),
    stats.errors, stats.poisoned, status.refused, status.restarts, status.draining and "  draining" or ""))
end

local function top(socket, count)
  local before, drawn, terminal = nil, nil, core.terminal(1)
  for i = 1, count or math.maxinteger do
    local status, message = ask(socket, { { "request", "status" } })
    local stats = status and ask(socket, { { "request", "stats" } })
    local clients = stats and ask(socket, { { "request", "clients" } })
    if not clients then return arguments.fail("ctl", message or "the pager has ended") end
    local now = uffd.now()
    if terminal then io.write "\27[H\27[J" end
    draw(status, stats.stats, before or stats.stats, drawn and now - drawn or 0)
    show.clients(clients)
    io.stdout:flush()
    before, drawn = stats.stats, now
    if i < (count or math.maxinteger) then core.pause(1000) end
  end
  return 0
end

return function(...)
  local given, words = arguments.parse(known, ...)
  if not given then return arguments.refuse("ctl", words, usage) end
  if given.help then
    print(help)
    return 0
  end
  local request = words[1]
  if not given.socket then return arguments.refuse("ctl", "it needs the --socket of a pager", usage) end
  if not request then return arguments.refuse("ctl", "what is it to ask?", usage) end
  local values, wrong = take_words(request, words)
  if not values then return arguments.refuse("ctl", wrong, usage) end
  if request == "top" then return top(given.socket, given.count) end
  local members = { { "request", request } }
  if request == "image" then
    -- The pager has another working directory.
    for i, path in ipairs(values) do
      local whole = path:sub(1, 1) == "/" or path:find "^%l[%w+.-]*://"
      values[i] = whole and path or (os.getenv "PWD" or "") .. "/" .. path
    end
    members[2] = values[2] and { "paths", values } or { "path", values[1] }
  elseif request ~= "errors" and values[1] then
    members[2] = { "client", values[1] }
  end
  if request == "label" then members[3] = { "label", values[2] } end
  local reply, message = ask(given.socket, members)
  if not reply then return arguments.fail("ctl", message) end
  local shown = (given.json and show_json or show)[request]
  if shown then shown(reply, values[1]) end
  return 0
end
