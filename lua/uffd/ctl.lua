-- uffd-lua ctl: asks a pager by its control socket, and shows what it says.
local uffd = require "uffd"
local arguments = require "uffd.arguments"
local figures = require "uffd.figures"
local json = require "uffd.json"

local usage = "ctl --socket PATH status|clients|stats|errors|metrics|drain|reload [--json]"
local help = [[
usage: uffd-lua ]] .. usage .. "\n" .. [[
Asks the pager that was started with --control PATH.
  status          clients and workers now, clients served and refused so far, workers replaced
  clients         a line for each client that is there
  stats           the counts of all clients so far together; of the latencies, the largest
  errors [N]      what went wrong, the last N (20), the newest last: refusals, deaths, late faults, pages that failed
  metrics         all figures as OpenMetrics text, as Prometheus takes it
  drain           no new clients; --on-drain of serve says what becomes of the others
  reload          new workers take over, with the program and the policy that are there now
  --socket PATH   the control socket of the pager
  --json          what it says as JSON, a line for each client
  --help          show this and stop
exit codes: 0 done, 1 failed, 2 wrong usage]]

local known = { help = true, h = "help", json = true, socket = arguments.text }

local function write_members(fields, values)
  for _, name in ipairs(fields) do print(("%-14s%s"):format(name, values[name])) end
end

local status_fields = { "version", "pid", "clients", "workers", "served", "refused", "restarts", "hangs",
  "draining" }
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

show_json.reload = show_json.drain

local requests = {
  status = true, clients = true, stats = true, errors = arguments.positive, metrics = true, drain = true, reload = true,
}

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
  if not requests[request] or #words > (requests[request] == true and 1 or 2) then
    return arguments.refuse("ctl", ("'%s' is no request"):format(words[3] or words[2] or request), usage)
  end
  local most
  if words[2] then
    local expected
    most, expected = requests[request](words[2])
    if not most then return arguments.refuse("ctl", ("'%s' takes %s"):format(request, expected), usage) end
  end
  local line, message = uffd.pager_ask(given.socket, json.encode { object = { { "request", request } } })
  if not line then return arguments.fail("ctl", message) end
  local reply, wrong = json.decode(line)
  if not reply then return arguments.fail("ctl", "the pager's reply is not JSON: " .. wrong) end
  if not reply.ok then return arguments.fail("ctl", reply.error) end
  local shown = (given.json and show_json or show)[request]
  if shown then shown(reply, most) end
  return 0
end
