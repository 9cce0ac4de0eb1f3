-- uffd-lua image plot: which layer each part of an image comes from, as text or as a picture. A cell is a power of two
-- pages, and is shown as what gives most of it.
local core = require "uffd.core"
local picture = require "uffd.picture"

local plot = {}

local ZERO = 0 -- beside the numbers of layers

local function ceil_div(a, b) return (a - 1) // b + 1 end

-- Adds length bytes of what to the cells from offset on.
local function add(grid, offset, length, what)
  while length > 0 do
    local cell = offset // grid.cell_bytes
    local part = math.min(length, (cell + 1) * grid.cell_bytes - offset)
    local sums = grid.sums[cell] or {}
    sums[what] = (sums[what] or 0) + part
    grid.sums[cell] = sums
    offset, length = offset + part, length - part
  end
end

local function choose(sums)
  local best
  for what, bytes in pairs(sums) do
    if not best or bytes > sums[best] or bytes == sums[best] and what > best then best = what end
  end
  return best
end

-- At most so many cells a row, and rows. cells[i] is a layer's number, or ZERO.
local function make_grid(image, most_columns, most_rows)
  local info = image:info()
  local pages, columns, cell_pages = ceil_div(info.length, info.page_size), 1, 1
  while columns * 2 <= most_columns and columns * columns < pages do columns = columns * 2 end
  while ceil_div(ceil_div(pages, cell_pages), columns) > most_rows do cell_pages = cell_pages * 2 end
  local grid = { columns = columns, cell_bytes = cell_pages * info.page_size, sums = {}, cells = {}, bytes = {},
    count = ceil_div(pages, cell_pages), layers = info.layers, length = info.length }
  grid.rows, grid.row_bytes = ceil_div(grid.count, columns), grid.cell_bytes * columns
  for offset, length, kind, layer in image:map() do
    local what = kind == "zero" and ZERO or layer
    grid.bytes[what] = (grid.bytes[what] or 0) + length
    add(grid, offset, length, what)
  end
  for cell, sums in pairs(grid.sums) do grid.cells[cell] = choose(sums) end
  return grid
end

local function subtitle(grid)
  local size = picture.size_text
  return ("%s in %d layers; a cell is %s, a row %s"):format(size(grid.length), grid.layers, size(grid.cell_bytes),
    size(grid.row_bytes))
end

-- What a legend says of each: { what, words }, the zeros first, then the layers that give something, the top first.
local function legend(image, grid)
  local list = {}
  local function entry(what, name)
    if not grid.bytes[what] then return end
    list[#list + 1] = { what, ("%s  %s, %.1f%%"):format(name, picture.size_text(grid.bytes[what]),
      100 * grid.bytes[what] / grid.length) }
  end
  for layer = grid.layers, 1, -1 do
    entry(layer, ("%d %s"):format(layer, image:layer(layer).path:match "[^/]*$"))
  end
  entry(ZERO, "zero")
  return list
end

-- Text

local signs = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ#"

local function sign_of(what)
  if what == ZERO then return "." end
  return signs:sub(math.min(what, #signs), math.min(what, #signs))
end

local ansi = { 33, 208, 40, 199, 226, 51, 129, 124, 28, 94, 213, 154, 220, 25, 173, 87 }

local function write_text(image, options)
  local label = picture.address_format(image.size)
  local columns = (options.width or core.terminal and core.terminal(1) or 80) - #label:format(0) - 1
  local grid = make_grid(image, math.max(columns, 8), 32)
  local colored = options.color == "always" or options.color ~= "never" and core.terminal and core.terminal(1) ~= nil
    and (os.getenv "NO_COLOR" or "") == ""
  local function show(what)
    if not colored or what == ZERO then return sign_of(what) end
    return ("\27[38;5;%dm%s\27[0m"):format(ansi[(what - 1) % #ansi + 1], sign_of(what))
  end
  io.write(subtitle(grid), "\n\n")
  for row = 0, grid.rows - 1 do
    local line = {}
    for cell = row * grid.columns, math.min((row + 1) * grid.columns, grid.count) - 1 do
      line[#line + 1] = show(grid.cells[cell])
    end
    io.write(label:format(row * grid.row_bytes), " ", table.concat(line), "\n")
  end
  io.write "\n"
  for _, entry in ipairs(legend(image, grid)) do io.write(show(entry[1]), "  ", entry[2], "\n") end
  return 0
end

-- Pictures

local colors = { 0x1f5fbf, 0xe07b20, 0x2f9e44, 0xc2185b, 0xd4b106, 0x17a2b8, 0x7b3fa0, 0xa61e1e, 0x1b5e20, 0x7d5a3c,
  0xe58fc0, 0x8bc34a, 0xf2a65a, 0x0b3d91, 0xb5651d, 0x66d1d1 }
local ink, faint, ground = 0x222222, 0x777777, 0xe9ecef

local function color_of(what)
  return what == ZERO and ground or colors[(what - 1) % #colors + 1]
end

local function draw(image, paths, width)
  local grid, items = make_grid(image, 256, 256), {}
  local function rectangle(x, y, w, h, color)
    items[#items + 1] = { x = x, y = y, width = w, height = h, color = color }
  end
  local function text(x, y, size, color, anchor, words)
    items[#items + 1] = { x = x, y = y, size = size, color = color, anchor = anchor, text = words }
  end
  local address = picture.address_format(image.size)
  local x, y = 8 * #address:format(0) + 24, 72
  local room = width - x - 44
  local side = math.max(1, math.min(room // grid.columns, room // grid.rows, 64))
  text(x, 30, 18, ink, "start", picture.title(paths))
  text(x, 52, 12, faint, "start", subtitle(grid))
  local cell = 0
  while cell < grid.count do
    local row, what, from = cell // grid.columns, grid.cells[cell], cell
    while cell < grid.count and cell // grid.columns == row and grid.cells[cell] == what do cell = cell + 1 end
    rectangle(x + from % grid.columns * side, y + row * side, (cell - from) * side, side, color_of(what))
  end
  local step = 1
  while step * side < 48 do step = step * 2 end
  for row = 0, grid.rows - 1, step do
    text(x - 10, y + row * side + 5, 12, ink, "end", address:format(row * grid.row_bytes))
  end
  local entries = legend(image, grid)
  for i, entry in ipairs(entries) do
    local at = y + grid.rows * side + 24 + (i - 1) * 20
    rectangle(x, at, 14, 14, color_of(entry[1]))
    text(x + 22, at + 12, 12, ink, "start", entry[2])
  end
  return { width = x + math.max(grid.columns * side, 480) + 44, paper = 0xffffff, items = items,
    height = y + grid.rows * side + 36 + #entries * 20 }
end

-- paths: the names of the files. options: output, width, color. 0; or nil and a sentence.
function plot.write(options, image, paths)
  if not options.output then return write_text(image, options) end
  local done, message = picture.save(draw(image, paths, options.width or 960), options.output)
  return done and 0, message
end

return plot
