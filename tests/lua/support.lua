-- What the tests share: checks in the module's own shapes, memory that is served, and what this machine can do.
local lu = require "luaunit"
local toucher = require "toucher"
local uffd = require "uffd"

local support = {}

local probe = uffd.probe()
support.page = probe.page_size
support.user_mode_only = probe.user_mode_only
support.root = toucher.user() == 0 and probe.event_fork

-- Has a thread of its own, once the program has had one.
local function under_thread_sanitizer()
  local maps <close> = assert(io.open("/proc/self/maps"))
  return maps:read("a"):find("libtsan", 1, true) ~= nil
end
support.thread_sanitizer = under_thread_sanitizer()

local function has(list, name)
  for _, item in ipairs(list) do
    if item == name then return true end
  end
  return false
end

-- Skips unless the kernel has these features.
function support.needs(...)
  for _, name in ipairs { ... } do
    lu.skipIf(not has(probe.features, name), "this kernel has no " .. name)
  end
end

function support.needs_root()
  lu.skipIf(not support.root, "needs root with CAP_SYS_PTRACE")
end

-- Faults that the kernel takes for the program: not in user mode only.
function support.needs_kernel_faults()
  lu.skipIf(support.user_mode_only, "needs faults of the kernel, which this user's userfaultfd does not get")
end

-- nil, a message with these words, and that errno.
function support.fails(name, words, value, message, errno, ...)
  lu.assertNil(value)
  lu.assertIsString(message)
  lu.assertEquals(uffd.errno[errno] or errno, name, message)
  if words then lu.assertStrContains(message, words) end
  return ...
end

-- An error that names these words, at the line of the caller of f.
function support.raises(words, f, ...)
  local ok, message = pcall(f, ...)
  lu.assertFalse(ok, "nothing was raised; expected: " .. words)
  lu.assertStrContains(tostring(message), words)
  return message
end

-- Waits for what f returns, if that is true; it is asked so often, not for so long, so that a busy machine has longer.
function support.await(f)
  for _ = 1, 20000 do
    local value = f()
    if value then return value end
    toucher.pause()
  end
  return f()
end

-- The loop's statistics come to these. A thread may be woken before its fault is counted, so they are waited for.
function support.counts(loop, expected)
  local found
  support.await(function()
    found = {}
    local stats = loop:stats()
    local equal = true
    for name, value in pairs(expected) do
      found[name] = stats[name]
      equal = equal and stats[name] == value
    end
    return equal
  end)
  lu.assertEquals(found, expected)
end

-- A page of one letter for each page: "a", "b", ...
function support.letters(pages)
  local parts = {}
  for i = 0, pages - 1 do parts[#parts + 1] = string.char(97 + i % 26):rep(support.page) end
  return table.concat(parts)
end

-- A file with these contents, gone when the test ends.
function support.file(contents)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  assert(file:write(contents))
  file:close()
  return path, setmetatable({}, { __close = function() os.remove(path) end })
end

-- Another process, for twenty minutes at most: this interpreter with a script and its arguments, which may require
-- what the tests may. Returns what io.popen does; mode as there. The argument "2>&1" is the shell's.
function support.child(script, mode, ...)
  local first = 0
  while arg[first - 1] do first = first - 1 end
  local path = os.tmpname()
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(("package.path = %q\npackage.cpath = %q\nos.remove(%q)\n")
    :format(package.path, package.cpath, path), script))
  local words = { ("exec timeout -s KILL 1200 %q %q"):format(arg[first], path) }
  for _, word in ipairs { ... } do words[#words + 1] = word == "2>&1" and word or ("%q"):format(word) end
  return assert(io.popen(table.concat(words, " "), mode or "r"))
end

-- Pages of memory served by a resolver.
function support.serve(resolver, pages, options)
  options = options or {}
  local memory = assert(uffd.map { size = pages * support.page, kind = options.kind })
  options.kind = nil
  local around, on_error = options.around or "page", options.region_error
  local entry = { memory = memory, resolver = resolver, around = around, on_error = on_error }
  options.around, options.region_error = nil, nil
  options[1] = entry
  return memory, assert(uffd.serve(options))
end

-- A policy made and served, and what its first page reads as.
function support.answer(factory, args, options)
  local policy = assert(uffd.resolver.policy(factory, args, options))
  local memory, served = support.serve(policy, 4)
  local loop <close> = served
  local data, message, errno = memory:read(0, support.page)
  local sentence, number = loop:error()
  return data, message, errno, sentence, number
end

-- Calls f with hugetlb memory of so many huge pages, if this user may have them. They are lent for as long as f runs.
function support.with_huge_pages(count, f)
  lu.skipIf(probe.hugepage_size ~= 2 << 20, "no huge pages of 2 MiB")
  local _ <close> = setmetatable({}, { __close = toucher.give_back })
  local lent, message = toucher.lend(count)
  lu.skipIf(not lent, message)
  local memory <close> = assert(uffd.map { size = count * probe.hugepage_size, kind = "hugetlb" })
  f(memory)
end

return support
