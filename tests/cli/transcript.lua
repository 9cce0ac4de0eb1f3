-- Runs a transcript: lua5.4 transcript.lua FILE.t BUILD_DIR. Lines of a transcript:
--   $ command      for sh, in a scratch directory, without Lua's environment variables; BUILD is BUILD_DIR, its
--                  programs come first in PATH, and TESTS, also in PATH, is the directory of the transcript. What
--                  it leaves running is ended
--   > more         right below a command: it goes on
--   ? command      a condition: where it fails, the rest is skipped, and what it printed is the reason
--   [1]            exit code of the command above (0 when not told)
--   # anything     a comment
--   anything else  a line of its output, stderr included; * stands for any characters, ... alone for any lines
-- Empty lines and blanks at the end of lines do not count.
local path, build = table.unpack(arg)
local tests = path:match "^(.*)/" or "."

local function read_lines(name)
  local lines = {}
  for line in io.lines(name) do lines[#lines + 1] = line:match "^(.-)%s*$" end
  return lines
end

local function parse(lines)
  local steps, step = {}, nil
  for number, line in ipairs(lines) do
    local mark, rest = line:match "^([$>?]) (.*)$"
    if mark == "$" or mark == "?" then
      step = { line = number, command = rest, condition = mark == "?", expected = {}, code = 0 }
      steps[#steps + 1] = step
    elseif mark == ">" and #step.expected == 0 then
      step.command = step.command .. "\n" .. rest
    elseif line:match "^%[%d+%]$" then
      step.code = tonumber(line:match "%d+")
    elseif line ~= "" and not line:match "^#" then
      step.expected[#step.expected + 1] = line
    end
  end
  return steps
end

local function capture(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read "a"
  local _, _, code = pipe:close()
  return output, code
end

local function write_file(name, text)
  local file <close> = assert(io.open(name, "w"))
  file:write(text, "\n")
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local scratch = capture("mktemp -d"):gsub("\n$", "")
local command_file = scratch .. "/.command"
local programs = table.concat({ build .. "/bin", build .. "/tests", tests }, ":")
local shell = ("cd %s && setsid -w "
  .. "env -u LUA_PATH -u LUA_CPATH -u LUA_PATH_5_4 -u LUA_CPATH_5_4 -u LUA_INIT -u LUA_INIT_5_4 "
  .. "BUILD=%s TESTS=%s PATH=%s:\"$PATH\" LC_ALL=C sh .command </dev/null 2>&1"
  .. "; code=$?; kill -KILL -- -$(cat .group) 2>/dev/null; exit $code")
  :format(quote(scratch), quote(build), quote(tests), quote(programs))

local function run(step)
  write_file(command_file, "echo $$ > .group\n" .. step.command)
  local output, code = capture(shell)
  local lines = {}
  for line in output:gmatch "[^\n]+" do
    line = line:match "^(.-)%s*$"
    if line ~= "" then lines[#lines + 1] = line end
  end
  return lines, code
end

local function matches(line, expected)
  local pattern = expected:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", ".*")
  return line:match("^" .. pattern .. "$") ~= nil
end

-- Do lines from i on match the expected lines from j on?
local function all_match(lines, i, expected, j)
  if j > #expected then return i > #lines end
  if expected[j] == "..." then
    for k = i, #lines + 1 do
      if all_match(lines, k, expected, j + 1) then return true end
    end
    return false
  end
  return i <= #lines and matches(lines[i], expected[j]) and all_match(lines, i + 1, expected, j + 1)
end

local function show(title, lines, code)
  print(title)
  for _, line in ipairs(lines) do print("    " .. line) end
  print("    [" .. code .. "]")
end

local function check(step)
  local lines, code = run(step)
  if code == step.code and all_match(lines, 1, step.expected, 1) then return true end
  print(("%s:%d: $ %s"):format(path, step.line, step.command))
  show("  expected:", step.expected, step.code)
  show("  got:", lines, code)
  return false
end

local function run_all(steps)
  local failed = 0
  for _, step in ipairs(steps) do
    if step.condition then
      local lines, code = run(step)
      if code ~= 0 then
        print("skipped: " .. table.concat(lines, " "))
        return failed == 0 and 77 or 1
      end
    elseif not check(step) then
      failed = failed + 1
    end
  end
  print(("%d steps, %d failed"):format(#steps, failed))
  return failed == 0 and #steps > 0 and 0 or 1
end

-- What has left its group, or outlives its step, is known by its directory, and ends with the transcript. (To read its
-- environment would wait for the lock of its memory, which a client may hold.)
local function end_what_runs()
  local found = capture(("find /proc/[0-9]*/cwd -maxdepth 0 -lname %s 2>/dev/null"):format(quote(scratch)))
  for pid in found:gmatch "/proc/(%d+)/cwd" do capture("kill -KILL " .. pid .. " 2>/dev/null") end
end

local code = run_all(parse(read_lines(path)))
end_what_runs()
capture("rm -rf " .. quote(scratch))
os.exit(code)
