-- uffd-lua image: looks into images, and makes new ones of them. The verbs that only look are here; those that write
-- are in image_write.lua.
local arguments = require "uffd.arguments"
local bench = require "uffd.image_bench"
local figures = require "uffd.image_figures"
local picture = require "uffd.picture"
local plot = require "uffd.image_plot"
local uffd = require "uffd"
local write = require "uffd.image_write"

local usage = "image info|map|create|convert|diff|compare|verify|index|compact|commit|rebase|import|plot|bench|cat|"
  .. "cache FILE..."
local help = [[
usage: uffd-lua image info [--json] FILE...
       uffd-lua image map [--json] [--totals] [--layer N] FILE...
       uffd-lua image cat [--range OFFSET,LENGTH] FILE...
       uffd-lua image plot [-o OUT.svg|OUT.png] [--width N] [--color WHEN] FILE...
       uffd-lua image bench [--json] FILE...
       uffd-lua image compare [--json] A B
       uffd-lua image diff [--json] A B
       uffd-lua image verify [--json] [--sample N] FILE...
       uffd-lua image index [--digest D] RAW
       uffd-lua image create -o OUT [--size N] [--against FILE]...
       uffd-lua image convert -o OUT [--format F] [--against FILE]... FILE...
       uffd-lua image compact -o OUT [--keep N] FILE...
       uffd-lua image commit [--json] FILE...
       uffd-lua image rebase -o OUT [--against FILE]... FILE...
       uffd-lua image import firecracker -o OUT --against FILE... DIFF
       uffd-lua image import criu -o OUT DIRECTORY
       uffd-lua image import e2b -o OUT [--storage DIRECTORY] HEADER
       uffd-lua image cache [--json] ls|verify [DIRECTORY]
       uffd-lua image cache [--json] [--max N] gc [DIRECTORY]
Looks into images, and makes others of them. FILE... is a stack of layers, the lowest first: raw files, zstd files of
many frames, and increments. An increment that stands first names its parent, which is looked for in its directory.
A FILE may be a URI: http, https, s3 or nbd.
  info     what the image and each layer of it is
  map      which layer each part of the image comes from: offset, length, kind, layer, offset in that file's stream
    --totals    only how much of each kind each layer gives
    --layer N   as the layer N alone has it, 1 being the lowest
  cat      the bytes of the image
    --range A,B  B bytes from offset A on
  plot     a picture of which layer each part comes from: as text, or SVG or PNG by the name of OUT
    --width N      of the picture in pixels (960), or of the text in characters
    --color WHEN   of the text: always, never, auto
  bench    what its pages cost here: read, by single faults, and all in order (of at most 256 MiB)
  compare  the first byte that differs, and how many pages do
  diff     the ranges of pages that differ
  verify   reads all, and compares it with the digests of the top layer; without an index, reads all
    --sample N   only N chunks of 64 KiB, spread over the image
  index    makes RAW.uidx: digests, which give a raw file an identity, and where it is zero; to be made anew when RAW
           was written to
  create   an empty layer: zero, or an increment that has nothing yet
  convert  the image as one file; `zstd -d` gives all of it back, unless it is an increment
    --format F     zstd (default), or raw, where zeros are holes
  compact  the upper layers of a stack as one increment on the layers that are kept
    --keep N       so many of the lower layers are kept (default 1)
  commit   the top layer's pages go into its parent, which is replaced; other increments on that parent fit no more
  rebase   the image as an increment on other layers: its contents stay the same
  import   a layer of what another program wrote: a diff of Firecracker, whose holes are the pages of its parent (import
           it where it was written: copies lose that); a dump of CRIU, and OUT.map says what was where; an image of E2B
    --storage D    where the builds of E2B are (default: the directory above the header's)
  cache    what is kept of files that lie elsewhere, in UFFD_CACHE of the environment, or ~/.cache/uffd
    ls           what is there: last use, source, bytes on the disk, how much of the image
    verify       the same, after all has been compared with its digests
    gc           removes what nobody has open, the longest unused first
    --max N      until so many bytes are left (default 0)
  --unversioned  a server without strong ETags is believed: what has the same length and date is the same
  -o OUT           the file to be written; it appears when it is whole
    --against FILE   what OUT is an increment on; several times for a stack, the lowest first
    --size N         bytes of the image, such as 64M (default: as below)
    --frame N        bytes of a zstd frame (default 64K)
    --level N        of zstd, -100 to 22 (default 3; -1: restored faster, a twelfth larger)
    --digest D       xxh3 (default), or sha256, where strangers keep the file
  --json   one JSON object a line
exit codes: 0 done, and the same or fine; 1 not so, or failed; 2 wrong usage; of compare and diff also: cannot be read
]]

local function range(text)
  local offset, length = text:match "^([^,]+),([^,]+)$"
  offset, length = arguments.bytes(offset or ""), arguments.bytes(length or "")
  if offset and length then return { offset, length } end
  return nil, "OFFSET,LENGTH, such as 64K,4096"
end

local function level(text)
  local number = arguments.range(-100, 22)(text)
  if number then return number end
  return nil, "a level of zstd, -100 to 22"
end

local verbs = {}

-- Looking

function verbs.info(options, image)
  if options.json then figures.info_json(image) else figures.info_text(image) end
  return 0
end

function verbs.map(options, image)
  local count = image:info().layers
  if options.layer and (options.layer < 1 or options.layer > count) then
    return nil, ("there are layers 1 to %d, not %d"):format(count, options.layer)
  end
  if options.totals then figures.totals(image, options) else figures.map(image, options) end
  return 0
end

local step = 1 << 20

function verbs.cat(options, image)
  local from, length = 0, image.size
  if options.range then from, length = options.range[1], options.range[2] end
  if from > image.size or length > image.size - from then
    return nil, ("the image has %d bytes: %d from %d on are not in it"):format(image.size, length, from)
  end
  for at = from, from + length - 1, step do
    local bytes, message = image:read(at, math.min(step, from + length - at))
    if not bytes then return nil, message end
    local ok, why = io.write(bytes)
    if not ok then return nil, why end
  end
  return io.flush() and 0
end

function verbs.plot(options, image)
  local paths = {}
  for i = 1, image:info().layers do paths[i] = image:layer(i).path end
  return plot.write(options, image, paths)
end

verbs.bench = bench

-- Comparing

-- Calls found(offset, length) for each page that differs. A page that only one of the images has differs. Pieces that
-- neither has anything for are skipped.
local function each_difference(a, b, page, found)
  local total = math.max(a.size, b.size)
  local bar = figures.progress("compared", total)
  for at = 0, total - 1, step do
    local length = math.min(step, total - at)
    local pair = {}
    for i, image in ipairs { a, b } do
      local has = math.max(0, math.min(length, image.size - at))
      local bytes, message = image:read(math.min(at, image.size), has)
      if not bytes then return nil, message end
      pair[i] = bytes
    end
    if pair[1] ~= pair[2] then
      for offset = 0, length - 1, page do
        local left, right = pair[1]:sub(offset + 1, offset + page), pair[2]:sub(offset + 1, offset + page)
        if left ~= right then found(at + offset, math.min(page, total - at - offset), left, right) end
      end
    end
    bar(at + length)
  end
  return true
end

local function open_pair(paths, options)
  local pair = {}
  for i, path in ipairs(paths) do
    local image, message = uffd.image { path, unversioned = options.unversioned }
    if not image then return nil, message end
    pair[i] = image
  end
  return pair[1], pair[2]
end

local function first_difference(left, right)
  for i = 1, math.max(#left, #right) do
    if left:byte(i) ~= right:byte(i) then return i - 1 end
  end
end

function verbs.compare(options, a, b)
  local first, count = nil, 0
  local ok, message = each_difference(a, b, 4096, function(offset, _, left, right)
    first = first or offset + first_difference(left, right)
    count = count + 1
  end)
  if not ok then return nil, message end
  figures.compared(options, a, b, first, count)
  return count == 0 and a.size == b.size and 0 or 1
end

function verbs.diff(options, a, b)
  local ranges = {}
  local ok, message = each_difference(a, b, 4096, function(offset, length)
    local last = ranges[#ranges]
    if last and last.offset + last.length == offset then
      last.length = last.length + length
    else
      ranges[#ranges + 1] = { offset = offset, length = length }
    end
  end)
  if not ok then return nil, message end
  figures.ranges(options, math.max(a.size, b.size), ranges)
  return #ranges == 0 and 0 or 1
end

function verbs.verify(options, image)
  local problems, message = image:verify(options.sample, figures.progress("verified", image.size))
  if not problems then return nil, message end
  figures.problems(options, image, problems)
  return #problems == 0 and 0 or 1
end

-- The cache

function verbs.cache(options, words)
  local directory = words[2]
  if words[1] == "gc" then
    local done, message = uffd.image.cache.gc(directory, options.max)
    if not done then return nil, message end
    figures.cache_gc(options, done)
    return 0
  end
  if words[1] ~= "ls" and words[1] ~= "verify" then
    return nil, ("'%s' is none of ls, gc and verify"):format(words[1])
  end
  local files, message = uffd.image.cache[words[1] == "ls" and "list" or "verify"](directory)
  if not files then return nil, message end
  if options.json then figures.cache_json(files) else figures.cache_text(files) end
  for _, cached in ipairs(files) do
    if cached.units_wrong > 0 then return 1 end
  end
  return 0
end

-- The command line

-- What each verb takes beside --json and --unversioned: its options, and how many files (at least, at most).
local writes = { ["-o"] = "output", output = arguments.text, frame = arguments.bytes, level = level,
  digest = arguments.choice("xxh3", "sha256") }
local function with(more)
  for name, value in pairs(writes) do more[name] = more[name] or value end
  return more
end

local takes = {
  info = { {}, 1 },
  map = { { totals = true, layer = arguments.integer }, 1 },
  cat = { { range = range }, 1 },
  compare = { {}, 2, 2, pair = true },
  diff = { {}, 2, 2, pair = true },
  verify = { { sample = arguments.integer }, 1 },
  index = { { digest = writes.digest }, 1, 1, raw = true },
  create = { with { size = arguments.bytes, against = arguments.several(arguments.text) }, 0, 0, raw = true },
  convert = { with { format = arguments.choice("zstd", "raw"),
    against = arguments.several(arguments.text) }, 1 },
  compact = { with { keep = arguments.integer }, 1, raw = true },
  commit = { { frame = writes.frame, level = level, digest = writes.digest }, 1, raw = true },
  rebase = { with { against = arguments.several(arguments.text) }, 1 },
  import = { with { against = arguments.several(arguments.text), storage = arguments.text }, 2, 2, raw = true,
    first = { firecracker = true, criu = true, e2b = true } },
  cache = { { max = arguments.bytes }, 1, 2, raw = true },
}

takes.plot = { { ["-o"] = "output", output = arguments.text, width = arguments.positive,
  color = arguments.choice("always", "never", "auto") }, 1, picture = true }
takes.bench = { {}, 1 }

-- The verb's options, and the words after it; or nil and a sentence.
local function parse(verb, ...)
  local known = { json = true, unversioned = true }
  for name, value in pairs(takes[verb][1]) do known[name] = value end
  local options, words = arguments.parse(known, ...)
  if not options then return nil, words end
  local least, most = takes[verb][2], takes[verb][3]
  local first = takes[verb].first
  if first and not first[words[1] or ""] then return nil, "of which program: firecracker, criu or e2b?" end
  if #words < least then return nil, least == 2 and not first and "two files or more" or "of which FILE?" end
  if most and #words > most then return nil, ("'%s' is too much"):format(words[most + 1]) end
  local pictured = takes[verb].picture
  local wrong = pictured and options.output and picture.refuse(options.output, options.width)
  if wrong then return nil, wrong end
  if known.output and not options.output and not pictured then return nil, "-o OUT: where to?" end
  return options, words
end

-- Calls the verb with images, or with the paths themselves.
local function run(verb, options, words)
  local takes_verb, act = takes[verb], verbs[verb] or write[verb]
  if takes_verb.raw then return act(options, words) end
  if takes_verb.pair then
    local a, b = open_pair(words, options)
    if not a then return nil, b end
    return act(options, a, b)
  end
  local layers = table.move(words, 1, #words, 1, { unversioned = options.unversioned })
  local image, message = uffd.image(layers)
  if not image then return nil, message end
  return act(options, image)
end

return function(verb, ...)
  if verb == "--help" or verb == "-h" then
    io.write(help)
    return 0
  end
  if not verb or not takes[verb] then
    return arguments.refuse("image", verb and ("'%s' is none of its verbs"):format(verb) or "what is to be done?",
      usage)
  end
  local name = "image " .. verb
  for _, word in ipairs { ... } do
    if word == "--help" or word == "-h" then
      io.write(help)
      return 0
    end
    if word == "--" then break end
  end
  local options, words = parse(verb, ...)
  if not options then return arguments.refuse(name, words, usage) end
  local code, message = run(verb, options, words)
  if code then return code end
  arguments.fail(name, message)
  return takes[verb].pair and 2 or 1
end
