-- uffd-lua --info: what this kernel and this user can do, for a person or, as one JSON object, for a program. It shows
-- only what uffd.probe() has found.
local uffd = require "uffd"
local json = require "uffd.json"

local function write_json(probe)
  print(json.encode { object = {
    { "version", uffd.version },
    { "kernel", probe.kernel },
    { "usable", probe.usable },
    { "route", probe.route },
    { "user_mode_only", probe.user_mode_only },
    { "event_fork", probe.event_fork },
    { "sysctl_unprivileged", probe.sysctl_unprivileged },
    { "features", probe.features },
    { "missing", probe.missing },
    { "page_size", probe.page_size },
    { "hugepages", { object = {
      { "size", probe.hugepage_size },
      { "total", probe.hugepages_total },
      { "free", probe.hugepages_free },
    } } },
    { "advice", probe.advice },
  } })
end

local function names(list)
  return #list > 0 and table.concat(list, " ") or "none"
end

-- A line as "label  words". Long words are wrapped in their column.
local function write_line(label, text)
  local width, line = 100, ("%-16s"):format(label)
  for word in text:gmatch "%S+" do
    if #line + #word > width then
      print((line:gsub("%s+$", "")))
      line = (" "):rep(16)
    end
    line = line .. word .. " "
  end
  print((line:gsub("%s+$", "")))
end

local routes = { syscall = "by the system call", device = "by /dev/userfaultfd" }

local function describe_use(probe)
  if not probe.usable then return "not to be had" end
  local faults = probe.user_mode_only and "faults of user mode only" or "all faults"
  return ("usable %s, %s"):format(routes[probe.route] or probe.route, faults)
end

-- Which engine "auto" of uffd.serve means here.
local function describe_engine(probe)
  if not probe.usable then return "none" end
  return probe.user_mode_only and "auto is inline: faults of user mode only cost it nothing more" or "auto is threads"
end

-- Marks a feature that the kernel has and this user may not enable.
local function usable_features(probe)
  local list = {}
  for i, name in ipairs(probe.features) do
    list[i] = name == "event_fork" and not probe.event_fork and "event_fork(refused)" or name
  end
  return list
end

local function describe_hugepages(probe)
  if probe.hugepage_size == 0 then return "none" end
  return ("%d free of %d, %d bytes each"):format(probe.hugepages_free, probe.hugepages_total, probe.hugepage_size)
end

local function write_text(probe)
  write_line("uffd", uffd.version)
  write_line("kernel", probe.kernel)
  write_line("userfaultfd", describe_use(probe))
  write_line("engine", describe_engine(probe))
  write_line("fork events", probe.event_fork and "yes" or "no: they need CAP_SYS_PTRACE")
  write_line("features", names(usable_features(probe)))
  write_line("missing", names(probe.missing))
  write_line("page size", probe.page_size .. " bytes")
  write_line("huge pages", describe_hugepages(probe))
  for i, sentence in ipairs(probe.advice) do write_line(i == 1 and "advice" or "", sentence) end
end

-- Prints, and returns the exit code of uffd-lua.
return function(format)
  local probe = uffd.probe()
  if format == "json" then write_json(probe) else write_text(probe) end
  return probe.usable and 0 or 77
end
