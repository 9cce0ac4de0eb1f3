-- The public module. Its names are those of <uffd.h>; options are tables, and sizes may be text. It calls uffd.core.
-- The methods of handles are documented in core.d.lua, the functions of the module here.
local core = require "uffd.core"
local histogram = require "uffd.histogram"

---Page faults answered in user space, with Linux userfaultfd.
---
---Mistakes of the program (a wrong type, an unknown option, a closed handle, an offset outside) raise. What the outside
---world refuses (the kernel, permissions, files) returns `nil, message, errno`; `uffd.errno[errno]` is its name.
---Offsets and lengths are bytes, offsets count from 0; sizes may be typed as `"64M"`.
---@class uffd
local uffd = {}

-- The version of these files. They and the core are installed together, but the search paths may mix two installations.
local version = "0.1.0"
if core.version ~= version then
  error(("uffd: its Lua files (%s) are of version %s, its C part uffd.core is of %s: two installations mix. %s"):format(
    debug.getinfo(1, "S").short_src, version, core.version, "Look at LUA_PATH, LUA_CPATH and the program that runs."))
end

---The version of the library that runs, `"0.1.0"`.
---@type string
uffd.version = version

---`"uffd 0.1.0"`
---@type string
uffd._VERSION = "uffd " .. version

---Names of errors and their numbers, both ways: `uffd.errno.EBUSY == 16`, `uffd.errno[16] == "EBUSY"`.
---@type table<string|integer, integer|string>
uffd.errno = core.errno

---An answer of a policy: a page of zeros.
---@type uffd.Sentinel
uffd.ZERO = core.ZERO

---An answer of a policy: every access to the page raises SIGBUS.
---@type uffd.Sentinel
uffd.POISON = core.POISON

---An answer of a policy: not yet. The fault waits, and the policy is asked again when the program says `loop:ready`, or
---after 20 us to 10 ms.
---@type uffd.Sentinel
uffd.LATER = core.LATER

---An answer of a policy, with a file descriptor or a file of `io.open`, the offset in the file of this page, and how
---many bytes from there on (default: one page): these bytes of that file. It must stay open.
---@type uffd.Sentinel
uffd.FILE = core.FILE

-- Raises an error of the core again, without the position in this file: it is a mistake of the program, level frames
-- above the caller. A function that ends in `return f(...)` has no frame.
local function settle_at(what, level, ok, ...)
  if ok then return ... end
  local message = tostring((...)):gsub("^bad argument #%-?%d+ to '[^']*' %((.*)%)$", "%1")
  error(what .. ": " .. message, level + 1)
end

local function settle(what, ...)
  return settle_at(what, 1, ...)
end

-- Always called as `return call(...)`, so that level 2 is the line of the program.
local function call(what, f, ...)
  return settle(what, pcall(f, ...))
end

