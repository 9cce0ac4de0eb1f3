-- Runs every example as its reader would, and compares the README's examples with the files.
-- usage: lua5.4 run.lua SOURCE BUILD CC
local json = require "dkjson"
local source, build, cc = arg[1], arg[2], arg[3]
local runner = build .. "/bin/uffd-lua"
local PAGE = 4096
local passed = 0

local function check(truth, ...)
  if truth then return truth end
  error(table.concat({ ... }, " "), 2)
end

local function read_file(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local function write_file(path, bytes)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(bytes))
end

-- Runs a shell command in folder; its standard output and exit code.
local function run(folder, command)
  local program = assert(io.popen(("cd %q && %s"):format(folder, command)))
  local output = program:read("a")
  local _, _, code = program:close()
  return output, code
end

local function make_folder()
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute(("mkdir %q"):format(folder)))
  return folder
end

local folder = make_folder()
local tests = {}

function tests.readme_shows_the_files()
  local readme = read_file(source .. "/README.md")
  for _, block in ipairs { { "lua", "first.lua" }, { "c", "first.c" } } do
    local text = ("```%s\n%s```"):format(block[1], read_file(source .. "/examples/" .. block[2]))
    check(readme:find(text, 1, true), "README.md does not show examples/" .. block[2])
  end
end

-- The whole page, programs included: a newcomer reads it in ten minutes.
function tests.readme_is_short()
  local _, words = read_file(source .. "/README.md"):gsub("%S+", "")
  check(words <= 2000, "README.md has", words, "words")
end

-- A page points only to files that are there.
function tests.links_lead_somewhere()
  local pages = assert(io.popen(("find %q -name '*.md' -not -path '*/build*' -not -path '*/.git/*'"):format(source)))
  local count = 0
  for page in pages:lines() do
    local prose = read_file(page):gsub("\n```.-\n```", "") -- a C++ lambda looks like a link
    for target in prose:gmatch "%]%(([^)#%s]+)" do
      if not target:find "^%a+:" then
        check(io.open(page:gsub("[^/]*$", "") .. target), page, "points to", target, "which is not there"):close()
        count = count + 1
      end
    end
  end
  pages:close()
  check(count > 10, "only", count, "links were found")
end

