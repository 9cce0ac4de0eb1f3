-- Checks the file that uffd-lua --info=json wrote, against its exit code and against what /proc tells.
local json = require "dkjson"

local function read(path)
  local file = io.open(path)
  if not file then return nil end
  local text <close> = file
  return text:read "a"
end

local info = assert(json.decode(read(arg[1]), 1, nil))
local code = tonumber(arg[2])

local function is_name_list(list)
  for _, name in ipairs(list) do
    if type(name) ~= "string" or not name:match "^[a-z][a-z_0-9]*$" then return false end
  end
  return true
end

local function are_sentences(list)
  for _, sentence in ipairs(list) do
    if type(sentence) ~= "string" or not sentence:match "^%S.* .*%.$" then return false end
  end
  return true
end

local function meminfo(name) return tonumber(read("/proc/meminfo"):match("\n" .. name .. ":%s*(%d+)")) or 0 end
local sysctl = tonumber(read "/proc/sys/vm/unprivileged_userfaultfd" or "-1")

local checks = {
  { "version", info.version == require("uffd").version },
  { "kernel", info.kernel == read("/proc/sys/kernel/osrelease"):match "%S+" },
  { "usable", type(info.usable) == "boolean" and info.usable == (code == 0) and (code == 0 or code == 77) },
  { "route", not info.usable and info.route == nil or info.route == "syscall" or info.route == "device" },
  { "user_mode_only", type(info.user_mode_only) == "boolean" },
  { "event_fork", type(info.event_fork) == "boolean" },
  { "sysctl_unprivileged", info.sysctl_unprivileged == sysctl },
  { "features", is_name_list(info.features) and #info.features > 0 == info.usable },
  { "missing", is_name_list(info.missing) },
  { "page_size", info.page_size & (info.page_size - 1) == 0 and info.page_size >= 4096 },
  { "hugepages.size", info.hugepages.size == meminfo "Hugepagesize" << 10 },
  { "hugepages.total", info.hugepages.total == meminfo "HugePages_Total" },
  { "hugepages.free", info.hugepages.free <= info.hugepages.total },
  { "advice", are_sentences(info.advice) and (info.usable or #info.advice > 0) },
}

for _, check in ipairs(checks) do
  if not check[2] then
    print(check[1] .. " is wrong in " .. read(arg[1]))
    os.exit(1)
  end
end
for _, name in ipairs(info.missing) do
  for _, feature in ipairs(info.features) do assert(name ~= feature, name) end
end
print "every field is as it should be"
