-- Clones the memory of a running process, several times side by side, from one image.
-- usage: uffd-lua clone.lua [--clones N] [--shared] [--around SIZE] [--image FILE | --pid PID] [--json]
--   --clones N     how many (4)
--   --shared       all clones share the pages of the image: each is filled once
--   --around SIZE  bytes that one fault brings in where it can (64K)
--   --image FILE   an image that snapshot.lua wrote; by default one is taken
--   --pid PID      of this process; by default of packages.lua, which has read the machine's package database
--   --json         one JSON object a line instead of the table
-- Pages come from the image through C, runs of zeros as zero pages; a Lua policy gives each clone one page of its own,
-- its identity. Every clone is read twice, in order and in random order, and each byte is compared with the image.
package.path = arg[0]:gsub("[^/]*$", "") .. "?.lua;" .. package.path
local uffd = require "uffd"
local json = require "uffd.json"
local snapshot = require "snapshot"

local PAGE = 4096
local IDENTITY = 64 * PAGE -- where the identity page lies in every clone

local function usage(message)
  io.stderr:write("clone.lua: ", message, "\nusage: uffd-lua clone.lua [--clones N] [--shared] [--around SIZE] ",
    "[--image FILE | --pid PID] [--json]\n")
  os.exit(2)
end

local function parse_arguments()
  local options, i = { clones = 4, around = "64K" }, 1
  local takes = { ["--clones"] = "clones", ["--around"] = "around", ["--image"] = "image", ["--pid"] = "pid" }
  while arg[i] do
    local name = takes[arg[i]]
    if arg[i] == "--json" then
      options.json = true
    elseif arg[i] == "--shared" then
      options.shared = true
    elseif name then
      i = i + 1
      options[name] = arg[i] or usage(arg[i - 1] .. " needs a value")
    else
      usage("unknown argument " .. arg[i])
    end
    i = i + 1
  end
  options.clones = math.tointeger(options.clones) or usage("--clones is a number")
  if options.clones < 1 or options.clones > 256 then usage("--clones is 1 to 256") end
  if options.pid and not math.tointeger(options.pid) then usage("--pid is a number") end
  return options
end

local function note(options, ...)
  if not options.json then print((...):format(select(2, ...))) end
end

-- Starts packages.lua, which stops itself when it has loaded its data, and takes its memory.
local function take_packages(options, path)
  local interpreter, i = arg[-1], -1
  while arg[i] do interpreter, i = arg[i], i - 1 end
  local script = arg[0]:gsub("[^/]*$", "") .. "packages.lua"
  local program = assert(io.popen(("exec %q %q"):format(interpreter, script)))
  local pid, packages, files = program:read("n", "n", "n")
  assert(pid, "packages.lua did not start")
  local ok, total = pcall(snapshot.take, pid, path)
  os.execute("kill -KILL " .. pid)
  program:close()
  assert(ok, total)
  note(options, "packages.lua, process %d, has read %d packages and %d files.", pid, packages, files)
  return total
end

