-- The verbs of uffd-lua image that write: each makes a new file, which appears when it is whole.
local figures = require "uffd.image_figures"
local uffd = require "uffd"

local write = {}

-- The stack of these layers, the first count of them if it is given.
local function open_all(options, paths, count)
  return uffd.image(table.move(paths, 1, count or #paths, 1, { unversioned = options.unversioned }))
end

-- The image that --against names; nil if it is not given; nil and a sentence if it cannot be opened.
local function open_below(options)
  if not options.against then return nil end
  return open_all(options, options.against)
end

local function layer_store(options, more)
  more.path = more.path or options.output
  more.frame, more.level, more.digest = options.frame, options.level, options.digest
  return uffd.store.layer(more)
end

-- Copies, finishes, and prints the result: 0, or nil and a sentence.
local function fill(options, image, store, path, from_layer)
  local ok, message = image:copy(store, from_layer, figures.progress("written", image.size))
  if ok then ok, message = store:finish() end
  store:close()
  if not ok then return nil, message end
  figures.written(options, path)
  return 0
end

function write.create(options)
  local below, message = open_below(options)
  if message then return nil, message end
  local size = options.size
  if not below and not size then return nil, "--size N: how many bytes has the image?" end
  local store
  store, message = layer_store(options, { below = below, length = size })
  if not store then return nil, message end
  local ok
  ok, message = store:finish()
  store:close()
  if not ok then return nil, message end
  figures.written(options, options.output)
  return 0
end

function write.convert(options, image)
  local below, message = open_below(options)
  if message then return nil, message end
  local store
  if options.format == "raw" then
    if below then return nil, "a raw file cannot be an increment: --against goes with --format zstd" end
    store, message = uffd.store.file { path = options.output, length = image.size }
  else
    store, message = layer_store(options, { length = image.size, below = below, compare = below ~= nil,
      plain = not below })
  end
  if not store then return nil, message end
  return fill(options, image, store, options.output)
end

-- The paths of an image's layers, the lowest first: those that were given, which may hold what opens a URI, and before
-- them those that were found.
local function paths_of(image, words)
  local paths, found = {}, image:info().layers - #words
  for i = 1, found do paths[i] = image:layer(i).path end
  return table.move(words, 1, #words, found + 1, paths)
end

function write.compact(options, words)
  local image, message = open_all(options, words)
  if not image then return nil, message end
  local paths, keep = paths_of(image, words), options.keep or 1
  if keep < 1 or keep >= #paths then
    return nil, ("of %d layers, 1 to %d can be kept, not %d"):format(#paths, #paths - 1, keep)
  end
  local below
  below, message = open_all(options, paths, keep)
  if not below then return nil, message end
  local store
  store, message = layer_store(options, { length = image.size, below = below })
  if not store then return nil, message end
  return fill(options, image, store, options.output, keep + 1)
end

function write.commit(options, words)
  local image, message = open_all(options, words)
  if not image then return nil, message end
  local paths = paths_of(image, words)
  if #paths < 2 then return nil, ("%s has no parent"):format(paths[1]) end
  local parent = image:layer(#paths - 1)
  if parent.version then
    return nil, ("%s is not on this machine, and is not written to: convert makes one file of both"):format(parent.path)
  end
  if parent.format ~= "zstd" then
    return nil, ("%s is a raw file, into which nothing is committed: convert makes one file of both")
      :format(parent.path)
  end
  local below
  if #paths > 2 then
    below, message = open_all(options, paths, #paths - 2)
    if not below then return nil, message end
  end
  local store
  store, message = layer_store(options, { path = parent.path, length = image.size, below = below })
  if not store then return nil, message end
  return fill(options, image, store, parent.path, #paths > 2 and #paths - 1 or nil)
end

function write.rebase(options, image)
  local below, message = open_below(options)
  if message then return nil, message end
  local store
  store, message = layer_store(options, { length = image.size, below = below, compare = below ~= nil })
  if not store then return nil, message end
  return fill(options, image, store, options.output)
end

function write.index(options, words)
  local size = figures.file_size(words[1])
  local ok, message = uffd.image.index(words[1],
    { digest = options.digest, progress = figures.progress("indexed", size or 0) })
  if not ok then return nil, message end
  figures.indexed(options, words[1])
  return 0
end

-- Beside the layer: which part of it was where, as examples/snapshot.lua writes it.
local function write_regions(path, regions)
  local file <close>, message = io.open(path .. ".map", "w")
  if not file then return nil, message end
  for _, region in ipairs(regions) do
    local ok, why = file:write(("%x %x %d pid:%d\n"):format(region.address, region.address + region.length,
      region.offset, region.pid))
    if not ok then return nil, why end
  end
  return file:close()
end

write["import"] = function(options, words)
  local below, message = open_below(options)
  if message then return nil, message end
  local bar
  local imported
  imported, message = uffd.image.import {
    format = words[1], from = words[2], path = options.output, parent = below, storage = options.storage,
    frame = options.frame, level = options.level, digest = options.digest,
    progress = function(done, total)
      bar = bar or figures.progress("imported", total)
      bar(done)
    end,
  }
  if not imported then return nil, message end
  if #imported.regions > 0 then
    local ok
    ok, message = write_regions(options.output, imported.regions)
    if not ok then return nil, message end
  end
  figures.imported(options, imported)
  figures.written(options, options.output)
  return 0
end

return write
