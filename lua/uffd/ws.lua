-- uffd-lua ws: looks into files of working sets, with uffd.workingset.
local arguments = require "uffd.arguments"
local heatmap = require "uffd.heatmap"
local json = require "uffd.json"
local picture = require "uffd.picture"
local uffd = require "uffd"

local usage = "ws info|merge|diff|plot FILE..."
local help = [[
usage: uffd-lua ws info [--json] [--runs N] FILE...
       uffd-lua ws merge -o OUT FILE...
       uffd-lua ws diff [--json] A B
       uffd-lua ws plot [-o OUT.svg|OUT.png] [--width N] [--color WHEN] FILE...
Looks into files of working sets: the pages of an image that a client touched, in the order of touching.
  info     sizes, and the runs of neighbouring pages: offset, length, when the first of them was touched
           (the first, second, ... page), and how many were written first
    --runs N    so many runs at most (default 32; with --json all)
  merge    writes the union of several files: the pages of the first, then what each of the others has more
    -o OUT      the file to be written; it may be one of those that are read
  diff     which pages are only in A (<), only in B (>), in both (=); the order of touching does not count
  plot     a heat map of the image's address space: when each part was touched first; of several files, by how many
    -o OUT      a picture, SVG or PNG by its name; without it, text
    --width N   of the picture in pixels, at most (default 960), of the text in columns (default: the terminal's, or 80)
    --color W   of the text: always, never, or auto (default: on a terminal of UTF-8, unless NO_COLOR is set)
  --json   one JSON object a line
  --help   show this and stop
exit codes: 0 done, 1 a file cannot be read, is no working set, or is of another image than the first; 2 wrong usage;
of diff: 0 the same pages, 1 others, 2 anything else
]]

local verbs = {}

-- Words and figures

local size_text, address_format = picture.size_text, picture.address_format

local function share_text(part, whole)
  return whole > 0 and ("%.1f%%"):format(100 * part / whole) or "-"
end

local function plural(count, word)
  return ("%d %s%s"):format(count, word, count == 1 and "" or "s")
end

-- Rows of text under their titles; "<" in aligned: to the left.
local function write_table(titles, aligned, rows)
  local widths = {}
  for i, title in ipairs(titles) do
    widths[i] = #title
    for _, row in ipairs(rows) do widths[i] = math.max(widths[i], #row[i]) end
  end
  local function write_row(row)
    local cells = {}
    for i, cell in ipairs(row) do
      cells[i] = ("%" .. (aligned[i] == "<" and "-" or "") .. widths[i] .. "s"):format(cell)
    end
    print(("  " .. table.concat(cells, "  "):gsub("%s+$", "")))
  end
  write_row(titles)
  for _, row in ipairs(rows) do write_row(row) end
end

local function write_json(...)
  print(json.encode { object = { ... } })
end

-- Files

-- The sets of the files. All must be of the first one's image and page size; else nil and a sentence.
local function load_all(paths)
  local sets = {}
  for i, path in ipairs(paths) do
    local set, message = uffd.workingset.load(path)
    if not set then return nil, message end
    sets[i] = set
    local info, first = set:info(), sets[1]:info()
    local ok
    ok, message = set:check(first.image_length, first.image_identity)
    if not ok then return nil, ("%s, beside %s: %s"):format(path, paths[1], message) end
    if info.page_size ~= first.page_size then
      return nil, ("%s has pages of %d bytes, %s of %d: they cannot be compared."):format(path, info.page_size,
        paths[1], first.page_size)
    end
  end
  return sets
end

-- Info

-- The runs by address, at most limit, each with its first touch and its writes.
local function runs_of(set, page_size, limit)
  local runs, first_run, stop = {}, {}, 0
  for i, range in ipairs(set:ranges(limit)) do
    runs[i] = { offset = range[1], length = range[2], pages = range[2] // page_size, writes = 0 }
    first_run[i] = range[1]
    stop = range[1] + range[2]
  end
  local function find(offset) -- the last run that begins at or before it
    local low, high = 1, #runs
    while low < high do
      local middle = (low + high + 1) // 2
      if first_run[middle] <= offset then low = middle else high = middle - 1 end
    end
    return runs[low]
  end
  for index, offset, kind in set:iterate() do
    if offset < stop then
      local run = find(offset)
      run.first = run.first or index
      if kind & 1 ~= 0 then run.writes = run.writes + 1 end
    end
  end
  return runs
end

local function info_json(path, info, runs)
  write_json({ "file", path }, { "image_length", info.image_length },
    { "image_identity", ("%016x"):format(info.image_identity) }, { "page_size", info.page_size },
    { "pages", info.pages }, { "bytes", info.bytes }, { "writes", info.writes }, { "runs", info.runs },
    { "longest_run", info.longest_run }, { "sequential", info.sequential })
  for _, run in ipairs(runs) do
    write_json({ "file", path }, { "offset", run.offset }, { "length", run.length }, { "pages", run.pages },
      { "first_touch", run.first }, { "writes", run.writes })
  end
end

local function info_text(path, info, runs)
  local all = (info.image_length - 1) // info.page_size + 1
  local identity = info.image_identity == 0 and "identity not known" or ("identity %016x"):format(info.image_identity)
  print(path)
  print(("  image     %s, %s"):format(size_text(info.image_length), identity))
  print(("  touched   %s of %d, %s each: %s, %s of the image"):format(plural(info.pages, "page"), all,
    size_text(info.page_size), size_text(info.bytes), share_text(info.pages, all)))
  print(("  writes    %s first touched by a write (%s)"):format(plural(info.writes, "page"),
    share_text(info.writes, info.pages)))
  print(("  order     %s right after the page before (%s)"):format(plural(info.sequential, "page"),
    share_text(info.sequential, info.pages)))
  print(("  runs      %d, the longest %s"):format(info.runs, size_text(info.longest_run * info.page_size)))
  if #runs == 0 then return end
  local rows, address = {}, address_format(info.image_length)
  for i, run in ipairs(runs) do
    rows[i] = { address:format(run.offset), size_text(run.length), tostring(run.pages), tostring(run.first),
      tostring(run.writes) }
  end
  print()
  write_table({ "offset", "length", "pages", "first touch", "writes" }, { "<" }, rows)
  if #runs < info.runs then
    print(("  and %s more: --runs %d"):format(plural(info.runs - #runs, "run"), info.runs))
  end
end

function verbs.info(options, paths)
  for i, path in ipairs(paths) do
    local set <close>, message = uffd.workingset.load(path)
    if not set then return arguments.fail("ws info", message) end
    local info = set:info()
    if i > 1 and not options.json then print() end
    local write = options.json and info_json or info_text
    write(path, info, runs_of(set, info.page_size, options.runs or not options.json and 32 or nil))
  end
  return 0
end

-- Merge

function verbs.merge(options, paths)
  local sets, message = load_all(paths)
  if not sets then return arguments.fail("ws merge", message) end
  local set, done = sets[1], true
  for i = 2, #sets do
    if done then done, message = set:merge(sets[i]) end
  end
  if done then done, message = set:save(options.output) end
  if not done then return arguments.fail("ws merge", message) end
  local info = set:info()
  print(("%s: %s, %s, of %s"):format(options.output, plural(info.pages, "page"), size_text(info.bytes),
    plural(#paths, "file")))
  return 0
end

-- Diff

-- The borders of the ranges, by address: +1 and -1 for a range of a, +2 and -2 for one of b.
local function edges_of(a, b)
  local edges = {}
  for weight, ranges in ipairs { a, b } do
    for _, range in ipairs(ranges) do
      edges[#edges + 1] = { range[1], weight }
      edges[#edges + 1] = { range[1] + range[2], -weight }
    end
  end
  table.sort(edges, function(left, right) return left[1] < right[1] end)
  return edges
end

local marks = { "<", ">", "=" }

-- The address space as ranges that are in a only (<), in b only (>), or in both (=), and the bytes of each kind.
local function compare(a, b)
  local ranges, bytes = {}, { ["<"] = 0, [">"] = 0, ["="] = 0 }
  local state, from = 0, 0
  for _, edge in ipairs(edges_of(a, b)) do
    local mark = marks[state]
    if mark and edge[1] > from then
      local last = ranges[#ranges]
      if last and last.mark == mark and last.offset + last.length == from then
        last.length = edge[1] - last.offset
      else
        ranges[#ranges + 1] = { mark = mark, offset = from, length = edge[1] - from }
      end
      bytes[mark] = bytes[mark] + edge[1] - from
    end
    state, from = state + edge[2], edge[1]
  end
  return ranges, bytes
end

local where = { ["<"] = "a", [">"] = "b", ["="] = "both" }

local function diff_json(paths, ranges, bytes, page_size, jaccard)
  write_json({ "a", paths[1] }, { "b", paths[2] }, { "only_a", bytes["<"] // page_size },
    { "only_b", bytes[">"] // page_size }, { "both", bytes["="] // page_size }, { "jaccard", jaccard },
    { "page_size", page_size })
  for _, range in ipairs(ranges) do
    write_json({ "in", where[range.mark] }, { "offset", range.offset }, { "length", range.length },
      { "pages", range.length // page_size })
  end
end

local function diff_text(paths, ranges, bytes, info, jaccard)
  local rows = {}
  for i, title in ipairs { "< only in " .. paths[1], "> only in " .. paths[2], "= in both" } do
    local found = bytes[marks[i]]
    rows[i] = { title, tostring(found // info.page_size), size_text(found) }
  end
  write_table({ "", "pages", "bytes" }, { "<" }, rows)
  print(("  Jaccard %.3f"):format(jaccard))
  if #ranges == 0 then return end
  local address = address_format(info.image_length)
  rows = {}
  for i, range in ipairs(ranges) do
    rows[i] = { range.mark .. " " .. address:format(range.offset), size_text(range.length),
      tostring(range.length // info.page_size) }
  end
  print()
  write_table({ "  offset", "length", "pages" }, { "<" }, rows)
end

function verbs.diff(options, paths)
  local sets, message = load_all(paths)
  if not sets then
    arguments.fail("ws diff", message)
    return 2
  end
  local info = sets[1]:info()
  local ranges, bytes = compare(sets[1]:ranges(), sets[2]:ranges())
  local all = bytes["<"] + bytes[">"] + bytes["="]
  local jaccard = all > 0 and bytes["="] / all or 1.0
  if options.json then
    diff_json(paths, ranges, bytes, info.page_size, jaccard)
  else
    diff_text(paths, ranges, bytes, info, jaccard)
  end
  return bytes["="] == all and 0 or 1
end

-- Plot

function verbs.plot(options, paths)
  local sets, message = load_all(paths)
  if not sets then return arguments.fail("ws plot", message) end
  local done
  done, message = heatmap.write(sets, paths, options)
  return done and 0 or arguments.fail("ws plot", message)
end

-- The command line

local text, integer = arguments.text, arguments.integer
local known = {
  info = { help = true, ["-h"] = "help", json = true, runs = integer },
  merge = { help = true, ["-h"] = "help", output = text, ["-o"] = "output" },
  diff = { help = true, ["-h"] = "help", json = true },
  plot = { help = true, ["-h"] = "help", output = text, ["-o"] = "output", width = integer,
    color = arguments.choice("always", "never", "auto") },
}

-- What is missing or too much; nil if nothing is.
local function misfit(verb, options, paths)
  if verb == "merge" and not options.output then return "-o OUT: where to?" end
  if verb == "diff" and #paths ~= 2 then return "two files are compared" end
  if #paths == 0 then return "of which FILE?" end
  if verb == "plot" and options.output then return picture.refuse(options.output, options.width) end
  return nil
end

-- The help of one verb: its usage, its lines, the lines indented below it, and the exit codes.
local function help_of(verb)
  local lines = { "usage: " .. help:match("uffd%-lua ws " .. verb .. "[^\n]*") }
  local taken = false
  for line in help:gmatch "[^\n]+" do
    local word = line:match "^  (%l+) "
    if line:find "^   " then
      if taken and not line:find "^       uffd" then lines[#lines + 1] = line end
    else
      taken = word == verb or line:find "^exit codes" ~= nil
      if line:find "^of diff" then taken = verb == "diff" end
      if taken then lines[#lines + 1] = line end
    end
  end
  if known[verb].json then table.insert(lines, #lines, "  --json   one JSON object a line") end
  return table.concat(lines, "\n") .. "\n"
end

return function(verb, ...)
  if verb == "--help" or verb == "-h" then
    io.write(help)
    return 0
  end
  if verb == nil then return arguments.refuse("ws", "what is to be done with which file?", usage) end
  if not verbs[verb] then return arguments.refuse("ws", ("'%s' is none of its verbs"):format(verb), usage) end
  local options, paths = arguments.parse(known[verb], ...)
  if not options then return arguments.refuse("ws " .. verb, paths, usage) end
  if options.help then
    io.write(help_of(verb))
    return 0
  end
  local message = misfit(verb, options, paths)
  if message then return arguments.refuse("ws " .. verb, message, usage) end
  return verbs[verb](options, paths)
end
