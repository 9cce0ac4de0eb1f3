-- A heat map as a picture: axes, cells and legend as a list of rectangles and texts, and such a list as SVG. PNG is in
-- picture_png.lua.
local png = require "uffd.picture_png"

local picture = {}

-- Words and figures

local units = { "KiB", "MiB", "GiB", "TiB", "PiB" }

-- "512 bytes", "4 KiB", "51.2 MiB"
function picture.size_text(bytes)
  if bytes < 1024 then return ("%d bytes"):format(bytes) end
  local value, unit = bytes, 0
  while value >= 1024 and unit < #units do
    value, unit = value / 1024, unit + 1
  end
  return (("%.1f"):format(value):gsub("%.0$", "")) .. " " .. units[unit]
end

function picture.address_format(length)
  return "0x%0" .. math.max(8, #("%x"):format(length - 1)) .. "x"
end

function picture.title(paths)
  local names = {}
  for i, path in ipairs(paths) do names[i] = path:match "[^/]*$" end
  if #names > 3 then names = { names[1], names[2], ("%d more"):format(#names - 2) } end
  return table.concat(names, ", ")
end

function picture.subtitle(grid)
  local info = grid.info
  local size = picture.size_text
  local cell = ("a cell is %s, a row %s"):format(size(grid.cell_bytes), size(grid.row_bytes))
  if grid.sets > 1 then return ("%d files, an image of %s; %s"):format(grid.sets, size(info.image_length), cell) end
  return ("%d pages of %s: %s of %s; %s"):format(info.pages, size(info.page_size), size(info.bytes),
    size(info.image_length), cell)
end

-- Drawing

local paper, ink, faint, untouched = 0xffffff, 0x222222, 0x777777, 0xe9ecef
local stops = { { 0x0d, 0x2a, 0x9c }, { 0x8a, 0x1c, 0xa8 }, { 0xd8, 0x3a, 0x6e }, { 0xf6, 0x8b, 0x2a } }
local shades = 64

-- From deep blue to orange, in as many shades as a palette has room for. No shade is close to the grey of what was not
-- touched.
local function shade(level)
  local at = math.floor(level * (shades - 1) + 0.5) / (shades - 1) * (#stops - 1)
  local i = math.min(math.floor(at), #stops - 2)
  local color = 0
  for channel = 1, 3 do
    local from, to = stops[i + 1][channel], stops[i + 2][channel]
    color = color << 8 | math.floor(from + (to - from) * (at - i) + 0.5)
  end
  return color
end

local margin = { top = 92, right = 44, bottom = 76 }
local largest_cell = 64 -- pixels

local function rectangle(list, x, y, width, height, color)
  list[#list + 1] = { x = x, y = y, width = width, height = height, color = color }
end

-- y is the baseline of the letters; anchor: start, middle, end.
local function text(list, x, y, size, color, anchor, words)
  list[#list + 1] = { x = x, y = y, size = size, color = color, anchor = anchor, text = words }
end

local function draw_cells(list, grid, x, y, side, level)
  local function draw_run(from, to, color)
    local row, column = from // grid.columns, from % grid.columns
    rectangle(list, x + column * side, y + row * side, (to - from) * side, side, color)
  end
  for row = 0, grid.rows - 1 do
    local first, stop = row * grid.columns, math.min((row + 1) * grid.columns, grid.count)
    local from, before = first, nil
    for cell = first, stop do
      local value = cell < stop and grid.cells[cell] or nil
      local color = value and shade(level(grid, value))
      if color ~= before then
        if before then draw_run(from, cell, before) end
        from, before = cell, color
      end
    end
    if before then draw_run(from, stop, before) end
  end
end

-- The end of the background of the cells, if the last row is not full.
local function draw_ground(list, grid, x, y, side)
  local full = grid.count // grid.columns
  if full > 0 then rectangle(list, x, y, grid.columns * side, full * side, untouched) end
  local rest = grid.count % grid.columns
  if rest > 0 then rectangle(list, x, y + full * side, rest * side, side, untouched) end
end

local function draw_axes(list, grid, x, y, side)
  local address = picture.address_format(grid.info.image_length)
  local step = 1
  while step * side < 48 do step = step * 2 end
  for row = 0, grid.rows - 1, step do
    rectangle(list, x - 6, y + row * side, 5, 1, faint)
    text(list, x - 10, y + row * side + 5, 12, ink, "end", address:format(row * grid.row_bytes))
  end
  local parts = grid.columns * side < 320 and 1 or math.min(4, grid.columns)
  for part = 0, parts do
    local column = grid.columns * part // parts
    rectangle(list, x + math.min(column * side, grid.columns * side - 1), y - 6, 1, 5, faint)
    local distance = column > 0 and picture.size_text(column * grid.cell_bytes) or "0"
    text(list, x + column * side, y - 10, 12, ink, "middle", "+" .. distance)
  end
end

local function draw_scale(list, grid, x, y, width)
  local steps = grid.sets == 1 and shades or math.min(grid.sets, shades)
  for step = 0, steps - 1 do
    local from, to = width * step // steps, width * (step + 1) // steps
    rectangle(list, x + from, y, to - from, 14, shade(steps > 1 and step / (steps - 1) or 0.0))
  end
  local first, last = "touched first", ("last of %d pages"):format(grid.most)
  if grid.sets > 1 then first, last = "touched in 1 file", ("in all %d"):format(grid.sets) end
  text(list, x, y + 30, 12, ink, "start", first)
  text(list, x + width, y + 30, 12, ink, "end", last)
  rectangle(list, x + width + 28, y, 14, 14, untouched)
  text(list, x + width + 50, y + 12, 12, ink, "start", "not touched")
end

-- The grid as { width, height, items }, no wider than is wished: cells are squares of whole pixels.
function picture.draw(grid, paths, width, level)
  local list = {}
  local x, y = 8 * #picture.address_format(grid.info.image_length):format(0) + 24, margin.top
  local room = width - x - margin.right
  local side = math.max(1, math.min(room // grid.columns, room // grid.rows, largest_cell))
  local bottom, scale = y + grid.rows * side, 320
  text(list, x, 30, 18, ink, "start", picture.title(paths))
  text(list, x, 52, 12, faint, "start", picture.subtitle(grid))
  draw_ground(list, grid, x, y, side)
  draw_cells(list, grid, x, y, side, level)
  draw_axes(list, grid, x, y, side)
  draw_scale(list, grid, x, bottom + 30, scale)
  return { width = x + math.max(grid.columns * side, scale + 140, 480) + margin.right, height = bottom + margin.bottom,
    paper = paper, items = list }
end

-- SVG

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

-- Characters that XML does not have, and bytes that are not UTF-8, become question marks.
local function escape(words)
  if not utf8.len(words) then words = words:gsub("[\x80-\xff]", "?") end
  return (words:gsub("[%c\x7f]", "?"):gsub('[&<>"]', entities))
end

-- Neighbouring rectangles of one colour become one path.
local function write_items(file, items)
  local i = 1
  while i <= #items do
    local item = items[i]
    if item.text then
      file:write(('<text x="%d" y="%d" font-size="%d" fill="#%06x" text-anchor="%s">%s</text>\n'):format(item.x, item.y,
        item.size, item.color, item.anchor, escape(item.text)))
      i = i + 1
    else
      local paths, order = {}, {}
      while i <= #items and not items[i].text do
        item = items[i]
        if not paths[item.color] then
          paths[item.color] = {}
          order[#order + 1] = item.color
        end
        local path = paths[item.color]
        path[#path + 1] = ("M%d %dh%dv%dh-%dz"):format(item.x, item.y, item.width, item.height, item.width)
        i = i + 1
      end
      for _, color in ipairs(order) do
        file:write(('<path fill="#%06x" d="%s"/>\n'):format(color, table.concat(paths[color])))
      end
    end
  end
end

local function save_svg(drawing, path)
  local file, message = io.open(path, "wb")
  if not file then return nil, ("Cannot write %s."):format(message) end
  file:write(('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" '):format(
    drawing.width, drawing.height, drawing.width, drawing.height),
    'font-family="DejaVu Sans, Verdana, sans-serif" shape-rendering="crispEdges">\n',
    ('<rect width="%d" height="%d" fill="#%06x"/>\n'):format(drawing.width, drawing.height, drawing.paper))
  write_items(file, drawing.items)
  file:write "</svg>\n"
  local ok
  ok, message = file:close()
  if not ok then return nil, ("Cannot write %s: %s."):format(path, message) end
  return true
end

local formats = { svg = save_svg, png = png.save }

local function format_of(path) return formats[(path:match "%.(%a+)$" or ""):lower()] end

-- What is wrong with such a picture; nil when nothing is.
function picture.refuse(path, width)
  if not format_of(path) then return "a picture's name ends in .svg or .png" end
  if width and (width < 400 or width > 10000) then return "a picture is 400 to 10000 pixels wide" end
  return nil
end

-- In the format that the name ends in. True; or nil and a sentence.
function picture.save(drawing, path) return format_of(path)(drawing, path) end

return picture
