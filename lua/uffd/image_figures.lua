-- The output of uffd-lua image: as text, and as JSON, one object a line.
local core = require "uffd.core"
local json = require "uffd.json"
local picture = require "uffd.picture"
local uffd = require "uffd"

local figures = {}
local size_text = picture.size_text
local kinds = { "data", "zero", "below" }

local function write_json(...)
  print(json.encode { object = { ... } })
end

local function share_text(part, whole)
  return whole > 0 and ("%.1f%%"):format(100 * part / whole) or "-"
end

local function plural(count, word)
  return ("%d %s%s"):format(count, word, count == 1 and "" or "s")
end

-- Rows of cells, each column as wide as its longest cell; the first columns are aligned to the left.
local function write_rows(left, rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do cells[i] = ("%" .. (i <= left and "-" or "") .. widths[i] .. "s"):format(cell) end
    print(("  " .. table.concat(cells, "  "):gsub("%s+$", "")))
  end
end

-- Progress

-- A function of done bytes, which draws on a terminal, a few times a second; elsewhere it does nothing.
function figures.progress(word, total)
  if not core.terminal(2) or total == 0 then return function() end end
  local shown = core.now()
  return function(done)
    local now = core.now()
    if done < total and now - shown < 0.2 then return end
    shown = now
    io.stderr:write("\r\27[K", done < total and ("%s %s of %s"):format(word, size_text(done), size_text(total)) or "")
    io.stderr:flush()
  end
end

function figures.file_size(path)
  local file <close> = io.open(path, "rb")
  return file and file:seek "end"
end

-- Info

local function ratio_text(layer)
  return layer.stream_bytes > 0 and (", %.1f%% of it"):format(100 * layer.file_bytes / layer.stream_bytes) or ""
end

local function time_text(ns)
  return os.date("!%Y-%m-%dT%H:%M:%SZ", ns // 1000000000)
end

local function layer_lines(layer)
  local lines = {}
  local function add(name, ...) lines[#lines + 1] = ("     %-10s%s"):format(name, (...)) end
  add("format", layer.format .. (layer.indexed and (layer.format == "raw" and ", with a sidecar" or ", with an index")
    or ""))
  add("file", size_text(layer.file_bytes) .. (layer.frames > 0 and (" for %s in %s%s"):format(
    size_text(layer.stream_bytes), plural(layer.frames, "frame"), ratio_text(layer)) or ""))
  if layer.frames > 0 then
    add("frames", ("up to %s each, %s"):format(size_text(layer.frame_bytes),
      layer.checksums and "with checksums" or "without checksums in the table"))
  end
  if layer.version then
    add("version", layer.version == "" and "the server tells none" or layer.version)
    add("latency", ("%.1f ms for 64 KiB"):format(layer.latency_ns / 1e6))
    add("cached", share_text(layer.units_there, layer.units))
  end
  local has = {}
  for _, kind in ipairs(kinds) do
    if layer[kind] > 0 then
      has[#has + 1] = ("%s %s (%s)"):format(kind, size_text(layer[kind]), share_text(layer[kind], layer.length))
    end
  end
  add("pages", table.concat(has, ", "))
  if layer.indexed then
    add("id", ("%s, %s"):format(layer.id:sub(1, 16), layer.digest))
    add("made", ("%s, generation %d"):format(layer.time_ns > 0 and time_text(layer.time_ns) or "not known",
      layer.generation))
  end
  if layer.parent_id then
    add("parent", ("%s%s"):format(layer.parent_id:sub(1, 16), layer.parent ~= "" and ", " .. layer.parent or ""))
  end
  return lines
end

function figures.info_text(image)
  local info = image:info()
  print(("image: %s (%d bytes), pages of %s"):format(size_text(info.length), info.length, size_text(info.page_size)))
  print(("  data      %s (%s)"):format(size_text(info.data), share_text(info.data, info.length)))
  print(("  zero      %s (%s)"):format(size_text(info.zero), share_text(info.zero, info.length)))
  print(("  layers    %d, in %s%s"):format(info.layers, plural(info.pieces, "piece"),
    info.layers >= 8 and ": compact makes fewer of them" or ""))
  for i = info.layers, 1, -1 do
    local layer = image:layer(i)
    print(("%3d  %s"):format(i, layer.path))
    for _, line in ipairs(layer_lines(layer)) do print(line) end
  end
end

local layer_fields = { "path", "format", "indexed", "length", "page_size", "data", "zero", "below", "file_bytes",
  "stream_bytes", "frames", "frame_bytes", "checksums", "digest", "generation", "time_ns", "id", "parent_id", "parent",
  "uuid", "attributes", "version", "units", "units_there", "requests", "retries", "fetched_bytes", "latency_ns" }

function figures.info_json(image)
  local info = image:info()
  write_json({ "length", info.length }, { "page_size", info.page_size }, { "data", info.data }, { "zero", info.zero },
    { "layers", info.layers }, { "pieces", info.pieces })
  for i = 1, info.layers do
    local layer, members = image:layer(i), { { "layer", i } }
    for _, name in ipairs(layer_fields) do
      if layer[name] ~= nil and layer[name] ~= "" then members[#members + 1] = { name, layer[name] } end
    end
    write_json(table.unpack(members))
  end
end

-- Map

function figures.map(image, options)
  local address = picture.address_format(image.size)
  local rows = { { "offset", "length", "kind", "layer", "in its stream" } }
  for offset, length, kind, layer, stream in image:map(options.layer) do
    local data = kind == "data"
    if options.json then
      write_json({ "offset", offset }, { "length", length }, { "kind", kind }, { "layer", layer },
        data and { "stream_offset", stream } or nil)
    else
      rows[#rows + 1] = { address:format(offset), size_text(length), kind, tostring(layer),
        data and address:format(stream) or "" }
    end
  end
  if not options.json then write_rows(1, rows) end
end

function figures.totals(image, options)
  local sums = {}
  for _, length, kind, layer in image:map(options.layer) do
    sums[layer] = sums[layer] or { data = 0, zero = 0, below = 0, pieces = 0 }
    sums[layer][kind] = sums[layer][kind] + length
    sums[layer].pieces = sums[layer].pieces + 1
  end
  local rows = { { "layer", "data", "zero", "below", "pieces" } }
  for i = image:info().layers, 1, -1 do
    local sum = sums[i]
    if sum and options.json then
      write_json({ "layer", i }, { "path", image:layer(i).path }, { "data", sum.data }, { "zero", sum.zero },
        { "below", sum.below }, { "pieces", sum.pieces })
    elseif sum then
      rows[#rows + 1] = { ("%d %s"):format(i, image:layer(i).path), size_text(sum.data), size_text(sum.zero),
        size_text(sum.below), tostring(sum.pieces) }
    end
  end
  if not options.json then write_rows(1, rows) end
end

-- Results

function figures.compared(options, a, b, first, pages)
  if options.json then
    write_json({ "same", first == nil and a.size == b.size }, { "length_a", a.size }, { "length_b", b.size },
      { "pages", pages }, first and { "first", first } or nil)
  elseif not first then
    print(a.size == b.size and "the same" or ("the same, but of %d and %d bytes"):format(a.size, b.size))
  else
    print(("differ first at byte %d, in page %d; %s in all"):format(first, first // 4096, plural(pages, "page")))
  end
end

function figures.ranges(options, size, ranges)
  local address, rows, bytes = picture.address_format(size), { { "offset", "length", "pages" } }, 0
  for i, range in ipairs(ranges) do
    bytes = bytes + range.length
    if options.json then
      write_json({ "offset", range.offset }, { "length", range.length })
    else
      rows[i + 1] = { address:format(range.offset), size_text(range.length), tostring((range.length + 4095) // 4096) }
    end
  end
  if options.json then return end
  if #ranges > 0 then write_rows(1, rows) end
  print(("%s: %s"):format(plural(#ranges, "range"), size_text(bytes)))
end

function figures.problems(options, image, problems)
  for _, problem in ipairs(problems) do
    if options.json then
      write_json({ "offset", problem.offset }, { "length", problem.length }, { "message", problem.message })
    else
      print(("%s+%d: %s"):format(picture.address_format(image.size):format(problem.offset), problem.length,
        problem.message))
    end
  end
  local top = image:layer(image:info().layers)
  if options.json then
    write_json({ "problems", #problems }, { "length", image.size }, { "digest", top.digest })
  else
    print(("%s of %s%s"):format(plural(#problems, "problem"), size_text(image.size), top.digest == "none"
      and "; there are no digests: all could be read is all that is known" or ""))
  end
end

-- What was written

function figures.written(options, path)
  local image <close>, message = uffd.image { path }
  if not image then return print(("%s: %s"):format(path, message)) end
  local top = image:layer(image:info().layers)
  if options.json then
    write_json({ "path", path }, { "format", top.format }, { "length", top.length }, { "data", top.data },
      { "zero", top.zero }, { "below", top.below }, { "file_bytes", top.file_bytes },
      top.id and { "id", top.id } or nil)
    return
  end
  local has = {}
  for _, kind in ipairs(kinds) do
    if top[kind] > 0 then has[#has + 1] = ("%s %s"):format(kind, size_text(top[kind])) end
  end
  print(("%s: %s: %s; %s"):format(path, size_text(top.length), table.concat(has, ", "), size_text(top.file_bytes)))
end

function figures.imported(options, imported)
  if options.json then
    write_json({ "imported", options.output }, { "data", imported.data }, { "zero", imported.zero },
      { "below", imported.below }, { "regions", #imported.regions })
    return
  end
  local regions = #imported.regions
  print(("imported: %s of data, %s of zeros, %s of the parent%s"):format(size_text(imported.data),
    size_text(imported.zero), size_text(imported.below),
    regions > 0 and ("; %s: %s.map"):format(plural(regions, "range"), options.output) or ""))
end

function figures.indexed(options, path)
  local image <close>, message = uffd.image { path }
  if not image then return print(("%s: %s"):format(path, message)) end
  local layer = image:layer(1)
  if options.json then
    write_json({ "path", path .. ".uidx" }, { "id", layer.id }, { "digest", layer.digest }, { "zero", layer.zero })
  else
    print(("%s.uidx: id %s, %s; %s of %s are zero"):format(path, layer.id:sub(1, 16), layer.digest,
      size_text(layer.zero), size_text(layer.length)))
  end
end

-- The cache

local cached_fields = { "file", "source", "version", "stream_bytes", "file_bytes", "units", "units_there",
  "units_wrong", "used_ns", "used", "doubted", "broken" }

function figures.cache_json(files)
  for _, cached in ipairs(files) do
    local values = {}
    for i, name in ipairs(cached_fields) do values[i] = { name, cached[name] } end
    write_json(table.unpack(values))
  end
end

local function note(cached)
  if cached.broken then return "broken" end
  if cached.units_wrong > 0 then return plural(cached.units_wrong, "wrong chunk") end
  return (cached.used and "used" or " ") .. (cached.doubted and " of an earlier start" or "")
end

function figures.cache_text(files)
  local rows = {}
  for _, cached in ipairs(files) do
    rows[#rows + 1] = { time_text(cached.used_ns), cached.source ~= "" and cached.source or cached.file,
      size_text(cached.file_bytes), share_text(cached.units_there, cached.units), note(cached) }
  end
  write_rows(2, rows)
end

function figures.cache_gc(options, done)
  if options.json then
    write_json({ "files", done.files }, { "bytes", done.bytes }, { "removed_files", done.removed_files },
      { "removed_bytes", done.removed_bytes })
  else
    print(("removed %s, %s; left %s, %s"):format(plural(done.removed_files, "file"), size_text(done.removed_bytes),
      plural(done.files, "file"), size_text(done.bytes)))
  end
end

return figures
