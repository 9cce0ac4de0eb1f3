-- uffd-lua run: a program that knows nothing of userfaultfd gets memory from a pager. libuffd-preload.so is loaded into
-- it first, and hands over the mappings that --memory names.
local core = require "uffd.core"
local uffd = require "uffd"
local arguments = require "uffd.arguments"
local beside = require "uffd.beside"

local usage = "run --memory MATCH (--door SOCKET | --image FILE [options]) -- PROGRAM [ARGS]"
local help = [[
usage: uffd-lua ]] .. usage .. "\n" .. [[
Runs a program, unchanged, whose memory comes from a pager. The program's calls of mmap are watched; the mapping that
MATCH describes is registered with userfaultfd before the program sees it, and handed over. PROGRAM is looked for in
PATH; programs that it starts are watched as well, each on its own.
  --memory MATCH        the mapping to serve, described by fields with commas between them:
                          size=SIZE     its length, such as 256M
                          name=NAME     of its memfd, or of its file in /dev/shm or hugetlbfs
                          at=FROM-TO    it lies between these addresses, such as 0x7f0000000000-0x7fffffffffff
                          order=N       of those that fit, the Nth (the first that is not taken yet)
                          offset=SIZE   where its memory begins in the image (behind the --memory before)
                        several times for several mappings: they are handed over together, once
                        the last is there, and who touches one before that waits
  --door SOCKET         of a pager that runs already: PROGRAM takes the place of this one
  --image FILE          what the memory holds, as for uffd-lua serve: a pager is started, and ends with PROGRAM
  --policy FILE         with --image: a Lua chunk that makes the resolver of a client
  --around, --prefetch, --record, --replay, --rate, --workers, --watchdog, --control
                        with --image: as for uffd-lua serve
  --figures             with --image: a table of what was served, on stderr at the end
  --list                no memory is served: each mapping of 64 KiB or more is listed on stderr, as MATCH describes it
  --help                show this and stop
Anonymous memory, memfds, and files in tmpfs and hugetlbfs (pages of 2 MiB) can be served, shared or private. Left
alone, with a message: mappings of other files, reservations (PROT_NONE), mappings that grow (MAP_GROWSDOWN), and files
that have pages already. Not seen: memory of malloc, and system calls that do not go through libc. Static, set-uid and
32-bit programs take no library, and are refused. Another mapping of the same memfd or file, here or in another
process, is not served, and has zeros where it is touched first; so has who reads the file.
A forked child is served too where this user has the capability sys_ptrace, else it does not have the memory.
exit codes: PROGRAM's, 128 and the number where a signal ended it; 1 failed, or no memory was served; 2 wrong usage,
77 the kernel or the permissions lack what is needed, 127 there is no such program]]

-- What is matched

local matches_max = 16

local function read_address(text)
  local digits = text:find "^%d+$" or text:find "^0x%x+$"
  return digits and math.tointeger(tonumber(text)) or nil
end

local readers = { size = arguments.bytes, offset = arguments.bytes, order = arguments.integer }

function readers.name(text)
  if #text > 0 and #text < 256 and not text:find "[\t\n]" then return text end
  return nil, "a name of at most 255 bytes"
end

-- Two fields of the line for the library: low and high.
function readers.at(text)
  local low, high = text:match "^(%w+)%-(%w+)$"
  low, high = read_address(low), read_address(high)
  if low and high and low < high then return ("low=%d\thigh=%d"):format(low, high) end
  return nil, "two addresses, such as 0x7f0000000000-0x7fffffffffff"
end