local function keys_of(known)
  local keys = {}
  for key in pairs(known) do keys[#keys + 1] = key end
  table.sort(keys)
  return table.concat(keys, ", ")
end

-- Raises at the caller of the function that was given the options. count: how many list items it may have.
local function check_options(what, given, known, count, level)
  level = (level or 1) + 2
  if type(given) ~= "table" then
    error(("%s: a table of options expected, got %s"):format(what, type(given)), level)
  end
  for key in pairs(given) do
    local item = math.type(key) == "integer" and key >= 1 and key <= (count or 0)
    if not known[key] and not item then
      error(("%s: unknown option '%s'; it takes %s"):format(what, tostring(key), keys_of(known)), level)
    end
  end
end

local units = { [""] = 1, K = 1 << 10, M = 1 << 20, G = 1 << 30, T = 1 << 40 }

-- Bytes: an integer from 0 on, or text such as "64M", "4 KiB". nil stays nil.
local function bytes(what, value, level)
  local size = value
  if type(value) == "string" then
    local digits, unit = value:match "^%s*(%d+)%s*([KMGT]?)i?B?%s*$"
    size = digits and units[unit] and math.tointeger(tonumber(digits))
    if size and size > math.maxinteger // units[unit] then size = nil end
    size = size and size * units[unit]
  elseif type(value) == "number" then
    size = math.tointeger(value)
  end
  if value ~= nil and (math.type(size) ~= "integer" or size < 0) then
    error(('%s: bytes are an integer from 0 on, or text such as "64M", not %s'):format(what, tostring(value)),
      (level or 1) + 2)
  end
  return size
end

local nanoseconds = { ns = 1, us = 1000, ms = 1000000, s = 1000000000 }

-- Nanoseconds: a number of milliseconds from 0 on, or text such as "5ms", "0.5 s". nil stays nil.
local function duration(what, value, level)
  if value == nil then return nil end
  local count, unit = value, "ms"
  if type(value) == "string" then
    count, unit = value:match "^%s*([%d.]+)%s*(%a+)%s*$"
    count = tonumber(count)
  end
  local ns = type(count) == "number" and nanoseconds[unit] and count * nanoseconds[unit]
  if not (ns and ns >= 0 and ns < 2 ^ 62) then
    error(('%s: a time is milliseconds from 0 on, or text such as "5ms", "200us", "2s", not %s'):format(what,
      tostring(value)), (level or 1) + 2)
  end
  return math.floor(ns + 0.5)
end

local function open_flags(options)
  local flags = 0
  if options.nonblock == false then flags = flags | core.flags.open_blocking end
  if options.user_mode_only == true then flags = flags | core.flags.open_user_mode_only end
  if options.user_mode_only == false then flags = flags | core.flags.open_no_user_mode_only end
  return flags
end

-- The object

local open_options = { features = true, optional = true, nonblock = true, user_mode_only = true, route = true }

---@class uffd.OpenOptions
---@field features? uffd.Mask features that must be there, such as `{ "event_remove" }`
---@field optional? uffd.Mask features that are enabled where the kernel and the permissions have them
---@field nonblock? boolean false: a blocking descriptor, not to be polled, read without a limit only (default true)
---@field user_mode_only? boolean true: ask for it; false: fail instead of falling back to it; nil: fall back to it
---@field route? "auto"|"syscall"|"device" how the descriptor is made (default: whichever is allowed)

---Makes a userfaultfd.
---
---Errors, with a message that names the cause and the mend: EPERM (sysctl, capability, seccomp), EACCES and ENOENT (the
---device), ENOSYS, EINVAL (a feature that this kernel lacks, named), EMFILE, ENFILE, ENOMEM.
---@param options? uffd.OpenOptions
---@return uffd.Object? object
---@return string? message
---@return integer? errno
function uffd.open(options)
  options = options or {}
  check_options("uffd.open", options, open_options)
  return call("uffd.open", core.open, options.features, options.optional, open_flags(options), options.route)
end

---Takes over a userfaultfd that was made elsewhere (received, inherited). After success the object owns the
---descriptor, after a failure the caller still does. Errors: EBADF; EINVAL not a userfaultfd, or one without its
---handshake; ENOMEM.
---@param fd integer
---@return uffd.Object? object
---@return string? message
---@return integer? errno
function uffd.adopt(fd)
  return call("uffd.adopt", core.adopt, fd)
end

-- Memory

local map_options = { size = true, kind = true, fork = true, private = true, name = true, address = true,
  of = true }

---@class uffd.MapOptions
---@field size? integer|string bytes, rounded up to whole pages; with `of`, that memory's size
---"thp", the default: huge pages where blocks of 2 MiB come in whole, without a zero page; "anonymous": base pages only
---@field kind? "anonymous"|"thp"|"memfd"|"hugetlb"
---@field fork? boolean true: children of fork inherit it (default: they do not have it)
---@field private? boolean true: the served mapping of a memfd or hugetlb is private
---@field name? string of the memfd in /proc (default "uffd")
---@field of? uffd.Memory another private mapping of this one's memfd, of its size and kind: see `uffd.resolver.shared`
---@field address? integer adopts `size` bytes that are mapped there already, instead of mapping new ones

---Maps memory that can be served; it reads as zeros until it is. With `address`, adopts what is mapped there: its
---owner keeps it mapped until the handle is closed.
---
---Errors: EINVAL size 0 or beyond the address space, or a range that cannot be adopted; ENOMEM no memory, or no free
---huge pages (the message says how to get them); EMFILE, ENFILE; ENOSYS a kernel without hugetlb.
---@param options uffd.MapOptions
---@return uffd.Memory? memory
---@return string? message
---@return integer? errno
function uffd.map(options)
  check_options("uffd.map", options, map_options)
  local of = options.of
  if of ~= nil and (options.kind or options.private or options.name or options.address) then
    error("uffd.map: another mapping of a memory is of its kind: it takes of, size and fork", 2)
  end
  local size = bytes("uffd.map: size", options.size) or of and of.size
  if size == nil then error("uffd.map: it needs a size, in bytes or as \"64M\"", 2) end
  if options.address ~= nil then
    if options.kind or options.fork or options.private or options.name then
      error("uffd.map: memory at an address is as it was mapped: it takes size and nothing else", 2)
    end
    return call("uffd.map", core.memory_adopt, options.address, size)
  end
  local flags = (options.fork and core.flags.map_fork or 0) | (options.private and core.flags.map_private or 0)
  return call("uffd.map", core.map, size, options.kind, flags, options.name, of)
end

local foreign_options = { address = true, size = true, page_size = true, pid = true }

---@class uffd.ForeignOptions
---@field address integer where it lies in the other process
---@field size integer|string bytes, whole pages
---@field page_size? integer|string of the memory there, at most 2M (default: the base page)
---@field pid? integer the process, as seen from here

---A handle for memory of another process, whose userfaultfd was handed over: `uffd.adopt(fd)`. It is not read or
---written from here. A region of it names that object, and as its modes what the owner has registered; it stays
---registered when the loop is closed. Not for the inline engine.
---Errors: EINVAL size 0, not whole pages, beyond the address space.
---@param options uffd.ForeignOptions
---@return uffd.Memory? memory
---@return string? message
---@return integer? errno
function uffd.foreign(options)
  check_options("uffd.foreign", options, foreign_options)
  return call("uffd.foreign", core.memory_foreign, options.address, bytes("uffd.foreign: size", options.size),
    bytes("uffd.foreign: page_size", options.page_size), options.pid)
end

local memory = core.methods.memory

function memory:pack(format, offset, ...)
  local data = call("memory:pack", string.pack, format, ...)
  return self:write(offset, data)
end

-- string.unpack fails if there are too few bytes. So for a format without a fixed size, more and more bytes are tried.
function memory:unpack(format, offset)
  offset = math.tointeger(offset or 0) -- as memory:read() takes 4096.0
  local ok, length = pcall(string.packsize, format)
  length = ok and length or 16
  if not offset or offset < 0 or offset > self.size then
    error("memory:unpack: offset is not inside the memory", 2)
  end
  while true do
    local available = math.min(length, self.size - offset)
    local data, message, errno = self:read(offset, available)
    if not data then return nil, message, errno end
    local values = table.pack(pcall(string.unpack, format, data))
    if values[1] then
      values[values.n] = offset + values[values.n] - 1
      return table.unpack(values, 2, values.n)
    end
    if ok or available < length then error("memory:unpack: " .. tostring(values[2]), 2) end
    length = length * 2
  end
end

-- Resolvers

---Resolvers say what pages hold. Each is immutable, may serve many regions and loops at once, and lives as long as
---something uses it. `resolver.size` is the bytes that it answers for, `resolver.kind` its name.
---@class uffd.resolver
local resolver = {}
uffd.resolver = resolver

---Zero pages.
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.zero()
  return call("uffd.resolver.zero", core.resolver_zero)
end

---Poison: every access to such a page raises SIGBUS (EFAULT in system calls). Kernel 6.6.
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.poison()
  return call("uffd.resolver.poison", core.resolver_poison)
end

---@class uffd.BytesOptions
---@field data? string zeros follow to the end of its last page
---@field pattern? string 1 byte to 1 MiB, repeated without end from offset 0

---A copy of a string, or a pattern that repeats. Errors: EINVAL an empty or too long one.
---@param contents string|uffd.BytesOptions
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.bytes(contents)
  local what = "uffd.resolver.bytes"
  if type(contents) == "string" then return call(what, core.resolver_bytes, contents) end
  check_options(what, contents, { data = true, pattern = true })
  if (contents.data == nil) == (contents.pattern == nil) then error(what .. ": either data or pattern", 2) end
  if contents.data ~= nil then return call(what, core.resolver_bytes, contents.data) end
  return call(what, core.resolver_pattern, contents.pattern)
end

---@class uffd.FileOptions
---@field path? string
---@field fd? integer instead of a path; it stays the caller's
---@field offset? integer|string of the contents in the file, bytes (default 0)
---@field length? integer|string bytes (default: to the end of the file)
---the program itself writes to the file while it is served: a page is what the file holds when the page is asked for
---@field changes? boolean

---The contents of a file or block device, read when they are asked for; its holes are zero pages. The file must not
---change while it is served: pages asked for after that fail (ESTALE), unless `changes` is true. A page that cannot be
---read fails by itself (EIO, or ENODATA when the file has become shorter).
---Errors: those of opening it; EINVAL not a regular file or block device, empty, or shorter than offset + length.
---@param options string|uffd.FileOptions a path, or options
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.file(options)
  local what = "uffd.resolver.file"
  if type(options) == "string" then options = { path = options } end
  check_options(what, options, { path = true, fd = true, offset = true, length = true, changes = true })
  if (options.path == nil) == (options.fd == nil) then error(what .. ": either path or fd", 2) end
  if options.path ~= nil and type(options.path) ~= "string" then error(what .. ": path must be a string", 2) end
  if options.fd ~= nil and type(options.fd) ~= "number" then error(what .. ": fd must be a number", 2) end
  local offset, length = bytes(what .. ": offset", options.offset), bytes(what .. ": length", options.length)
  return call(what, core.resolver_file, options.path or options.fd, offset, length, options.changes == true)
end

local source_options = { memory = true, offset = true }

-- A memory, or { memory, offset = }.
local function source(what, options)
  if type(options) == "userdata" then return options end
  check_options(what, options, source_options, 1, 2)
  return options[1] or options.memory, bytes(what .. ": offset", options.offset, 2)
end

---@class uffd.SourceOptions
---@field [1] uffd.Memory the source (or: memory =)
---@field memory? uffd.Memory
---@field offset? integer|string where in the source offset 0 lies, bytes (default 0)

---Copies the contents of another memory. That memory must not be served, now or later (EBUSY).
---@param options uffd.Memory|uffd.SourceOptions
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.memory(options)
  local from, offset = source("uffd.resolver.memory", options)
  return call("uffd.resolver.memory", core.resolver_memory, from, offset)
end

---Moves the pages of another private anonymous memory, which is not served, without copying. Each page moves once.
---Errors: as `memory`; EINVAL for a source of another kind.
---@param options uffd.Memory|uffd.SourceOptions
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.move(options)
  local from, offset = source("uffd.resolver.move", options)
  return call("uffd.resolver.move", core.resolver_move, from, offset)
end

---@class uffd.ContinueOptions
---@field fill? uffd.Resolver for pages that the page cache does not have (default: zeros)

---For memfd and hugetlb memory: maps pages that are in the page cache. Kernel 5.13.
---@param options? uffd.ContinueOptions
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
resolver["continue"] = function(options)
  options = options or {}
  check_options("uffd.resolver.continue", options, { fill = true })
  return call("uffd.resolver.continue", core.resolver_continue, options.fill)
end

---@class uffd.SharedOptions
---@field [1] uffd.Memory a private mapping of a memfd: `uffd.map { kind = "memfd", private = true }`, or `{ of = }`
---@field below uffd.Resolver what the pages hold, the same for all mappings

---One copy for all clones: private mappings of one memfd (`of`), each served by this resolver or one of the same
---memory, share the pages that `below` has answered. A page is asked for once, and mapped into the others at their
---first touch; what one of them writes is its own. A layer above gives a mapping pages of its own. The pages lie at the
---offsets that they have in the memory. Errors: EINVAL another kind of memory; EOPNOTSUPP (of serving) a kernel before
---5.13.
---@param options uffd.SharedOptions
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.shared(options)
  check_options("uffd.resolver.shared", options, { below = true }, 1)
  return call("uffd.resolver.shared", core.resolver_shared, options[1], options.below)
end

---@class uffd.Layer
---@field [1] integer|string where the layer lies, bytes, whole pages
---@field [2] uffd.Resolver what answers there
---@field length? integer|string bytes; none: a ground layer, as far as its resolver or the next ground layer reaches
---@field from? integer|string where in the resolver the layer begins, bytes (default 0)

---Several resolvers side by side. What no layer covers is zero. A layer with a length lies on top of the layers
---without one. Two layers with a length must not overlap. Errors: EINVAL an overlap (both ranges are named), a
---resolver shorter than its layer, no layers.
---@param layers uffd.Layer[]
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.layers(layers)
  local what = "uffd.resolver.layers"
  check_options(what, layers, {}, type(layers) == "table" and #layers)
  local list = {}
  for i, layer in ipairs(layers) do
    check_options(what, layer, { length = true, from = true }, 2)
    local function size(key, name) return bytes(("%s: %s of layer %d"):format(what, name, i), layer[key], 2) end
    list[i] = { size(1, "offset"), layer[2], length = size("length", "length"), from = size("from", "from") }
  end
  return call(what, core.resolver_layers, list)
end

local faulty_options = {
  below = true, error = true, poison = true, errno = true, delay = true, later = true, seed = true,
}

---@class uffd.FaultyOptions
---@field below uffd.Resolver what answers where nothing goes wrong
---@field error? number the share of the pages that fail, 0 to 1, each time they are asked for (default 0)
---@field errno? string|integer what they fail with (default "EIO")
---@field poison? number the share of the pages that are poison, 0 to 1 (default 0; kernel 6.6)
---@field delay? string|number before each answer, such as "5ms", or milliseconds; at most "60s". The handler sleeps
---@field later? integer how often a page says `uffd.LATER` before each answer, at most 255 (default 0)
---@field seed? integer another seed, other pages (default 0)

---For tests of programs: another resolver, made slow and unreliable. Which pages fail or are poison depends on the seed
---and on their offsets alone, not on the engine or on the order in which they are asked for. Such a page is answered
---alone. Errors: EINVAL a share that is none, too long a delay.
---@param options uffd.FaultyOptions
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.faulty(options)
  local what = "uffd.resolver.faulty"
  check_options(what, options, faulty_options)
  if options.below == nil then error(what .. ": it needs a resolver below it: below = ...", 2) end
  for _, name in ipairs { "error", "poison" } do
    if options[name] ~= nil and type(options[name]) ~= "number" then
      error(("%s: %s is a share of the pages, 0 to 1, not %s"):format(what, name, tostring(options[name])), 2)
    end
  end
  local errno = options.errno
  if errno ~= nil and math.type(errno) ~= "integer" then errno = math.tointeger(core.errno[errno]) end
  if options.errno ~= nil and (not errno or errno < 1) then
    error(("%s: errno is a name such as \"EIO\", or its number, not %s"):format(what, tostring(options.errno)), 2)
  end
  return call(what, core.resolver_faulty, options.below, options.error, options.poison, errno,
    duration(what .. ": delay", options.delay), options.later, options.seed)
end

local policy_options = { timeout_ms = true, memory = true, libs = true }

---@class uffd.PolicyOptions
---processor time that one answer may take; the factory has ten times that; 0: no limit (default 1000)
---@field timeout_ms? integer
---the most memory of the Lua state that each handler has for it, bytes (default "8M")
---@field memory? integer|string
---"io", "os", "debug": libraries beside those that every handler has; their functions must not wait for the program
---@field libs? uffd.Mask

---A resolver written in Lua. The factory runs once in each handler's own Lua state and returns the function that is
---asked for pages. It may use no locals from outside of it, except one that is this module, of which a policy has
---`ZERO`, `POISON`, `LATER`, `FILE`, `log` and `version`. What else it needs goes into args: nil, booleans, numbers,
---strings, the sentinels, tables of these, resolvers to hand over to, and memories to read that are not served. Its
---globals are its own, over those of the handler's state: the basic functions, string, table, math, utf8, coroutine,
---the clocks of os, `uffd`, and, while the factory runs, `require`. `print` and `uffd.log` give a line to
---`loop:messages()`.
---
---The function gets a `uffd.Fault`, the same table each time, and returns one of
---* nothing, or `uffd.ZERO`: a page of zeros
---* `uffd.POISON`: every access to the page raises SIGBUS
---* `uffd.LATER`: not yet; the thread waits, and the policy is asked again when the program says `loop:ready`, or a
---  moment later
---* `uffd.FILE`, a file descriptor or a file of `io.open`, the offset of this page in it, and the bytes from there on
---  (default: one page): these bytes of that file, read by the library
---* a string: the page; zeros follow when it is shorter
---* a string, and the offset of its first byte (a multiple of the page size): any number of pages, this one among them
---* a resolver of its args, and the offset there of this page (default: the same offset); and, as a third value, the
---  bytes from this page on for which that holds (default: one page)
---
---The strings `"zero"`, `"poison"` and `"later"` without an offset are these answers too; with an offset they are
---contents. A string that looks like one of them (`"Poison"`, `"zeros"`) is a failure, unless it has an offset.
---
---Anything else, an error, a time-out (looked at between Lua instructions) or too little memory is a failure: the
---region's on_error says what the page becomes. A policy must not wait for the program, nor touch memory that is
---served.
---Errors: EBUSY a memory of args is served.
---@param factory fun(args: any): fun(fault: uffd.Fault): (string|uffd.Sentinel|uffd.Resolver|nil), integer?, integer?
---@param args? any
---@param options? uffd.PolicyOptions
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function resolver.policy(factory, args, options)
  local what = "uffd.resolver.policy"
  options = options or {}
  check_options(what, options, policy_options)
  local room = bytes(what .. ": memory", options.memory)
  return call(what, core.resolver_policy, factory, args, options.timeout_ms, room, options.libs)
end

---@class uffd.AskOptions
---@field page_size? integer bytes (default 4096)
---@field write? boolean
---@field wp? boolean
---@field minor? boolean
---@field prefetch? boolean

---Asks a policy for one page, in a Lua state made for it and without serving anything: to try a policy out.
---Returns `"zero"`; `"poison"`; `"later"`; `"bytes"`, the string, the offset of its first byte; or `"resolver"`, the
---resolver, the offset there. A policy that fails: nil, the message, EIO (an error, or an answer of no use), ETIMEDOUT,
---ENOMEM.
---@param policy uffd.Resolver
---@param offset? integer bytes; rounded down to a page (default 0)
---@param options? uffd.AskOptions
---@return string? kind
---@return string|uffd.Resolver? value or the message
---@return integer? offset or the errno
function uffd.ask(policy, offset, options)
  options = options or {}
  check_options("uffd.ask", options, { page_size = true, write = true, wp = true, minor = true, prefetch = true })
  local flags = 0
  for _, name in ipairs { "write", "wp", "minor", "prefetch" } do
    if options[name] then flags = flags | core.flags["fault_" .. name] end
  end
  return call("uffd.ask", core.ask, policy, offset, options.page_size, flags)
end

-- The loop

local region_options = {
  memory = true, resolver = true, offset = true, length = true, from = true,
  modes = true, around = true, on_error = true, object = true, retry_for = true, retry_then = true,
}

-- Milliseconds as the core counts them: a limit that was asked for must not be rounded to 0, which means no limit.
local function retry_ms(what, value, level)
  local ns = duration(what .. ": retry_for", value, level)
  return ns and math.max((ns + 999999) // 1000000, 1)
end

-- Raises at the program's line, level frames above the caller.
local function add_region(what, loop, entry, level)
  check_options(what, entry, region_options, 0, level)
  local function size(name) return bytes(what .. ": " .. name, entry[name], level) end
  for _, name in ipairs { "memory", "resolver" } do
    if entry[name] == nil then error(("%s: a region needs a %s"):format(what, name), level + 1) end
  end
  if type(entry.resolver) == "function" then
    error(what .. ": the resolver is a function: uffd.resolver.policy makes a resolver of a function that returns it",
      level + 1)
  end
  local around = entry.around
  if around == "page" then around = 0 elseif around ~= "auto" then around = size "around" end
  return settle_at(what, level, pcall(core.loop_add, loop, entry.memory, entry.resolver, size "offset", size "length",
    size "from", entry.modes, around, entry.on_error, entry.object, retry_ms(what, entry.retry_for, level + 1),
    entry.retry_then))
end

local loop_methods = core.methods.loop

function loop_methods:add(entry)
  return add_region("loop:add", self, entry, 1)
end

local prefetch_options = { ranges = true, rate = true, background = true }

-- The list of {offset, length}, with sizes as a person types them.
local function ranges_of(what, given)
  if given == nil then return nil end
  if type(given) ~= "table" then
    error(("%s: ranges are a list of { offset, length }, not %s"):format(what, type(given)), 3)
  end
  local ranges = {}
  for i, range in ipairs(given) do
    check_options(what, range, {}, 2, 2)
    ranges[i] = { bytes(what .. ": offset", range[1] or 0, 2), bytes(what .. ": length", range[2] or 0, 2) }
  end
  return ranges
end

local region_methods = core.methods.region
local prefetch_now = region_methods.prefetch

function region_methods:prefetch(options, length)
  local what = "region:prefetch"
  if type(options) ~= "table" then return call(what, prefetch_now, self, options, length) end
  check_options(what, options, prefetch_options)
  local ranges, rate = ranges_of(what, options.ranges), bytes(what .. ": rate", options.rate)
  local prefetch, message, errno = call(what, core.prefetch_start, self, ranges, rate)
  if options.background or not prefetch then return prefetch, message, errno end
  local done
  done, message, errno = prefetch:wait()
  prefetch:close()
  return done, message, errno
end

-- The core gives a list of buckets.
for _, class in ipairs { "loop", "region" } do
  local buckets_of = core.methods[class].histogram
  core.methods[class].histogram = function(self) return histogram(call(class .. ":histogram", buckets_of, self)) end
end

local trace_options = { format = true, append = true, room = true, loop = true }
local trace_to = loop_methods.trace_to

-- given: a path, or { path, options }. level: the program's line, in frames above the caller.
local function start_trace(what, loop, given, level)
  local options = type(given) == "table" and given or { given }
  check_options(what, options, trace_options, 1, level)
  if type(options[1]) ~= "string" then
    error(("%s: the path of a file expected, got %s"):format(what, type(options[1])), level + 1)
  end
  return settle_at(what, level, pcall(trace_to, loop, options[1], options.format, options.append, options.room,
    options.loop))
end

function loop_methods:trace_to(given)
  if given == nil or given == false then return call("loop:trace_to", trace_to, self) end
  return start_trace("loop:trace_to", self, given, 1)
end

local serve_options = {
  engine = true, handlers = true, on_error = true, features = true, user_mode_only = true, route = true,
  paused = true, placement = true, trace_to = true, retry_for = true, retry_then = true,
}

---@class uffd.RegionOptions
---@field memory uffd.Memory
---@field resolver uffd.Resolver
---@field offset? integer|string of the region in the memory, whole pages (default 0)
---@field length? integer|string whole pages (default: to the memory's end)
---@field from? integer|string where in the resolver the region begins, bytes (default 0)
---"missing", "wp", "minor" (default: missing, and minor for a continue resolver); with wp, pages arrive write-protected
---and their first writes are counted
---@field modes? uffd.Mask
---bytes answered around a fault where the resolver can; "auto" (the default): from a page to 2 MiB while accesses are
---sequential, in either direction or with small strides, a page where they are random; "page": one page for each fault,
---so that each touch is seen
---@field around? integer|string|"auto"|"page"
---@field on_error? "zero"|"poison"|"stop"|"retry" what becomes of a page whose resolver failed (default: the loop's)
---@field retry_for? string|number with its own on_error "retry": as of the loop
---@field retry_then? "zero"|"poison"|"stop"
---an object to register with, instead of the loop's own; the loop alone reads it from then on, and keeps it open
---@field object? uffd.Object

-- A fault of another process in a range that is not added yet would be taken for growth, and would read as zeros.
local function has_foreign(entries)
  for _, entry in ipairs(entries) do
    local served = type(entry) == "table" and entry.memory
    if type(served) == "userdata" and served.kind == "foreign" then return true end
  end
  return false
end

-- Threads must read an object that sends messages instead of SIGBUS, whatever auto would choose.
local function engine_for(options)
  local engine = options.engine
  if engine ~= nil and engine ~= "auto" then return engine end
  for _, entry in ipairs(options) do
    local object = type(entry) == "table" and entry.object
    local ok, signals = pcall(function() return object:has "sigbus" end)
    if ok and not signals then return "threads" end
  end
  return engine
end

---@class uffd.ServeOptions
---@field [integer] uffd.RegionOptions the regions; more may be added later
---who answers: threads of the loop; `loop:step()` (pump); or the faulting thread itself, in its SIGBUS handler (inline:
---the fastest, but a system call that meets a missing page gets EFAULT, see `memory:prefault`). auto, the default, is
---inline where the object can only be user-mode-only, unless a region has an object of its own without sigbus; else
---threads
---@field engine? "auto"|"threads"|"pump"|"inline"
---@field handlers? integer threads, 1 to 64 (default 1); inline: how many threads resolve at the same time
---where handler threads run: on the processor of the thread that faults, in SCHED_IDLE, with an ordinary thread that
---takes over while the processors are busy or prefetch has work (companion, the default); or where the scheduler puts
---them (none). Other engines than threads have no threads to place
---@field placement? "companion"|"none"
---what becomes of a page whose resolver failed: zeros, SIGBUS (needs kernel 6.6, where it is the default), SIGBUS from
---all pages from then on; retry (the default of older kernels) asks again, with pauses of up to 10 ms, while the thread
---waits (not inline)
---@field on_error? "zero"|"poison"|"stop"|"retry"
---on_error "retry": a page whose fault has waited so long ("5s", or milliseconds), and whose resolver fails again, is
---given up (default: never)
---@field retry_for? string|number
---@field retry_then? "zero"|"poison"|"stop" what becomes of it then (default "poison")
---features to enable in the loop's objects; inline not event_fork and event_remap: nobody could answer the faults of
---children, and of what has moved
---@field features? uffd.Mask
---@field user_mode_only? boolean as in `uffd.open`, for the loop's objects
---@field route? "auto"|"syscall"|"device"
---@field paused? boolean true: nothing is read before `loop:start()`, so that more regions of an object can be added
---@field trace_to? string|uffd.TraceOptions as `loop:trace_to`, from the first fault on

---Serves regions of memory from now on, until the loop is closed.
---
---Errors: those of `uffd.open`; EINVAL alignment, a range outside the memory, a resolver shorter than the region or one
---that the memory cannot have; EBUSY memory that is served already, or is the source of a resolver; EOPNOTSUPP the
---kernel lacks what the resolver or on_error needs; EIO, ETIMEDOUT, ENOMEM from a policy's factory.
---@param options uffd.ServeOptions
---@return uffd.Loop? loop
---@return string? message
---@return integer? errno
function uffd.serve(options)
  if type(options) == "table" and (options.memory ~= nil or options.resolver ~= nil) then
    error("uffd.serve: a region is a table of its own: uffd.serve { { memory = ..., resolver = ... } }", 2)
  end
  check_options("uffd.serve", options, serve_options, type(options) == "table" and #options)
  local foreign = has_foreign(options)
  local ok, loop, message, errno = pcall(core.loop_create, engine_for(options), options.handlers, options.on_error,
    open_flags(options), options.route, options.features, options.paused or foreign,
    options.placement, retry_ms("uffd.serve", options.retry_for, 2), options.retry_then)
  if not ok then return settle("uffd.serve", ok, loop) end
  if not loop then return nil, message, errno end
  local unfinished <close> = setmetatable({ loop = loop }, {
    __close = function(self) if self.loop then self.loop:close() end end,
  })
  if options.trace_to then
    local written
    written, message, errno = start_trace("uffd.serve: trace_to", loop, options.trace_to, 2)
    if not written then return nil, message, errno end
  end
  for _, entry in ipairs(options) do
    local region
    region, message, errno = add_region("uffd.serve", loop, entry, 2)
    if not region then return nil, message, errno end
  end
  if foreign and not options.paused then
    ok, message, errno = loop:start()
    if not ok then return nil, message, errno end
  end
  unfinished.loop = nil
  return loop
end

-- Other processes

-- The error of functions in a module that was built without the pager.
local function needs_pager(what, f)
  if f then return f end
  local message = what .. ": this uffd was built without the pager (UFFD_BUILD_PAGER)"
  return function() return nil, message, core.errno.ENOSYS end
end

---The length of an image, and a number that tells images of the same length apart. It is made of samples of the
---contents (`<uffd_pager.h>` says which), so a copy has the same number, and so has a compressed image, or a chain, of
---the same contents. Errors: those of opening and reading it; EINVAL neither a regular file nor a block device, or
---empty; ENOSYS built without the pager, or layers without images.
---@param image string|string[]|integer path, paths of layers, the lowest first, or a descriptor
---@return integer? length bytes
---@return integer|string identity 0: parts of a compressed image are damaged; or the message
---@return integer? errno
function uffd.image_identity(image)
  local what = "uffd.image_identity"
  return call(what, needs_pager(what, core.image_identity), image)
end

---Working sets: which pages of an image a client touched, and in what order. `uffd.workingset { ... }` is
---`uffd.workingset.create { ... }`. The format of the files is in `<uffd_pager.h>`.
---@class uffd.workingset
---@overload fun(options: uffd.WorkingSetOptions): uffd.WorkingSet?, string?, integer?
local workingset = {}
uffd.workingset = workingset

local workingset_options = { image = true, length = true, identity = true, page_size = true }

---@class uffd.WorkingSetOptions
---@field image? string|string[]|integer path or descriptor of the image, or its layers; or, instead of it:
---@field length? integer|string of the image, bytes
---@field identity? integer of the image, as `uffd.image_identity` tells it (default 0: not known)
---@field page_size? integer|string bytes, a power of two from 4096 on (default 4096)

---An empty working set. Errors: those of `uffd.image_identity`; EINVAL a length of 0, or a page size that is none;
---ENOMEM; ENOSYS.
---@param options uffd.WorkingSetOptions
---@return uffd.WorkingSet? set
---@return string? message
---@return integer? errno
function workingset.create(options)
  local what = "uffd.workingset"
  check_options(what, options, workingset_options)
  local length, identity = bytes(what .. ": length", options.length), options.identity
  local page_size = bytes(what .. ": page_size", options.page_size)
  if (options.image == nil) == (length == nil) then error(what .. ": either image or length", 2) end
  if options.image ~= nil then
    if identity ~= nil then error(what .. ": identity is that of a length; an image has its own", 2) end
    local errno
    length, identity, errno = uffd.image_identity(options.image)
    if not length then return nil, identity, errno end
  end
  return call(what, needs_pager(what, core.workingset_create), page_size or 4096, length, identity)
end

---A working set from its file. Errors: those of opening and reading; EINVAL not such a file, of a newer version, or
---damaged: the message says what is wrong at which byte; ENOMEM; ENOSYS.
---@param path string
---@return uffd.WorkingSet? set
---@return string? message
---@return integer? errno
function workingset.load(path)
  local what = "uffd.workingset.load"
  return call(what, needs_pager(what, core.workingset_load), path)
end

setmetatable(workingset, { __call = function(_, options) return workingset.create(options) end })

-- A mode as chmod takes it: an integer, or octal digits.
local function mode_of(what, name, value, level)
  local mode = value
  if type(value) == "string" then mode = value:find "^[0-7]+$" and tonumber(value, 8) end
  if value ~= nil and (math.type(mode) ~= "integer" or mode < 0 or mode > 511) then
    local text = '%s: %s is an integer, or octal digits such as "660", not %s'
    error(text:format(what, name, tostring(value)), level + 2)
  end
  return mode
end

local pager_options = {
  socket = true, control = true, mode = true, uid = true, control_mode = true, control_uid = true,
  image = true, resolver = true, workers = true,
  max_clients = true, max_clients_per_process = true, max_clients_per_user = true, max_regions = true, max_bytes = true,
  handshake = true, on_crash = true, on_drain = true,
  once = true, prefetch = true, share = true, record = true, replay = true, rate = true, around = true,
  watchdog = true, hang = true, keep = true, report = true, worker = true, metrics = true, door = true, choose = true,
}

-- The front doors as the core takes them: a list of tables, each with path, mode and uid.
local function doors_of(what, sockets, level)
  local doors = {}
  for i, socket in ipairs(sockets) do
    local name = ("socket %d"):format(i)
    if type(socket) == "string" then socket = { path = socket } end
    if type(socket) ~= "table" or type(socket.path) ~= "string" then
      error(("%s: %s must be a path, or a table with a path"):format(what, name), level + 2)
    end
    for key in pairs(socket) do
      if key ~= "path" and key ~= "mode" and key ~= "uid" then
        error(("%s: %s: '%s' is not path, mode or uid"):format(what, name, tostring(key)), level + 2)
      end
    end
    doors[i] = { path = socket.path, mode = mode_of(what, name, socket.mode, level + 1), uid = socket.uid }
  end
  return doors
end

-- A copy of the options as the core takes them.
local function pager_table(what, options)
  check_options(what, options, pager_options, 0, 2)
  local taken = {}
  for name, value in pairs(options) do taken[name] = value end
  for _, name in ipairs { "rate", "max_bytes" } do taken[name] = bytes(what .. ": " .. name, options[name], 2) end
  if options.around ~= "auto" then taken.around = bytes(what .. ": around", options.around, 2) end
  for _, name in ipairs { "mode", "control_mode" } do taken[name] = mode_of(what, name, options[name], 1) end
  if type(options.socket) == "table" then taken.socket, taken.doors = nil, doors_of(what, options.socket, 1) end
  return taken
end

---A client, as a resolver function of `uffd.pager` sees it.
---@class uffd.Client
---@field id integer 1, 2, ... in the order of coming
---@field of integer the client that it was forked from, or 0
---@field pid integer as the supervisor sees it; 0: unknown
---@field uid integer of who connected
---@field gid integer
---@field size integer bytes of all its regions
---@field regions uffd.ClientRegion[] by offset
---@field fds integer[] descriptors that came along after the userfaultfd; they stay the pager's
---@field label? string what it calls itself, or an operator
---@field socket? string path of the front door that it came by

---@class uffd.ClientRegion
---@field address integer in the client
---@field length integer bytes
---@field offset integer in the image, bytes
---@field page_size integer bytes

---@class uffd.PagerOptions
---path of the front door; a stale socket is replaced. Or a list of several, each a path, or a table with `path`, and
---`mode` and `uid` where they are other than the options of these names
---@field socket? string|(string|{ path: string, mode?: integer|string, uid?: integer })[]
---path of a control socket, see `uffd.pager_ask`
---@field control? string
---mode of the control socket's file, like `mode`: a user who may connect may look (default 0600)
---@field control_mode? integer|string
---a user who may also drain and reload there, beside root and the pager's own
---@field control_uid? integer
---mode of the front door's file: an integer, or octal digits such as "660" (default 0600)
---@field mode? integer|string
---a user who may connect, beside root and the pager's own
---@field uid? integer
---what is spoken at the front doors: Firecracker's hand-off, as `uffd.handoff` speaks it, or that of CRIU's lazy
---restores: then `socket` is WORKDIR/lazy-pages.socket, `image` the directory of the dump, and each task of a restore
---is a client (default "firecracker")
---@field door? "firecracker"|"criu"
---path of the contents (a raw file, a zstd file, or an increment, whose parents are looked for), or a list of layers,
---the lowest first, as `uffd.image` takes it; without it, the resolver function makes all contents. With braces it is a
---template, and each client has its own image: see `uffd.client_path`. Clients of the same file share it, and it is
---closed when the last of them is gone
---@field image? string|string[]
---Chooses the image of a client, whose `id` is 0: returns its path; or true, for `image`; or nil and why the client
---is refused (and an errno, default EACCES). It is called in a copy of this process, so it may wait, and what it
---changes is lost; after `hang` the client is refused. An error refuses it too. `uffd.client_path` makes paths of what
---clients say
---@field choose? fun(client: uffd.Client): string|true|nil, string?, integer?
---Makes the resolver of a client, in its worker, before its first fault. `image` is nil without an image. It is called
---again when another worker takes over. Without `worker`, a worker is a forked copy of this program: resolvers and
---memories that were made before the fork cannot be used in it, so make them here. To fail, raise an error, or return
---nil and a message; on_crash then says what becomes of the client. Default: every client gets the image
---@field resolver? fun(client: uffd.Client, image: uffd.Resolver?): uffd.Resolver?, string?, integer?
---processes; clients are shared out among them (default 1)
---@field workers? integer
---@field max_clients? integer (default 256)
---@field max_clients_per_process? integer of them, that one process may bring (default: three quarters)
---@field max_clients_per_user? integer of them, that one user may have (default: all)
---@field max_regions? integer of a client, up to 4096 (default 4096)
---@field max_bytes? integer|string of a handshake (default "1M")
---@field handshake? integer milliseconds after which a handshake must be whole (default 5000)
---what becomes of clients whose worker has died and cannot be replaced (default "kill")
---@field on_crash? "kill"|"freeze"
---`drain` fills the rest of every client's memory, or serves those that are there until they are gone (default
---"complete")
---@field on_drain? "complete"|"refuse"
---@field once? boolean serve one client, and end when it is gone
---@field prefetch? boolean fill each client's memory in the background, faults first
---clients may share the pages of the image: those of `uffd.handoff { shared = true }` do. One image, no resolver (Linux
---5.13)
---@field share? boolean
---path of a working-set file, written when a client is gone. The first client's set has this path; those of others
---have ".ID" behind it
---@field record? string
---@field replay? string path of a working-set file of this image, whose pages are prefetched
---@field rate? integer|string of prefetching, bytes a second and client (default: no limit)
---as for a region (default "auto"; where a working set is recorded, a page)
---@field around? integer|string|"auto"
---milliseconds after which a fault that waits is reported (default 1000)
---@field watchdog? integer
---milliseconds after which a worker that does not answer, or whose policy does not come back, is killed; its clients
---get another worker (default 10000)
---@field hang? integer
---Called with each event, in this program, by `step` and `run`. They raise the errors that it raises
---@field report? fun(event: uffd.Report)
---the program of a worker and its arguments; "--worker" and a descriptor are added. It must call `uffd.pager_work`,
---and the resolver function is that program's. Without it, workers are forked from this program, which must have no
---other threads: no running loops
---@field worker? string[]
---keep what clients are made of with the service manager, so that another supervisor can take over: `<uffd_pager.h>`
---says how (UFFD_PAGER_KEEP)
---@field keep? boolean
---where metrics are served by HTTP: path of a socket, or HOST:PORT of a loopback address (default: nowhere)
---@field metrics? string

---Serves other processes: a supervisor, which is this program while it is in `run` or `step`, and workers. Clients hand
---over their userfaultfd and the list of their regions, as Firecracker does and `uffd.handoff`; their faults are
---answered from the image, or by the resolver that a function makes for each. A worker that dies is replaced.
---
---Errors: EINVAL an option, or a working set of another image; EADDRINUSE another pager listens there; those of opening
---the files; EBUSY this program has other threads; EMFILE, ENOMEM; ENOSYS built without the pager.
---@param options uffd.PagerOptions
---@return uffd.Pager? pager
---@return string? message
---@return integer? errno
function uffd.pager(options)
  local what = "uffd.pager"
  return call(what, needs_pager(what, core.pager_create), pager_table(what, options))
end

---Other options for a pager that runs: max_clients, max_regions, max_bytes, handshake, on_crash, on_drain, hang,
---control_uid, choose and image (for new clients) change; each other one that differs is told by a report, "error", and
---stays. From now on `report` is that of these options. Errors: EINVAL an option; ENOMEM; ENOSYS built without the
---pager.
---@param pager uffd.Pager
---@param options uffd.PagerOptions all of them, also those that stay
---@return true? done
---@return string? message
---@return integer? errno
function uffd.pager_configure(pager, options)
  local what = "uffd.pager_configure"
  return call(what, needs_pager(what, core.pager_configure), pager, pager_table(what, options))
end

---A template of a path, filled in with what is known of a client: `{label}`, `{socket}` (the name of the front door's
---file, without its directory and ".sock"), `{uid}`, `{gid}`, `{pid}`; two braces stand for one. What a client says
---never leads out of the directory. Errors: EINVAL a value is empty, begins with a dot or has a slash, or the template
---is wrong; ENAMETOOLONG; ENOSYS built without the pager.
---@param template string such as "/snapshots/{label}/ram.img"
---@param client { label?: string, socket?: string, uid?: integer, gid?: integer, pid?: integer }
---@return string? path
---@return string? message
---@return integer? errno
function uffd.client_path(template, client)
  local what = "uffd.client_path"
  return call(what, needs_pager(what, core.client_path), template, client)
end

---A worker, in the program that the option `worker` names: serves the clients that the supervisor at the other end of
---the descriptor hands over, until the supervisor ends it. Options as of `uffd.pager`; sockets and report are not
---used. The program should exit then. From this call on it ignores SIGINT, SIGTERM and SIGHUP, which are for the
---supervisor.
---@param fd integer
---@param options uffd.PagerOptions
---@return true? done
---@return string? message
---@return integer? errno
function uffd.pager_work(fd, options)
  local what = "uffd.pager_work"
  return call(what, needs_pager(what, core.pager_work), fd, pager_table(what, options))
end

---Asks a pager by its control socket: one line of JSON, one line back. Requests are `{"request":"status"}`, "clients",
---"workers", "stats", "errors", "metrics", "drain", "reload", and of one client (`"client":1`) "kill", "complete" and
---"label" (`"label":"web"`), and "image" with "path", the file of new clients. A reply is an object with "ok";
---false: "error" is a sentence. Beside it are
---* in that of "status": version, pid, clients, workers, served, refused, restarts, hangs, reloads, reloading, draining
---* in that of "clients": a list "clients" of objects with id, of, pid, uid, gid, state, worker, restarts, age_ns,
---  oldest_ns, size, shared, label, socket, image, regions (how many), and "stats" with the fields of `uffd.Stats`
---* in that of "stats": "stats", of all clients together: sums, but the largest of queue_max and the latencies
---* in that of "errors": a list "errors", the newest first, of objects with time_ns (since 1970), kind, client, errno,
---  text
---* in that of "workers": a list "workers" of objects with worker, pid, state, clients, age_ns
---`uffd-lua ctl` does this on the command line.
---
---Errors: ENOENT, ECONNREFUSED no pager there; EACCES; ETIMEDOUT; EPIPE it hung up; ENOSYS built without the pager.
---@param control string path of the control socket
---@param request string
---@param timeout_ms? integer (default 5000)
---@return string? reply
---@return string? message
---@return integer? errno
function uffd.pager_ask(control, request, timeout_ms)
  local what = "uffd.pager_ask"
  return call(what, needs_pager(what, core.pager_ask), control, request, timeout_ms)
end

---@class uffd.HandoffOptions
---@field socket string path of the pager's front door
---@field memory? uffd.Memory what is handed over; the image's first byte is its first
---instead of `memory`: several, each with the offset of its contents in the image, `{ { memory, offset }, ... }`
---@field parts? { [1]: uffd.Memory, [2]: integer }[]
---@field timeout? integer milliseconds to connect, to send, and for the answer (default 5000)
---@field answer? boolean false: the pager is another program's and sends no answer, do not wait for one
---@field features? uffd.Mask of the object that is made; event_remove is added where the kernel has it
---@field user_mode_only? boolean as in `uffd.open`
---what the pager is to call this client: in its tables, and where its options choose an image or a policy by label; at
---most 63 bytes of UTF-8, no control characters
---@field label? string
---@field part? boolean the memory is any part of the image, not all of it (our own pager only)
---"later": faults are answered at once, but nothing is prefetched before `handoff:fill()` (our own pager only; default
---"now")
---@field fill? "now"|"later"
---instead of `memory`: private memory as long as the image, whose pages are those that all such clients of the pager
---have in common, until this one writes to them. Our own pager only, which was told to `share`
---@field shared? boolean
---with `shared`: children of fork inherit the memory, as in `uffd.map`; ask for the feature event_fork, too
---@field fork? boolean

---Hands memory of this program to the pager behind a socket, which answers its faults from then on. Keep the handle:
---when it is closed, or collected, pages that are still missing read as zeros from then on. It waits until the pager
---has taken the memory or refused it.
---
---Errors: those of `uffd.open` and `register`; ENOENT, ECONNREFUSED no pager there; EACCES; ETIMEDOUT; EPIPE the pager
---has refused, and the message says why, or has hung up; EINVAL no parts, or memories of different page sizes; ENOSYS
---built without the pager.
---@param options uffd.HandoffOptions
---@return uffd.Handoff? handoff
---@return uffd.Memory|string|nil memory with `shared`; or the message
---@return integer? errno
function uffd.handoff(options)
  local what = "uffd.handoff"
  check_options(what, options,
    { socket = true, memory = true, parts = true, timeout = true, answer = true, features = true,
      user_mode_only = true, label = true, part = true, fill = true, shared = true, fork = true })
  if options.shared then
    if options.memory or options.parts or options.part then
      error(what .. ": with shared, the pager gives the memory, which is all of its image", 2)
    end
  elseif (options.memory == nil) == (options.parts == nil) then
    error(what .. ": either memory or parts", 2)
  end
  if options.socket == nil then error(what .. ": it needs the socket of a pager", 2) end
  local fill = options.fill or "now"
  if fill ~= "now" and fill ~= "later" then error(what .. ': fill must be "now" or "later"', 2) end
  local parts, lent = options.parts or { { options.memory, 0 } }, nil
  if options.shared then
    local message, errno
    lent, message, errno = call(what, needs_pager(what, core.handoff_map), options.socket, options.timeout,
      options.fork)
    if not lent then return nil, message, errno end
    parts = { { lent, 0 } }
  end
  local handoff, message, errno = call(what, needs_pager(what, core.handoff), options.socket, parts, options.timeout,
    options.features, open_flags(options), options.answer == false, options.label, options.part, fill == "later")
  if handoff and lent then return handoff, lent end
  return handoff, message, errno
end

---Virtual machines of Cloud Hypervisor, by its offload protocol: `<uffd_pager.h>` tells of it, and `uffd-lua offload`
---uses it.
---@class uffd.offload
local offload = {}
uffd.offload = offload

---@class uffd.OffloadOptions
---restore: path at which Cloud Hypervisor receives a migration; snapshot: at which it is awaited
---@field socket string
---of the snapshot: migration_config.json and state.json as Cloud Hypervisor has sent them, and memory.img
---@field directory string
---@field door? string restore: front door of the pager whose image is memory.img, or has its contents
---@field label? string restore: what the pager is to call the machine
---@field page_size? integer restore: of the machine's memory, 4096 (default) or 2097152
---@field timeout? integer milliseconds for each answer of Cloud Hypervisor, and for another pager (default 60000)
---@field paused? boolean restore: the machine stays paused
---@field restored? fun() restore: called when the machine runs, or is paused as wanted; what it raises is dropped

---@class uffd.OffloadResult
---@field slots integer of the machine's memory
---@field bytes integer of all slots
---@field requests? integer restore: for pages, that were answered
---@field failed? integer restore: of them with an error, because the pager could not fill the page
---@field restarts? integer restore: processes that answered requests, died and were replaced
---@field doubts? integer restore: of those, in whose place it was not known whether a request was answered
---@field paused? boolean restore: the machine was left paused

---Restores a machine through a pager: it runs at once, and its memory is filled as it asks for it. Waits until the
---machine has all of it, or has ended. The memory is a client of the pager, in a forked process, which goes on when
---this one ends. Errors: ENOENT, ECONNREFUSED nobody at the socket or the door; EREMOTEIO Cloud Hypervisor refuses a
---step; EPIPE it, or the pager, has hung up or refused; ETIMEDOUT; EPROTO, EINVAL, E2BIG another protocol, or a config
---that cannot be; ECHILD whoever answers died again and again; those of opening files; ENOSYS built without the pager.
---@param options uffd.OffloadOptions
---@return uffd.OffloadResult? result
---@return string? message
---@return integer? errno
function offload.restore(options)
  local what = "uffd.offload.restore"
  check_options(what, options, { socket = true, directory = true, door = true, label = true, page_size = true,
    timeout = true, paused = true, restored = true })
  for _, name in ipairs { "socket", "directory", "door" } do
    if options[name] == nil then error(("%s: it needs a %s"):format(what, name), 2) end
  end
  return call(what, needs_pager(what, core.offload_restore), options.socket, options.directory, options.door,
    options.label, options.page_size, options.timeout, options.paused, options.restored)
end

---Takes in a machine that Cloud Hypervisor sends to the socket, and has it on the disk before the last answer. Errors:
---EEXIST there is a snapshot already; ECANCELED Cloud Hypervisor has given it up; EPIPE it has hung up; ETIMEDOUT;
---EPROTO, E2BIG, EINVAL, EBADF what it sent cannot be; those of writing files; ENOSYS built without the pager. Nothing
---is kept then.
---@param options uffd.OffloadOptions
---@return uffd.OffloadResult? result
---@return string? message
---@return integer? errno
function offload.snapshot(options)
  local what = "uffd.offload.snapshot"
  check_options(what, options, { socket = true, directory = true, timeout = true })
  for _, name in ipairs { "socket", "directory" } do
    if options[name] == nil then error(("%s: it needs a %s"):format(what, name), 2) end
  end
  return call(what, needs_pager(what, core.offload_snapshot), options.socket, options.directory, options.timeout)
end

-- The kernel

---What this kernel and this user can do, asked of the running kernel.
---@return uffd.Probe probe
function uffd.probe()
  return core.probe()
end

require "uffd.images"(uffd, { call = call, check_options = check_options, bytes = bytes })

---The monotonic clock, for measuring: it goes on while the program waits. Never fails.
---@return number seconds since some moment in the past
function uffd.now()
  return core.now()
end

return uffd
