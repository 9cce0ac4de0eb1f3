-- Resolvers of every kind, by what the pages that they answer for read as.
local lu = require "luaunit"
local support = require "support"
local uffd = require "uffd"

local page, fails, raises = support.page, support.fails, support.raises
local resolver = uffd.resolver
local tests = {}

local function zeros(count)
  return ("\0"):rep(count)
end

local function map(pages, kind)
  return assert(uffd.map { size = pages * page, kind = kind })
end

function tests.test_zero()
  local zero = assert(resolver.zero())
  lu.assertEquals({ zero.kind, zero.size, #zero }, { "zero", math.maxinteger, math.maxinteger })
  lu.assertEquals(tostring(zero), "uffd.resolver (zero)")
  lu.assertNil(zero.nothing_like_it)
  local memory, loop = support.serve(zero, 4)
  lu.assertEquals(memory:read(), zeros(4 * page))
  support.counts(loop, { zero = 4 })
  loop:close()
end

function tests.test_bytes()
  local text = ("x"):rep(page) .. "tail"
  for _, contents in ipairs { text, { data = text } } do
    local bytes = assert(resolver.bytes(contents))
    lu.assertEquals({ bytes.kind, bytes.size }, { "bytes", page + 4 })
    lu.assertEquals(tostring(bytes), "uffd.resolver (bytes, " .. page + 4 .. " bytes)")
    local memory, loop = support.serve(bytes, 2)
    lu.assertEquals(memory:read(), text .. zeros(page - 4))
    loop:close()
  end
  fails("EINVAL", nil, resolver.bytes "")
  raises("either data or pattern", resolver.bytes, {})
  raises("either data or pattern", resolver.bytes, { data = "a", pattern = "b" })
  raises("unknown option 'text'", resolver.bytes, { text = "a" })
end

function tests.test_pattern()
  local pattern = assert(resolver.bytes { pattern = "abc" })
  local memory, served = support.serve(pattern, 2)
  local loop <close> = served
  lu.assertEquals(memory:read(0, 7), "abcabca")
  lu.assertEquals(memory:read(), ("abc"):rep(2 * page // 3 + 1):sub(1, 2 * page))
  support.counts(loop, { errors = 0 })
end

function tests.test_file()
  local letters = support.letters(3) .. "end"
  local path <const>, _ <close> = support.file(letters)
  local file = assert(resolver.file(path))
  lu.assertEquals({ file.kind, file.size }, { "file", #letters })
  local memory, loop = support.serve(file, 4)
  lu.assertEquals(memory:read(), letters .. zeros(page - 3))
  loop:close()
  local part = assert(resolver.file { path = path, offset = page - 1, length = page + 2 })
  lu.assertEquals(part.size, page + 2)
  memory, loop = support.serve(part, 2)
  lu.assertEquals(memory:read(), "a" .. ("b"):rep(page) .. "c" .. zeros(page - 2))
  loop:close()
end

function tests.test_file_by_descriptor()
  local path <const>, _ <close> = support.file(support.letters(2))
  local source <close> = map(2, "memfd")
  assert(source:write(0, support.letters(2)))
  local file = assert(resolver.file { fd = source.fd, length = "4K" })
  local memory, served = support.serve(file, 1)
  local loop <close> = served
  lu.assertEquals(memory:read(), support.letters(1))
  support.counts(loop, { errors = 0 })
  fails("EINVAL", nil, resolver.file { path = path, offset = 3 * page })
  fails("EINVAL", nil, resolver.file { path = path, length = 3 * page })
end

function tests.test_file_that_cannot_be()
  fails("ENOENT", nil, resolver.file "/nowhere/at all")
  fails("EINVAL", nil, resolver.file "/dev/null")
  fails("EINVAL", nil, resolver.file "/")
  fails("EBADF", nil, resolver.file { fd = 900 })
  raises("either path or fd", resolver.file, {})
  raises("either path or fd", resolver.file, { path = "x", fd = 1 })
  raises("path must be a string", resolver.file, { path = 12 })
  raises("fd must be a number", resolver.file, { fd = "12" })
  raises("bytes are an integer", resolver.file, { path = "x", offset = -1 })
end

function tests.test_memory()
  local source <close> = map(4)
  assert(source:write(page, support.letters(3)))
  local from = assert(resolver.memory { source, offset = page })
  lu.assertEquals({ from.kind, from.size }, { "memory", 3 * page })
  local memory, loop = support.serve(from, 3)
  lu.assertEquals(memory:read(), support.letters(3))
  fails("EBUSY", nil, uffd.serve { { memory = source, resolver = resolver.zero() } })
  loop:close()
  fails("EBUSY", nil, resolver.memory((select(1, support.serve(resolver.zero(), 1)))))
  raises("outside the memory", resolver.memory, { source, offset = 5 * page })
  raises("uffd.memory expected", resolver.memory, resolver.zero())
  raises("unknown option 'from'", resolver.memory, { source, from = 1 })
end

function tests.test_continue()
  support.needs("minor_shmem", "missing_shmem")
  local memory <close> = map(4, "memfd")
  assert(memory.alias:write(0, support.letters(2)))
  local loop <close> = assert(uffd.serve {
    { memory = memory, resolver = resolver.continue { fill = resolver.bytes { pattern = "-" } } },
  })
  lu.assertEquals(memory:read(), support.letters(2) .. ("-"):rep(2 * page))
  support.counts(loop, { continued = 2, copied = 2 })
  fails("EINVAL", nil, uffd.serve { { memory = map(1), resolver = resolver.continue() } })
  raises("uffd.resolver expected", resolver.continue, { fill = 1 })
end

function tests.test_move()
  local source <close> = map(2)
  assert(source:write(0, support.letters(2)))
  local move = assert(resolver.move(source))
  local memory, served = support.serve(move, 2)
  local loop <close> = served
  lu.assertEquals(memory:read(), support.letters(2))
  support.counts(loop, { moved = 2 })
  fails("EINVAL", nil, resolver.move(map(1, "memfd")))
end

function tests.test_poison()
  support.needs "poison"
  local memory, served = support.serve(resolver.poison(), 1)
  local loop <close> = served
  fails("EHWPOISON", nil, memory:read(0, 1))
  support.counts(loop, { poisoned = 1 })
  lu.assertNil(loop:error())
end

function tests.test_layers()
  local ground = assert(resolver.bytes { pattern = "g" })
  local top = assert(resolver.bytes(support.letters(4)))
  local layers = assert(resolver.layers {
    { 0, ground },
    { page, top, length = page, from = 2 * page },
    { 3 * page, resolver.zero(), length = page },
  })
  local memory, served = support.serve(layers, 5)
  local loop <close> = served
  local g = ("g"):rep(page)
  lu.assertEquals(memory:read(), g .. ("c"):rep(page) .. g .. zeros(page) .. g)
  support.counts(loop, { errors = 0 })
end

-- What a resolver is made of may be closed, or collected: it holds it itself.
function tests.test_parts_are_kept()
  local source = map(2)
  assert(source:write(0, support.letters(2)))
  local part = assert(resolver.memory(source))
  local layers = assert(resolver.layers { { 0, part } })
  source:close()
  part:close()
  source, part = nil, nil -- luacheck: ignore 311
  collectgarbage()
  local memory, loop = support.serve(layers, 2)
  layers:close()
  lu.assertEquals(memory:read(), support.letters(2))
  loop:close()
end

function tests.test_layers_that_cannot_be()
  local short = assert(resolver.bytes(("s"):rep(page)))
  local sentence = select(2, resolver.layers { { 0, short, length = page }, { page - 1, short, length = page } })
  lu.assertStrContains(sentence, "4095")
  fails("EINVAL", nil, resolver.layers { { 0, short, length = 2 * page } })
  fails("EINVAL", nil, resolver.layers {})
  raises("table of options expected", resolver.layers, short)
  raises("table of options expected", resolver.layers, { short })
  raises("layer 1: its resolver is a nil", resolver.layers, { { 0 } })
  raises("layer 1 has no offset", resolver.layers, { { [2] = short } })
  raises("offset of layer 2", resolver.layers, { { 0, short }, { -1, short } })
  raises("length of layer 1", resolver.layers, { { 0, short, length = 0.5 } })
  raises("unknown option 'size'", resolver.layers, { { 0, short, size = 5 } })
  local closed = assert(resolver.zero())
  closed:close()
  raises("closed uffd.resolver", resolver.layers, { { 0, closed } })
end

-- The pages that fail, as a string: "." well, "!" not.
local function look(options, order)
  local memory, served = support.serve(assert(resolver.faulty(options)), 64, { on_error = "zero" })
  local loop <close> = served
  local seen = {}
  for i = 0, 63 do
    local at = i * order % 64
    seen[at + 1] = assert(memory:read(at * page, 1)) == "g" and "." or "!"
  end
  return table.concat(seen), select(2, loop:error())
end

function tests.test_faulty()
  local below = assert(resolver.bytes { pattern = "g" })
  local first, errno = look({ below = below, error = 0.3, errno = "ENOSPC", seed = 3 }, 1)
  lu.assertStrContains(first, "!")
  lu.assertStrContains(first, ".")
  lu.assertEquals(errno, uffd.errno.ENOSPC)
  lu.assertEquals(look({ below = below, error = 0.3, seed = 3 }, 27), first)
  lu.assertNotEquals(look({ below = below, error = 0.3, seed = 4 }, 1), first)
  lu.assertEquals(look({ below = below }, 1), ("."):rep(64))
  local faulty = assert(resolver.faulty { below = assert(resolver.bytes "abc"), later = 2, delay = "1ms" })
  lu.assertEquals({ faulty.kind, faulty.size }, { "faulty", 3 })
  local memory, served = support.serve(faulty, 1)
  local loop <close> = served
  lu.assertEquals(memory:read(0, 3), "abc")
  support.counts(loop, { deferred = 2 })
  lu.assertTrue(loop:histogram()[1].up_to_ns >= 1000000)
end

function tests.test_faulty_refuses()
  local below = assert(resolver.zero())
  raises("it needs a resolver below", resolver.faulty, {})
  raises("unknown option 'rate'", resolver.faulty, { below = below, rate = 1 })
  raises("error is a share of the pages, 0 to 1, not often", resolver.faulty, { below = below, error = "often" })
  raises("errno is a name such as", resolver.faulty, { below = below, errno = "EVERYTHING" })
  raises("errno is a name such as", resolver.faulty, { below = below, errno = -1 })
  raises('a time is milliseconds from 0 on, or text such as "5ms"', resolver.faulty, { below = below, delay = "5" })
  raises("not 5 minutes", resolver.faulty, { below = below, delay = "5 minutes" })
  raises("delay: a time", resolver.faulty, { below = below, delay = -1 })
  fails("EINVAL", "poison 1.5", resolver.faulty { below = below, poison = 1.5 })
  fails("EINVAL", "at most 60 s", resolver.faulty { below = below, delay = "61s" })
  fails("EINVAL", "later 256", resolver.faulty { below = below, later = 256 })
end

function tests.test_a_resolver_shorter_than_its_region()
  local short = assert(resolver.bytes(("s"):rep(page)))
  fails("EINVAL", nil, uffd.serve { { memory = map(2), resolver = short } })
  local loop <close> = assert(uffd.serve { { memory = map(2), resolver = short, length = page } })
  lu.assertEquals(loop:regions()[1].length, page)
end

return tests