-- What csrc/README.md names is there: files and folders of csrc, functions of the core, tests of the races.
function tests.the_house_is_as_described()
  local page = read_file(source .. "/csrc/README.md")
  local everything = {}
  for _, pattern in ipairs { "csrc/*", "tests/c/*.c", "include/*.h" } do
    local files = assert(io.popen(("cd %q && find %s -name '*.[ch]'"):format(source, pattern)))
    for file in files:lines() do everything[#everything + 1] = read_file(source .. "/" .. file) end
    files:close()
  end
  local text = table.concat(everything) .. read_file(source .. "/tests/CMakeLists.txt")
  for name in page:gmatch "`([%w_]+)`" do
    if name:find "^R%d" then
      check(text:find("TEST(" .. name, 1, true), "csrc/README.md names the test", name, "which is not there")
    elseif name:find "_" then
      check(text:find(name, 1, true), "csrc/README.md names", name, "which is not there")
    end
  end
  for path in page:gmatch "`(%l[%w_/]+/[%w_]*%.?[ch]?)`" do
    local found = false
    for _, root in ipairs { "/csrc/", "/" } do found = found or io.open(source .. root .. path) end
    check(found, "csrc/README.md names", path, "which is not there"):close()
  end
  for number = 1, 32 do check(page:find(("| R%d |"):format(number), 1, true), "csrc/README.md lacks R", number) end
end

-- The table of what keeps write protection is that of the test which tries each row.
function tests.protection_is_as_described()
  local page, count = read_file(source .. "/include/README.md"), 0
  for kept, text in read_file(source .. "/tests/c/test_protection.c"):gmatch 'X%([%w_]+, (%a+), "(.-)"%)' do
    local row = ("\n| %s | %s |\n"):format(text, kept == "true" and "stays" or "is lost")
    check(page:find(row, 1, true), "include/README.md lacks the row", row)
    count = count + 1
  end
  local _, rows = page:gsub("\n| [^\n]* | stays |", "")
  local _, lost = page:gsub("\n| [^\n]* | is lost |", "")
  check(count > 10 and count == rows + lost, "rows:", rows + lost, "tried:", count)
end

function tests.first_lua()
  local output, code = run(folder, ("%q %q/examples/first.lua"):format(runner, source))
  local expected = "an image\tI am clone-7\n2 faults, 1 answered by the policy\n"
  check(code == 0 and output == expected, "first.lua said", output)
  check(read_file(source .. "/README.md"):find(output, 1, true), "README.md shows something else than", output)
end

local function write_image(name, pages)
  local bytes = {}
  for page = 1, pages do bytes[page] = ("a snapshot image"):rep(PAGE // 16) end
  write_file(folder .. "/" .. name, table.concat(bytes))
end

function tests.first_c()
  local build_it = ("%s -std=c99 -Wall -Wextra -Werror -I%q/include %q/examples/first.c %q/lib/libuffd.a -o first")
    :format(cc, source, source, build)
  local _, compiled = run(folder, build_it)
  check(compiled == 0, "first.c does not compile")
  write_image("large", 100)
  write_image("small", 1)
  for _, image in ipairs { "large", "small" } do -- the page of its own lies behind the end of a small file
    local output, code = run(folder, "./first " .. image)
    check(code == 0, "first failed:", output)
    local expected = 'first byte 0x61, own page "clone-7"\n2 faults, 1 answered by the callback\n'
    check(output == expected, "first said", output)
  end
  local _, missing = run(folder, "./first no-such-file 2>&1")
  check(missing == 1, "first takes a missing file")
end

-- The snapshot of a process that holds a text nobody else has, compared with what its mappings say.
function tests.snapshot_lua()
  write_file(folder .. "/hold.lua", [[
    held = {}
    for i = 1, 5000 do held[i] = ("held text %d of the example"):format(i) end
    print((io.open("/proc/self/stat"):read("n")))
    io.stdout:flush()
    os.execute("kill -STOP " .. io.open("/proc/self/stat"):read("n"))
  ]])
  local program = assert(io.popen(("exec %q %q/hold.lua"):format(runner, folder)))
  local pid = program:read("n")
  local output, code = run(folder, ("%q %q/examples/snapshot.lua %d image"):format(runner, source, pid))
  os.execute("kill -KILL " .. pid)
  program:close()
  check(code == 0, "snapshot.lua failed:", output)
  local image, mapped = read_file(folder .. "/image"), 0
  for line in io.lines(folder .. "/image.map") do
    local first, last, offset = line:match("^(%x+) (%x+) (%d+) ")
    check(math.tointeger(offset) == mapped, "offsets in the map are not those of the image")
    mapped = mapped + tonumber(last, 16) - tonumber(first, 16)
  end
  check(mapped == #image and #image % PAGE == 0, "the image has", #image, "bytes, the map", mapped)
  for i = 1, 5000, 7 do
    check(image:find(("held text %d of the example"):format(i), 1, true), "the image lacks what the process held")
  end
end

-- In every engine: what auto chooses for root, and inline, as an ordinary user has it.
function tests.restore_lua()
  local expected = "now: level 2, page 7; restored: level 1, page 7, with 1 page read\n"
    .. "now: a mistake, page 7; restored: level 1, page 7, with 1 page read\n"
  local inline = [[-e 'local uffd = require "uffd" local serve = uffd.serve
    function uffd.serve(options) options.engine = "inline" return serve(options) end']]
  for _, options in ipairs { "", inline } do
    local output, code = run(folder, ("%q %s %q/examples/restore.lua saved"):format(runner, options, source))
    check(code == 0 and output == expected, "restore.lua said", output)
    check(#read_file(folder .. "/saved") == 4 << 20, "the file is not as long as the memory")
  end
end

local function clone_rows(arguments)
  local output, code = run(folder, ("%q %q/examples/clone.lua --json %s"):format(runner, source, arguments))
  check(code == 0, "clone.lua failed:", output)
  local rows = {}
  for line in output:gmatch("[^\n]+") do rows[#rows + 1] = check(json.decode(line), "not JSON:", line) end
  return rows
end

local function check_rows(rows, clones)
  check(#rows == clones + 1 and rows[#rows].clone == "eager", "not a row a clone and one for eager reading")
  for i = 1, clones do
    local row = rows[i]
    check(row.bytes == rows[1].bytes and row.bytes > 0, "clones differ in size")
    check(row.pages == row.bytes // PAGE, "a clone of", row.bytes, "bytes touched", row.pages, "pages")
    check(row.policy_calls == 1, "the policy was asked", row.policy_calls, "times")
    check(row.faults > 1 and row.faults <= row.pages, "faults:", row.faults)
    check(row.first_byte_s > 0 and row.first_byte_s <= row.all_s, "times of a clone")
    check(row.reader == (i % 2 == 1 and "random" or "in order"), "reader", row.reader)
  end
end

function tests.clone_lua()
  check_rows(clone_rows "--clones 3", 3)
end

-- 256 pages, every second one a hole, but for the last, which ends the file.
local function make_sparse_image()
  local file = assert(io.open(folder .. "/sparse", "wb"))
  for page = 0, 255 do
    if page % 2 == 0 then
      file:seek("set", page * PAGE)
      assert(file:write(string.pack("<I8", page + 1):rep(PAGE // 8)))
    end
  end
  file:seek("set", 256 * PAGE - 1)
  assert(file:write("\0"))
  file:close()
end

-- Holes must be answered as zero pages. One page a fault without around.
function tests.clone_of_a_sparse_image()
  make_sparse_image()
  local rows = clone_rows "--clones 2 --around 4K --image sparse"
  check_rows(rows, 2)
  for i = 1, 2 do
    check(rows[i].faults == 256, "one page a fault, but", rows[i].faults, "faults")
    check(rows[i].zero_pages == 128, "127 holes and a page of zeros, but zero pages:", rows[i].zero_pages)
  end
end

-- In lua5.4, which runs this, and in the runner: the same lines but for the times of faults.
function tests.handoff_lua()
  local _, without = run(folder, ("%q -e 'os.exit(require \"uffd.core\".pager_create ~= nil)'"):format(runner))
  if without ~= 0 then return end
  local lua = ("LUA_PATH=%q LUA_CPATH=%q %q"):format(source .. "/lua/?.lua;" .. source .. "/lua/?/init.lua;;",
    build .. "/lualib/?.so;;", arg[-1])
  for _, program in ipairs { ("%q"):format(runner), lua } do
    local output, code = run(folder, ("%s %q/examples/handoff.lua"):format(program, source))
    local expected = "page 100 holds\t100\npage 4 holds\tI am client 1\nthe sum of all others\t32892\n"
    check(code == 0 and output:find(expected, 1, true), "handoff.lua said", output)
    check(output:find("pager: client 1 is gone: faults %d+, bytes 1048576, policy calls 1\n"), "its pager said", output)
  end
end

-- Needs the module of the event loop. nil: it is not installed, and why require says so.
local function with_module(module, example, expected)
  local lua = ("LUA_PATH=%q LUA_CPATH=%q %q"):format(source .. "/lua/?.lua;" .. source .. "/lua/?/init.lua;;",
    build .. "/lualib/?.so;;", arg[-1])
  for _, program in ipairs { ("%q"):format(runner), lua } do
    local why, found = run(folder, ("%s -e 'assert(require %q)' 2>&1"):format(program, module))
    if found ~= 0 then
      check(why:find("module '" .. module .. "' not found", 1, true), "require", module, "failed:", why)
      return "skipped", module .. " is not installed"
    end
    local output, code = run(folder, ("%s %q/examples/%s 2>&1"):format(program, source, example))
    check(code == 0 and output == expected, example, "said", output)
  end
end

local function pump_lua(module, other)
  return with_module(module, ("pump-%s.lua"):format(module),
    'a thread has read "page 0" to "page 63"\n64 faults answered; the ' .. other .. " went on: true\n")
end

function tests.pump_luv_lua() return pump_lua("luv", "timer") end

function tests.pump_cqueues_lua() return pump_lua("cqueues", "other coroutine") end

function tests.later_lua()
  return with_module("luv", "later.lua", "64 pages fetched once each: true\nthey hold the file: true\n")
end

function tests.clone_lua_table()
  make_sparse_image()
  local output, code = run(folder, ("%q %q/examples/clone.lua --clones 1 --image sparse"):format(runner, source))
  check(code == 0 and output:find("first byte") and output:find("all equal"), "clone.lua said", output)
end

function tests.clone_lua_shared()
  make_sparse_image()
  local command = "%q %q/examples/clone.lua --clones 2 --shared --image sparse"
  local output, code = run(folder, command:format(runner, source))
  check(code == 0 and output:find("all equal"), "clone.lua --shared said", output)
end

function tests.clone_lua_refuses()
  for _, arguments in ipairs { "--clones 0", "--clones x", "--bogus", "--clones", "--pid x" } do
    local _, code = run(folder, ("%q %q/examples/clone.lua %s 2>/dev/null"):format(runner, source, arguments))
    check(code == 2, "clone.lua took", arguments)
  end
  write_file(folder .. "/small", "too small")
  local output, code = run(folder, ("%q %q/examples/clone.lua --image small 2>&1"):format(runner, source))
  check(code == 1 and output:find("too small"), "clone.lua said", output)
end

local names, failed, skipped = {}, 0, 0
for name in pairs(tests) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do
  local ok, message, why = pcall(tests[name])
  if ok and message == "skipped" then
    print("skipped " .. name .. ": " .. why)
    skipped = skipped + 1
  else
    print((ok and "ok " or "FAILED ") .. name .. (ok and "" or ": " .. tostring(message)))
    if ok then passed = passed + 1 else failed = failed + 1 end
  end
end
os.execute(("rm -rf %q"):format(folder))
print(("%d tests, %d skipped, %d failed"):format(passed + skipped + failed, skipped, failed))
os.exit(failed == 0)