-- A line for the library, which does not check it; or nil and what is expected.
local function read_match(text)
  local fields, given = {}, {}
  for field in (text .. ","):gmatch "(.-)," do
    local key, value = field:match "^(%a+)=(.*)$"
    local reader = readers[key]
    if not reader then return nil, "fields such as size=256M, name=ram, order=2, at=FROM-TO or offset=4K" end
    if given[key] then return nil, ("one %s"):format(key) end
    local read, expected = reader(value)
    if read == nil then return nil, ("for %s %s"):format(key, expected) end
    if (key == "size" or key == "order") and read == 0 then return nil, ("a %s from 1 on"):format(key) end
    given[key] = read
    fields[#fields + 1] = key == "at" and read or ("%s=%s"):format(key, read)
  end
  if not (given.size or given.name or given.at or given.order) then
    return nil, "a size, a name, an order or addresses"
  end
  return table.concat(fields, "\t")
end

-- The library

local function can_be_read(path)
  local file <close> = io.open(path, "rb")
  return file ~= nil
end

-- The library is below the prefix of this program: in lib of a build tree, or in the directory that was configured.
local function find_library()
  local program, message, errno = core.program()
  if not program then return nil, message, errno end
  local prefix = program:match "^(.*)/[^/]*/[^/]*$" or ""
  local directories = { prefix .. "/lib", core.libdir:sub(1, 1) == "/" and core.libdir or prefix .. "/" .. core.libdir }
  for _, directory in ipairs(directories) do
    local path = directory .. "/libuffd-preload.so"
    if can_be_read(path) then
      if not path:find "[%s:]" then return path end
      return nil, path .. " has a blank or a colon in its path, which LD_PRELOAD cannot name: install it elsewhere"
    end
  end
  return nil, ("libuffd-preload.so is not in %s"):format(table.concat(directories, " or "))
end

local refusals = {
  static = "%s is linked statically, so no library can be loaded into it: its mappings cannot be served",
  ["32-bit"] = "%s is a 32-bit program, and libuffd-preload.so is for 64 bits",
  privileged = "%s runs with other rights than yours (set-uid, set-gid or file capabilities), so the system ignores "
    .. "LD_PRELOAD: run it as the user whose rights it takes",
}

-- What is added to the environment of the program.
local function make_environment(library, given, door)
  local others = os.getenv "LD_PRELOAD"
  return {
    LD_PRELOAD = others and others ~= "" and library .. " " .. others or library,
    UFFD_PRELOAD_MEMORY = given.memory and table.concat(given.memory, "\n") or "",
    UFFD_PRELOAD_DOOR = door or "",
    UFFD_PRELOAD_LIST = given.list and "1" or nil,
    UFFD_PRELOAD_ANSWER = given.door and "1" or nil, -- else the pager beside it tells of a refusal
  }
end

-- A pager beside it

local lacking = { ENOSYS = true, EOPNOTSUPP = true, EPERM = true }

local function fail(message, errno)
  local code = arguments.fail("run", message)
  return lacking[uffd.errno[errno]] and 77 or code
end

local function run_served(given, words, environment_of)
  local code, watch, errno = beside.run("run", given, false, function(door) return words, environment_of(door) end)
  if not code then return fail(watch, errno) end
  if #watch.order == 0 and not watch.failed then
    watch:say "no memory was served: no mapping of the program fits --memory (--list shows what it maps)"
    watch.failed = true
  end
  return watch.failed and code == 0 and 1 or code
end

-- Running

local function known_options()
  local memory = {}
  local function add_memory(text)
    local line, expected = read_match(text)
    if not line then return nil, expected end
    memory[#memory + 1] = line
    return memory
  end
  local function around(text)
    if text == "auto" then return text end
    return arguments.bytes(text)
  end
  return {
    help = true, h = "help", list = true, figures = true, prefetch = true,
    memory = add_memory, door = arguments.text, around = around,
    image = arguments.several(arguments.text), policy = arguments.text,
    record = arguments.text, replay = arguments.text, control = arguments.text, rate = arguments.bytes,
    workers = arguments.integer, watchdog = arguments.integer,
  }
end

local function absolute(path)
  if path:sub(1, 1) == "/" then return path end
  return (os.getenv "PWD" or ".") .. "/" .. path
end

local socket_path_max = 107 -- bytes, of the kernel

-- What is wrong with the options, or nil.
local function check(given, words)
  if #words == 0 then return "it needs a program, behind --" end
  if given.list then return nil end
  if not given.memory then return "it needs a --memory to serve (--list shows what a program maps)" end
  if #given.memory > matches_max then return ("at most %d --memory are taken"):format(matches_max) end
  if given.door and given.image then return "--door names a pager that runs already, which has an image" end
  if not given.door and not given.image then return "it needs the --door of a pager, or an --image to start one for" end
  if given.image then return nil end
  local length = #absolute(given.door)
  if length > socket_path_max then
    return ("the path of the --door has %d bytes, and the kernel takes %d"):format(length, socket_path_max)
  end
  for _, name in ipairs(beside.passed) do
    if given[name] then return ("--%s is for a pager that is started here, with --image"):format(name) end
  end
  return given.figures and "--figures is for a pager that is started here, with --image" or nil
end

return function(...)
  local given, words = arguments.parse(known_options(), ...)
  local function refuse(message) return arguments.refuse("run", message, usage) end
  if not given then return refuse(words) end
  if given.help then
    print(help)
    return 0
  end
  local wrong = check(given, words)
  if wrong then return refuse(wrong) end
  local path, kind = core.find_program(words[1])
  if not path then
    arguments.fail("run", kind)
    return 127
  end
  if kind then return arguments.fail("run", refusals[kind]:format(path)) end
  local library, message, errno = find_library()
  if not library then return fail(message, errno) end
  if given.image and not given.list then
    return run_served(given, words, function(door) return make_environment(library, given, door) end)
  end
  message, errno = select(2, core.exec(words, make_environment(library, given, given.door and absolute(given.door))))
  return fail(message, errno)
end
