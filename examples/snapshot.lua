-- Writes the writable memory of a running process into a file, as an image that can be served to clones.
-- usage: uffd-lua snapshot.lua PID FILE
-- FILE holds the pages of every private writable mapping, one after the other, runs of zeros as holes. FILE.map says
-- where they were, a line a mapping: start end offset name (addresses in hexadecimal, offset in FILE in bytes). The
-- process is stopped while its memory is read, and goes on afterwards.

local PAGE, CHUNK = 4096, 64 * 4096
local zero_page, zero_chunk = ("\0"):rep(PAGE), ("\0"):rep(CHUNK)

local function process_state(pid)
  local file = assert(io.open(("/proc/%d/stat"):format(pid)))
  local state = file:read("a"):match("^%d+ %(.*%) (%a)")
  file:close()
  return state
end

-- Stops the process, runs action, lets the process go on (unless somebody else had stopped it).
local function while_stopped(pid, action)
  local before = process_state(pid)
  if before ~= "T" then
    assert(os.execute("kill -STOP " .. pid), "cannot stop process " .. pid)
    while process_state(pid) ~= "T" do os.execute("sleep 0.01") end
  end
  local ok, result = pcall(action)
  if before ~= "T" then os.execute("kill -CONT " .. pid) end
  assert(ok, result)
  return result
end

-- The private writable mappings: heap, stack, data of programs and libraries.
local function writable_mappings(pid)
  local mappings = {}
  for line in io.lines(("/proc/%d/maps"):format(pid)) do
    local first, last, protection, name = line:match("^(%x+)%-(%x+) (....) %x+ %x+:%x+ %d+%s*(.*)$")
    if protection:sub(1, 2) == "rw" and protection:sub(4, 4) == "p" then
      mappings[#mappings + 1] = { first = tonumber(first, 16), last = tonumber(last, 16), name = name }
    end
  end
  return mappings
end

-- A device may be mapped: what cannot be read stays a hole, and is counted.
local function read_chunk(memory, address, length)
  memory:seek("set", address)
  local bytes = memory:read(length)
  if bytes and #bytes == length then return bytes, 0 end
  local pages, unreadable = {}, 0
  for at = address, address + length - 1, PAGE do
    memory:seek("set", at)
    local page = memory:read(PAGE)
    if not page or #page ~= PAGE then
      page = zero_page
      unreadable = unreadable + 1
    end
    pages[#pages + 1] = page
  end
  return table.concat(pages), unreadable
end

-- Writes bytes at the image's end, zero pages as holes. Returns the number of pages that were not zero.
local function write_chunk(image, bytes)
  if bytes == zero_chunk then
    image:seek("cur", #bytes)
    return 0
  end
  local written = 0
  for at = 1, #bytes, PAGE do
    local page = bytes:sub(at, at + PAGE - 1)
    if page == zero_page then
      image:seek("cur", PAGE)
    else
      assert(image:write(page))
      written = written + 1
    end
  end
  return written
end

local function write_image(pid, path)
  local memory = assert(io.open(("/proc/%d/mem"):format(pid), "rb"))
  local image, map = assert(io.open(path, "wb")), assert(io.open(path .. ".map", "w"))
  local total = { bytes = 0, mappings = 0, written = 0, unreadable = 0 }
  memory:setvbuf("no")
  for _, mapping in ipairs(writable_mappings(pid)) do
    map:write(("%x %x %d %s\n"):format(mapping.first, mapping.last, total.bytes, mapping.name))
    for address = mapping.first, mapping.last - 1, CHUNK do
      local bytes, unreadable = read_chunk(memory, address, math.min(CHUNK, mapping.last - address))
      total.written = total.written + write_chunk(image, bytes)
      total.unreadable = total.unreadable + unreadable
      total.bytes = total.bytes + #bytes
    end
    total.mappings = total.mappings + 1
  end
  if total.bytes > 0 then -- a hole at the very end needs its last byte
    image:seek("set", total.bytes - 1)
    local last = io.open(path, "rb")
    if last:seek("end") < total.bytes then image:write("\0") end
    last:close()
  end
  assert(image:close())
  assert(map:close())
  memory:close()
  return total
end

local snapshot = {}

-- Returns { bytes, mappings, written (pages that are not zero), unreadable (pages) }.
function snapshot.take(pid, path)
  return while_stopped(pid, function() return write_image(pid, path) end)
end

if ... == "snapshot" then return snapshot end -- required by another example

local pid, path = math.tointeger(arg[1]), arg[2]
if not (pid and path) then
  io.stderr:write("usage: uffd-lua snapshot.lua PID FILE\n")
  os.exit(2)
end
local total = snapshot.take(pid, path)
print(("%s: %d bytes of %d mappings, %d pages of %d not zero"):format(
  path, total.bytes, total.mappings, total.written, total.bytes // PAGE))
if total.unreadable > 0 then io.stderr:write(("%d pages could not be read\n"):format(total.unreadable)) end
