-- Heat maps of an image's address space: a grid of cells. A cell tells when it was touched first, or by how many of
-- several sets. This file lays out the cells and shows them as text; picture.lua makes pictures of them.
local core = require "uffd.core"
local picture = require "uffd.picture"

local heatmap = {}

-- Cells

local function ceil_div(a, b) return (a - 1) // b + 1 end

-- A cell is a power of two pages, a row a power of two cells, and there are at most so many of each. cells[0] is the
-- first cell, and the rows follow one another. cells[i] is nil where nothing was touched.
function heatmap.grid(sets, most_columns, most_rows)
  local info = sets[1]:info()
  local pages, columns, cell_pages = ceil_div(info.image_length, info.page_size), 1, 1
  while columns * 2 <= most_columns and columns * columns < pages do columns = columns * 2 end
  while ceil_div(ceil_div(pages, cell_pages), columns) > most_rows do cell_pages = cell_pages * 2 end
  local cell_bytes, cells, touched_by = cell_pages * info.page_size, {}, {}
  for number, set in ipairs(sets) do
    for index, offset in set:iterate() do
      local cell = offset // cell_bytes
      if #sets == 1 then
        cells[cell] = cells[cell] or index
      elseif touched_by[cell] ~= number then
        touched_by[cell] = number
        cells[cell] = (cells[cell] or 0) + 1
      end
    end
  end
  local count = ceil_div(pages, cell_pages)
  return {
    cells = cells, count = count, columns = columns, rows = ceil_div(count, columns), cell_bytes = cell_bytes,
    row_bytes = cell_bytes * columns, info = info, sets = #sets, most = #sets == 1 and info.pages or #sets,
  }
end

-- The shade of a cell: 0 (the first touched, the fewest files) to 1 (the last touched, all files).
function heatmap.level(grid, value)
  return grid.most > 1 and (value - 1) / (grid.most - 1) or 0.0
end

-- Text

-- From the 256 colours of terminals: bright ones, unlike the grey of what was not touched.
local ramp = { 33, 69, 63, 99, 135, 171, 207, 205, 203, 209, 215, 221 }
local untouched = 236

local function color_of(grid, value)
  if not value then return untouched end
  return ramp[1 + math.floor(heatmap.level(grid, value) * (#ramp - 1) + 0.5)]
end

local function digit_of(grid, value)
  if not value then return "." end
  if grid.sets > 1 and grid.sets <= 9 then return tostring(value) end
  return tostring(math.min(9, math.floor(heatmap.level(grid, value) * 10)))
end

local function is_empty(grid, row)
  for cell = row * grid.columns, (row + 1) * grid.columns - 1 do
    if grid.cells[cell] then return false end
  end
  return true
end

-- One row of digits.
local function plain_line(grid, row)
  local parts = {}
  for cell = row * grid.columns, math.min((row + 1) * grid.columns, grid.count) - 1 do
    parts[#parts + 1] = digit_of(grid, grid.cells[cell])
  end
  return table.concat(parts)
end

-- Two rows in one line of half blocks: the foreground is the upper cell, the background the lower one.
local function color_line(grid, row)
  local parts, before = {}, nil
  for column = 0, grid.columns - 1 do
    local upper, lower = row * grid.columns + column, (row + 1) * grid.columns + column
    if upper >= grid.count then break end
    local ground = lower < grid.count and ("48;5;%d"):format(color_of(grid, grid.cells[lower])) or "49"
    local colors = ("\27[38;5;%d;%sm"):format(color_of(grid, grid.cells[upper]), ground)
    if colors ~= before then parts[#parts + 1] = colors end
    before = colors
    parts[#parts + 1] = "▀"
  end
  return table.concat(parts) .. "\27[0m"
end

local function plain_legend(grid)
  if grid.sets == 1 then return "0 to 9: touched first to last; . not touched" end
  if grid.sets <= 9 then return ("1 to %d: touched in so many of the files; . in none"):format(grid.sets) end
  return ("0 to 9: touched in one to all of the %d files; . in none"):format(grid.sets)
end

local function color_legend(grid)
  local parts = { grid.sets == 1 and "touched first " or "touched in one " }
  for _, color in ipairs(ramp) do parts[#parts + 1] = ("\27[38;5;%dm█"):format(color) end
  parts[#parts + 1] = ("\27[0m %s   \27[38;5;%dm█\27[0m not touched"):format(
    grid.sets == 1 and "last" or ("in all %d files"):format(grid.sets), untouched)
  return table.concat(parts)
end

-- More than two lines of empty rows become one line.
local function write_rows(grid, step, line_of, label)
  local row = 0
  while row < grid.rows do
    local next_row = row
    while next_row < grid.rows and is_empty(grid, next_row) do next_row = next_row + 1 end
    next_row = next_row - (next_row - row) % step
    if (next_row - row) // step > 2 then
      io.write((" "):rep(#label:format(0)), " ... ", picture.size_text((next_row - row) * grid.row_bytes),
        " not touched ...\n")
      row = next_row
    else
      io.write(label:format(row * grid.row_bytes), " ", line_of(grid, row), "\n")
      row = row + step
    end
  end
end

local function write_text(sets, paths, options, colored)
  local label = picture.address_format(sets[1]:info().image_length)
  local columns = (options.width or core.terminal and core.terminal(1) or 80) - #label:format(0) - 1
  local grid = heatmap.grid(sets, math.max(columns, 8), colored and 64 or 32)
  io.write(picture.title(paths), "\n", picture.subtitle(grid), "\n\n")
  write_rows(grid, colored and 2 or 1, colored and color_line or plain_line, label)
  io.write("\n", colored and color_legend(grid) or plain_legend(grid), "\n")
  return true
end

-- Where it goes

local function locale_is_utf8()
  for _, name in ipairs { "LC_ALL", "LC_CTYPE", "LANG" } do
    local value = os.getenv(name)
    if value and value ~= "" then return value:lower():find "utf%-?8" ~= nil end
  end
  return false
end

local function wants_color(when)
  if when == "always" or when == "never" then return when == "always" end
  local forbidden = os.getenv "NO_COLOR"
  local terminal = core.terminal and core.terminal(1)
  return terminal ~= nil and (forbidden == nil or forbidden == "") and locale_is_utf8()
end

-- sets: of one image; paths: their names. options: output, width, color. True; or nil and a sentence.
function heatmap.write(sets, paths, options)
  if not options.output then return write_text(sets, paths, options, wants_color(options.color)) end
  local grid = heatmap.grid(sets, 256, 256)
  return picture.save(picture.draw(grid, paths, options.width or 960, heatmap.level), options.output)
end

return heatmap
