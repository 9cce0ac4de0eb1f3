-- uffd-lua trace: runs a script, and writes a record of every fault that its loops answer to one file.
local core = require "uffd.core"
local uffd = require "uffd"
local arguments = require "uffd.arguments"

local usage = "trace [--output FILE] [--format ndjson|csv] script [args]"
local help = [[
usage: uffd-lua ]] .. usage .. "\n" .. [[
Runs a script, and writes a record of every fault that its loops answer: those of uffd.serve, from their first fault on.
A thread that answers no fault writes them. A loop for which the script itself chooses a file is not written here.
  --output FILE    where the records go, also -o; the file is emptied first (default: stderr)
  --format FORMAT  ndjson, a JSON object a line, or csv, with the names in the first line
                   (default: by the ending of FILE, .ndjson, .jsonl or .csv; of stderr: ndjson)
  --room N         records that may wait to be written (default: 16384); more are lost, and counted
  --help           show this and stop
script is a file, or - for stdin; what stands behind it are its arguments.
time is the wall clock in seconds, time_ns the monotonic clock, latency_ns from the read of the fault to its answer;
loop counts the loops of the script, region those of a loop; offset is the page in the region, cover how many bytes the
answer had; kind is missing, wp or minor; answer is what the resolver said, outcome what became of the page; error is an
errno, or 0; lost is how many records before this one found no room.
exit codes: the script's; 1 the script failed, or the file cannot be opened, 2 wrong usage]]

local loops = setmetatable({}, { __mode = "k" }) -- those that are traced
local made = 0

-- What trace_to takes, if the file can be written: that is tried before the script runs.
local function open_output(given)
  local to = { given.output or "/dev/stderr", format = given.format, room = given.room, append = not given.output }
  if not given.output then to.format = to.format or "ndjson" end
  local loop <close> = assert(uffd.serve {})
  local ok, message = loop:trace_to(to)
  if ok then ok, message = loop:trace_to() end
  for _ in loop:messages() do end -- said by the caller
  to.append = true
  return ok and to, message
end

-- Below uffd.serve, so that what it raises is the script's line.
local function trace_loops(to)
  local create = core.loop_create
  function core.loop_create(...)
    local ran, loop, message, errno = pcall(create, ...)
    if not ran then error(loop, 0) end
    if not loop then return nil, message, errno end
    made = made + 1
    to.loop = made
    local ok
    ok, message, errno = loop:trace_to(to)
    if not ok then
      loop:close()
      return nil, message, errno
    end
    loops[loop] = true
    return loop
  end
end

-- Writes what is left. What the loops have not told yet goes to stderr, as it does when they are closed.
local function finish()
  for loop in pairs(loops) do
    if pcall(loop.trace_to, loop) then
      for line, _, kind in loop:messages() do
        io.stderr:write(kind == "failure" and "uffd: " or "policy: ", line, "\n")
      end
    end
    loops[loop] = nil
  end
end

local function known_options()
  return {
    help = true, ["-h"] = "help", output = arguments.text, ["-o"] = "output", room = arguments.positive,
    format = arguments.choice("ndjson", "csv"),
  }
end

-- Options end at the script, as lua's do.
local function split(...)
  local words = table.pack(...)
  local known, first = known_options(), 1
  while words[first] and words[first]:find "^%-." and words[first] ~= "--" do
    local name = words[first]:match "^%-%-(.*)" or known[words[first]]
    first = first + ((known[name] == true or not known[name]) and 1 or 2)
  end
  local options = table.move(words, 1, math.min(first - 1, words.n), 1, {})
  return options, table.move(words, words[first] == "--" and first + 1 or first, words.n, 1, {})
end

return function(...)
  local options, words = split(...)
  local given, message = arguments.parse(known_options(), table.unpack(options))
  if not given then return arguments.refuse("trace", message, usage) end
  if given.help then
    print(help)
    return 0
  end
  if #words == 0 then return arguments.refuse("trace", "it needs a script", usage) end
  local chunk, to
  chunk, message = loadfile(words[1] ~= "-" and words[1] or nil)
  if not chunk then return arguments.fail("trace", message) end
  to, message = open_output(given)
  if not to then return arguments.fail("trace", message) end
  trace_loops(to)
  local exit, _ <close> = os.exit, setmetatable({}, { __close = finish })
  rawset(_G, "arg", table.move(words, 1, #words, 0, { [-1] = "uffd-lua" }))
  rawset(os, "exit", function(...)
    finish()
    exit(...)
  end)
  chunk(table.unpack(words, 2))
  return 0
end
