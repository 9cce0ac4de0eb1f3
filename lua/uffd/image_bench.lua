-- uffd-lua image bench: what the pages of one image cost here: read, by single faults, and all of them in order.
local json = require "uffd.json"
local picture = require "uffd.picture"
local uffd = require "uffd"

local most = 256 << 20 -- bytes of the image that are measured
local step = 1 << 20

local function seconds(f)
  local begun = uffd.now()
  local ok, message = f()
  if not ok then return nil, message end
  return math.max(uffd.now() - begun, 1e-9)
end

local function read_all(image, length)
  for at = 0, length - 1, step do
    local bytes, message = image:read(at, math.min(step, length - at))
    if not bytes then return nil, message end
  end
  return true
end

-- Calls f(memory) with fresh memory that is served from the image.
local function with_memory(image, length, around, f)
  local memory <close>, message = uffd.map { size = length }
  if not memory then return nil, message end
  local loop <close>, why = uffd.serve { { memory = memory, resolver = image.resolver, around = around } }
  if not loop then return nil, why end
  return f(memory)
end

-- Nanoseconds of each of up to count faults, sorted: single pages, as far from each other as it goes.
local function single_faults(memory, length, page, count)
  local pages, times = length // page, {}
  for i = 0, math.min(count, pages) - 1 do
    local at = (i * 7919 % pages) * page
    local begun = uffd.now()
    local byte, message = memory:read(at, 1)
    if not byte then return nil, message end
    times[#times + 1] = (uffd.now() - begun) * 1e9
  end
  table.sort(times)
  return times
end

local function rows_of(image, length, page)
  local rows = {}
  local taken, message = seconds(function() return read_all(image, length) end)
  if not taken then return nil, message end
  rows[1] = { "read", "MiB/s", length / taken / (1 << 20) }
  local times
  times, message = with_memory(image, length, page, function(memory)
    return single_faults(memory, length, page, 500)
  end)
  if not times then return nil, message end
  rows[2] = { "fault, p50", "us", times[(#times + 1) // 2] / 1000 }
  rows[3] = { "fault, p99", "us", times[math.max(1, math.ceil(#times * 0.99))] / 1000 }
  taken, message = with_memory(image, length, "auto", function(memory)
    return seconds(function()
      for at = 0, length - 1, page do
        local byte, why = memory:read(at, 1)
        if not byte then return nil, why end
      end
      return true
    end)
  end)
  if not taken then return nil, message end
  rows[4] = { "in order", "MiB/s", length / taken / (1 << 20) }
  return rows
end

-- 0; or nil and a sentence.
return function(options, image)
  local page = uffd.probe().page_size
  local length = math.min(image.size, most) // page * page
  if length == 0 then return nil, "the image is smaller than a page" end
  local rows, message = rows_of(image, length, page)
  if not rows then return nil, message end
  if options.json then
    for _, row in ipairs(rows) do
      print(json.encode { object = { { "measured", row[1] }, { "unit", row[2] }, { "value", row[3] } } })
    end
    return 0
  end
  print(("%s of %s, by handler threads"):format(picture.size_text(length), picture.size_text(image.size)))
  for _, row in ipairs(rows) do print(("  %-12s%9.1f %s"):format(row[1], row[3], row[2])) end
  return 0
end
