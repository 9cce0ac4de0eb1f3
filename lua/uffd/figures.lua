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

-- ------------------------------------------------------------------------------------------------ JSON

local client_fields = { "id", "of", "pid", "uid", "gid", "state", "worker", "restarts", "oldest_ns", "size" }

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

-- ------------------------------------------------------------------------------------------------ a table

local function latency(name)
  return function(row)
    local stats = row.client.stats
    return stats.latency_count > 0 and figures.duration(stats[name]) or "-"
  end
end

local function count(name)
  return function(row) return tostring(row.client.stats[name]) end
end

-- The sentences with which a client is gone, as a word: the line that told it has the sentence.
local end_words = {
  ["It has said that it needs no pager any more"] = "done",
  ["Its process is dead"] = "exited",
  ["Its memory is no more"] = "unmapped",
}

local function end_word(ended)
  return end_words[ended] or (ended:find " " and "gone") or ended
end

-- optional: left out where it is 0 for everybody, so that a table of ordinary clients has less than 100 columns.
local columns = {
  { "client", function(row) return tostring(row.client.id) end },
  { "pid", function(row) return row.client.pid ~= 0 and tostring(row.client.pid) or "-" end },
  { "time", function(row) return figures.duration(row.elapsed_ns) end },
  { "missing", count "missing" },
  { "minor", count "minor", optional = true },
  { "wp", count "wp", optional = true },
  { "p50", latency "latency_p50" },
  { "p99", latency "latency_p99" },
  { "max", latency "latency_max" },
  { "MiB", function(row) return figures.mebibytes(row.client.stats.bytes) end },
  { "policy", count "policy_calls", optional = true },
  { "deferred", count "deferred", optional = true },
  { "restarts", function(row) return tostring(row.client.restarts) end, optional = true },
}
local oldest = { "oldest", function(row)
  return row.client.oldest_ns > 0 and figures.duration(row.client.oldest_ns) or "-"
end }

-- rows: { client =, elapsed_ns =, ended = or state = }. Text, a line each; the last column is how it ended, or, with
-- alive, its state behind the age of its oldest fault.
function figures.table(rows, alive)
  local shown = {}
  for _, column in ipairs(columns) do
    local wanted = not column.optional
    for _, row in ipairs(rows) do wanted = wanted or column[2](row) ~= "0" end
    if wanted then shown[#shown + 1] = column end
  end
  if alive then shown[#shown + 1] = oldest end
  local cells, widths = {}, {}
  for i, column in ipairs(shown) do
    widths[i] = #column[1]
    cells[i] = {}
    for k, row in ipairs(rows) do
      cells[i][k] = column[2](row)
      widths[i] = math.max(widths[i], #cells[i][k])
    end
  end
  local lines = {}
  for k = 0, #rows do
    local parts = {}
    for i, column in ipairs(shown) do
      parts[i] = ("%" .. widths[i] .. "s"):format(k == 0 and column[1] or cells[i][k])
    end
    parts[#parts + 1] = k == 0 and (alive and "state" or "end") or end_word(rows[k].ended)
    lines[#lines + 1] = table.concat(parts, "  ")
  end
  return table.concat(lines, "\n")
end

return figures
