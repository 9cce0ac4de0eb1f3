-- Machines of Cloud Hypervisor: what is refused. A machine that is saved and restored is the transcript offload.t's.
local lu = require "luaunit"
local support = require "support"
local core = require "uffd.core"
local uffd = require "uffd"

local tests = {}
local fails, raises = support.fails, support.raises

if not core.offload_restore then
  function tests.test_built_without_the_pager()
    fails("ENOSYS", "without the pager", uffd.offload.restore { socket = "a", directory = "b", door = "c" })
    fails("ENOSYS", "without the pager", uffd.offload.snapshot { socket = "a", directory = "b" })
  end
  return tests
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  assert(file:write(text))
  file:close()
end

function tests.test_restore_refuses()
  local directory = assert(core.make_directory())
  local options = { socket = directory .. "/none", directory = directory, door = "door" }
  fails("ENOENT", "migration_config.json", uffd.offload.restore(options))
  write(directory .. "/migration_config.json", "{}")
  write(directory .. "/state.json", "{}")
  fails("EPROTO", "guest_ram_mappings", uffd.offload.restore(options))
  write(directory .. "/migration_config.json", '{"memory_manager_data":{"guest_ram_mappings":'
    .. '[{"slot":0,"gpa":0,"size":4096,"file_offset":0}]}}')
  fails("ENOENT", "receive a migration there first", uffd.offload.restore(options))
  options.page_size = 8192
  fails("EINVAL", "Pages of 8192 bytes", uffd.offload.restore(options))
  fails("EEXIST", "is there already", uffd.offload.snapshot { socket = options.socket, directory = directory })
  for _, name in ipairs { "migration_config.json", "state.json" } do os.remove(directory .. "/" .. name) end
  lu.assertTrue(os.remove(directory))
end

function tests.test_misuse_raises()
  raises("it needs a door", uffd.offload.restore, { socket = "a", directory = "b" })
  raises("it needs a directory", uffd.offload.snapshot, { socket = "a" })
  raises("unknown option 'doors'", uffd.offload.restore, { socket = "a", directory = "b", doors = "c" })
  raises("function", uffd.offload.restore, { socket = "a", directory = "b", door = "c", restored = 7 })
end

return tests
