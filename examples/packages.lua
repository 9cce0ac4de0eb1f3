-- A program worth cloning: reads this machine's package database into tables, says so, and stops itself.
-- usage: uffd-lua packages.lua
-- It prints one line, "PID PACKAGES FILES", and waits with SIGSTOP for whoever wants its memory; SIGCONT ends it.

local function read_all(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- The database of dpkg: paragraphs of "Field: value" lines, one paragraph a package.
local function load_packages(path)
  local packages = {}
  for paragraph in ((read_all(path) or "") .. "\n"):gmatch("(.-\n)\n") do
    local package = {}
    for field, value in paragraph:gmatch("([%w-]+): ([^\n]*)\n") do package[field] = value end
    if package.Package then packages[package.Package] = package end
  end
  return packages
end

-- Which package each installed file came from.
local function load_files(packages, folder)
  local files, count = {}, 0
  for name, package in pairs(packages) do
    local list = read_all(("%s/%s.list"):format(folder, name))
      or read_all(("%s/%s:%s.list"):format(folder, name, package.Architecture))
    for path in (list or ""):gmatch("[^\n]+") do
      files[path] = name
      count = count + 1
    end
  end
  return files, count
end

local packages = load_packages("/var/lib/dpkg/status")
local files, file_count = load_files(packages, "/var/lib/dpkg/info")
local package_count = 0
for _ in pairs(packages) do package_count = package_count + 1 end

local pid = io.open("/proc/self/stat"):read("n")
print(("%d %d %d"):format(pid, package_count, file_count))
io.stdout:flush()
os.execute("kill -STOP " .. pid)
return packages, files