local function take_image(options)
  if options.image then return options.image end
  local path = os.tmpname()
  local total = options.pid and snapshot.take(options.pid, path) or take_packages(options, path)
  note(options, "Its writable memory: %.1f MiB in %d mappings, %d pages of %d not zero.", total.bytes / 2 ^ 20,
    total.mappings, total.written, total.bytes // PAGE)
  return path
end

local function map_clone(options, image, first)
  if not options.shared then return assert(uffd.map { size = image.size }), image end
  local memory = assert(first and uffd.map { of = first } or
    uffd.map { size = image.size, kind = "memfd", private = true, name = "clones" })
  return memory, assert(uffd.resolver.shared { memory, below = image })
end

local function make_clone(index, options, image, path, first)
  local identity = uffd.resolver.policy(function(args)
    return function() return ("I am clone %d of %s.\n"):format(args.index, args.image) end
  end, { index = index, image = path })
  local memory, contents = map_clone(options, image, first)
  local loop = assert(uffd.serve {
    { memory = memory, around = options.around,
      resolver = uffd.resolver.layers { { 0, contents }, { IDENTITY, identity, length = PAGE } } },
  })
  local page = ("I am clone %d of %s.\n"):format(index, path)
  return { index = index, memory = memory, loop = loop, identity = page .. ("\0"):rep(PAGE - #page) }
end

-- Bytes of memory that the clone has for itself: its share of what it maps, where several map the same (Pss).
local function own_bytes(memory)
  local kib, inside = 0, false
  for line in io.lines("/proc/self/smaps") do
    local first, last = line:match("^(%x+)%-(%x+) ")
    if first then
      inside = tonumber(first, 16) >= memory.address and tonumber(last, 16) <= memory.address + memory.size
    elseif inside then
      kib = kib + (tonumber(line:match("^Pss: +(%d+) kB")) or 0)
    end
  end
  return kib * 1024
end

-- What the clone must read at [offset, offset+length): the image, but for the identity page.
local function expected(clone, file, offset, length)
  file:seek("set", offset)
  local bytes = file:read(length)
  bytes = bytes .. ("\0"):rep(length - #bytes)
  if offset > IDENTITY or offset + length <= IDENTITY then return bytes end
  return bytes:sub(1, IDENTITY - offset) .. clone.identity .. bytes:sub(IDENTITY - offset + PAGE + 1)
end

-- Offsets in steps of a page, every one once.
local function shuffled(size, seed)
  local offsets = {}
  for offset = 0, size - 1, PAGE do offsets[#offsets + 1] = offset end
  math.randomseed(seed)
  for i = #offsets, 2, -1 do
    local j = math.random(i)
    offsets[i], offsets[j] = offsets[j], offsets[i]
  end
  return offsets
end

local function in_order(size, step)
  local offsets = {}
  for offset = 0, size - 1, step do offsets[#offsets + 1] = offset end
  return offsets
end

-- Reads all of the clone in this order and compares. The clock runs only while the clone is read.
local function read_clone(clone, file, offsets, step)
  local size, elapsed, first = clone.memory.size, 0, nil
  for _, offset in ipairs(offsets) do
    local length = math.min(step, size - offset)
    local before = uffd.now()
    local bytes = assert(clone.memory:read(offset, length))
    elapsed = elapsed + (uffd.now() - before)
    first = first or elapsed
    if bytes ~= expected(clone, file, offset, length) then
      error(("clone %d differs from the image at offset %d"):format(clone.index, offset))
    end
  end
  return first, elapsed
end

-- Odd clones are first read in random order, even ones in order; the second reading is the other one.
local function measure(clone, file)
  local size = clone.memory.size
  local random = clone.index % 2 == 1
  local orders = { { shuffled(size, clone.index), PAGE }, { in_order(size, 16 * PAGE), 16 * PAGE } }
  local one, other = orders[random and 1 or 2], orders[random and 2 or 1]
  local first, all = read_clone(clone, file, one[1], one[2])
  local stats = clone.loop:stats()
  read_clone(clone, file, other[1], other[2])
  return {
    { "clone", tostring(clone.index) },
    { "reader", random and "random" or "in order" },
    { "bytes", size },
    { "pages", stats.zero + stats.copied + stats.continued },
    { "zero_pages", stats.zero },
    { "faults", stats.faults },
    { "policy_calls", stats.policy_calls },
    { "first_byte_s", first },
    { "all_s", all },
    { "own", 0 },
  }
end

-- What the clones are compared with: the whole image read into memory before the first byte can be used.
local function measure_eager(path)
  local before = uffd.now()
  local file = assert(io.open(path, "rb"))
  local bytes = file:read("a")
  file:close()
  local elapsed = uffd.now() - before
  return {
    { "clone", "eager" }, { "reader", "read all" }, { "bytes", #bytes }, { "pages", (#bytes + PAGE - 1) // PAGE },
    { "zero_pages", 0 }, { "faults", 0 }, { "policy_calls", 0 }, { "first_byte_s", elapsed }, { "all_s", elapsed },
    { "own", #bytes },
  }
end

local function print_row(options, row)
  if options.json then return print(json.encode { object = row }) end
  local cells = {}
  for i, field in ipairs(row) do
    local name, value = field[1], field[2]
    if name == "first_byte_s" or name == "all_s" then value = ("%.3f ms"):format(value * 1000) end
    if name == "own" then value = ("%.1f MiB"):format(value / 2 ^ 20) end
    cells[i] = value
  end
  print(("%-6s %-9s %12s %8s %8s %8s %8s %12s %12s %10s"):format(table.unpack(cells)))
end

local options = parse_arguments()
local path = take_image(options)
local image = assert(uffd.resolver.file { path = path })
assert(image.size > IDENTITY + PAGE, "the image is too small to have an identity page")
local file = assert(io.open(path, "rb"))
local clones = {}
for index = 1, options.clones do
  clones[index] = make_clone(index, options, image, path, index > 1 and clones[1].memory)
end

if not options.json then
  print(("%-6s %-9s %12s %8s %8s %8s %8s %12s %12s %10s"):format(
    "clone", "reader", "bytes", "pages", "zero", "faults", "policy", "first byte", "all", "own"))
end
local rows = {}
for index, clone in ipairs(clones) do rows[index] = measure(clone, file) end
for index, clone in ipairs(clones) do -- when all are read: what they share is counted in parts
  rows[index][#rows[index]][2] = own_bytes(clone.memory)
  print_row(options, rows[index])
end
print_row(options, measure_eager(path))
note(options, "Each byte of %d clones was compared with the image, in order and in random order: all equal.",
  options.clones)

for _, clone in ipairs(clones) do
  clone.loop:close()
  clone.memory:close()
end
file:close()
if not options.image then
  os.remove(path)
  os.remove(path .. ".map")
end
