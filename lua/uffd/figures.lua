-- Clients of a pager in figures: for people, as a table, and for programs, as JSON. Shared by serve and ctl.
local core = require "uffd.core"

local figures = {}

-- "850 ns", "12.3 us", "4.5 ms", "2.50 s", "3 min"
function figures.duration(ns)
  if ns < 1000 then return ("%d ns"):format(ns) end
  if ns < 1000000 then return ("%.1f us"):format(ns / 1e3) end
  if ns < 1000000000 then return ("%.1f ms"):format(ns / 1e6) end
  if ns < 180 * 1000000000 then return ("%.2f s"):format(ns / 1e9) end
  return ("%d min"):format(ns // 60000000000)
end

function figures.mebibytes(bytes)
  return ("%.1f"):format(bytes / (1 << 20))
end

-- "1 region", "2 regions"
function figures.count(number, noun)
  return ("%d %s%s"):format(number, noun, number == 1 and "" or "s")
end

-- JSON

local client_fields = { "id", "of", "pid", "uid", "gid", "state", "worker", "restarts", "oldest_ns", "size", "shared",
  "label", "socket", "image" }

local function members(fields, values)
  local list = {}
  for _, name in ipairs(fields) do
    if values[name] ~= nil then list[#list + 1] = { name, values[name] } end
  end
  return list
end

function figures.stats_object(stats)
  return { object = members(core.stats_fields, stats) }
end

-- For json.encode(). regions is a number, or the list of them.
function figures.client_object(client, elapsed_ns)
  local list = members(client_fields, client)
  list[#list + 1] = { "age_ns", elapsed_ns }
  list[#list + 1] = { "regions", type(client.regions) == "table" and #client.regions or client.regions }
  list[#list + 1] = { "stats", figures.stats_object(client.stats) }
  return { object = list }
end

-- A table

local function latency(name)
  return function(row)
    local stats = row.client.stats
    return stats.latency_count > 0 and figures.duration(stats[name]) or "-"
  end
end

-- "999999", "12.3M", "4.5G"
local function short(number)
  if number < 1000000 then return ("%d"):format(number) end
  if number < 999950000 then return ("%.1fM"):format(number / 1e6) end
  return ("%.1fG"):format(number / 1e9)
end

local function count(name)
  return function(row) return short(row.client.stats[name]) end
end

local function oldest(row) return row.client.oldest_ns > 0 and figures.duration(row.client.oldest_ns) or "-" end

-- At most 12 columns of it; "0" where there is none, so that the column may be left out.
local function short_label(label)
  if not label then return "0" end
  if #label <= 12 then return label end
  return label:sub(1, (utf8.offset(label, 0, 12) or 12) - 1) .. "~"
end

-- give: a column that is left out when all its cells are "0"; rank: where the table is too wide, the highest goes
-- first.
local columns = {
  { "client", function(row) return tostring(row.client.id) end },
  { "label", function(row) return short_label(row.client.label) end, give = true },
  { "shared", function(row) return row.client.shared and "yes" or "0" end, give = true },
  { "pid", function(row) return row.client.pid ~= 0 and tostring(row.client.pid) or "-" end },
  { "time", function(row) return figures.duration(row.elapsed_ns) end },
  { "missing", count "missing" },
  { "minor", count "minor", give = true, rank = 5 },
  { "wp", count "wp", give = true, rank = 4 },
  { "p50", latency "latency_p50", rank = 3 },
  { "p99", latency "latency_p99" },
  { "max", latency "latency_max", rank = 2 },
  { "MiB", function(row) return figures.mebibytes(row.client.stats.bytes) end },
  { "policy", count "policy_calls", give = true, rank = 6 },
  { "deferred", count "deferred", give = true, rank = 7 },
  { "restarts", function(row) return short(row.client.restarts) end, give = true, rank = 1 },
  { "errors", count "errors", give = true },
  { "poisoned", count "poisoned", give = true },
  { "oldest", oldest, alive = true },
}

local function fill(column, rows, head)
  local cells, width, zeros = { [0] = head or column[1] }, #(head or column[1]), true
  for k, row in ipairs(rows) do
    cells[k] = column[2](row)
    width = math.max(width, #cells[k])
    zeros = zeros and cells[k] == "0"
  end
  return { cells = cells, width = width, zeros = zeros, rank = column.rank or 0, give = column.give }
end

local function width_of(shown)
  local width = 2 * (#shown - 1)
  for _, column in ipairs(shown) do width = width + column.width end
  return width
end

-- What is too wide loses its least important column.
local function narrow(shown, most)
  while width_of(shown) > most do
    local worst = 1
    for i, column in ipairs(shown) do
      if column.rank > shown[worst].rank then worst = i end
    end
    if shown[worst].rank == 0 then return end
    table.remove(shown, worst)
  end
end

-- rows: { client =, elapsed_ns =, ended = or state = }. Text, a line each, of 100 columns at most; the last column is
-- how it ended, or, with alive, its state behind the age of its oldest fault.
function figures.table(rows, alive)
  local shown = {}
  for _, column in ipairs(columns) do
    local filled = fill(column, rows)
    if (alive or not column.alive) and not (filled.give and filled.zeros) then shown[#shown + 1] = filled end
  end
  shown[#shown + 1] = fill({ "", function(row) return row.ended end }, rows, alive and "state" or "end")
  narrow(shown, 100)
  local lines = {}
  for k = 0, #rows do
    local parts = {}
    for i, column in ipairs(shown) do
      local format = i == #shown and "%s" or "%" .. column.width .. "s"
      parts[i] = format:format(column.cells[k])
    end
    lines[#lines + 1] = table.concat(parts, "  ")
  end
  return table.concat(lines, "\n")
end

-- Has the client lost data? Pages that failed, or were poisoned, are not what they should be.
function figures.lost(client)
  return client.stats.errors > 0 or client.stats.poisoned > 0
end

return figures
