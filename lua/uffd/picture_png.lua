-- A picture as PNG: rectangles and letters on a raster of indexed colours. uffd.png compresses it; the runner has that
-- module if it was built with libpng.
local png = {}

-- Letters

-- Strokes on a grid 4 wide; capitals are 6 high, descenders go to 8. A point is two digits, x and y from the top; "|"
-- lifts the pen.
local strokes = {
  ["0"] = "10 30 41 45 36 16 05 01 10", ["1"] = "11 20 26|16 36", ["2"] = "01 10 30 41 42 06 46",
  ["3"] = "01 10 30 41 42 33 44 45 36 16 05|13 33", ["4"] = "36 30 04 44", ["5"] = "40 00 03 12 32 43 45 36 16 05",
  ["6"] = "41 30 10 01 05 16 36 45 44 33 13 04", ["7"] = "00 40 16",
  ["8"] = "10 30 41 42 33 13 02 01 10|13 04 05 16 36 45 44 33", ["9"] = "05 16 36 45 41 30 10 01 02 13 33 42",
  A = "06 20 46|14 34", B = "00 06 36 45 44 33 03|33 42 41 30 00", C = "41 30 10 01 05 16 36 45",
  D = "00 06 26 45 41 20 00", E = "40 00 06 46|03 33", F = "40 00 06|03 33", G = "41 30 10 01 05 16 36 45 43 23",
  H = "00 06|40 46|03 43", I = "20 26|10 30|16 36", J = "40 45 36 16 05", K = "00 06|40 03 46", L = "00 06 46",
  M = "06 00 23 40 46", N = "06 00 46 40", O = "10 30 41 45 36 16 05 01 10", P = "06 00 30 41 42 33 03",
  Q = "10 30 41 45 36 16 05 01 10|24 46", R = "06 00 30 41 42 33 03|23 46", S = "41 30 10 01 02 13 33 44 45 36 16 05",
  T = "00 40|20 26", U = "00 05 16 36 45 40", V = "00 26 40", W = "00 16 22 36 40", X = "00 46|40 06",
  Y = "00 23 40|23 26", Z = "00 40 06 46",
  a = "12 32 43 46|45 36 16 05 14 44", b = "00 06|03 12 32 43 45 36 16 05", c = "43 32 12 03 05 16 36 45",
  d = "40 46|43 32 12 03 05 16 36 45", e = "04 44 43 32 12 03 05 16 36 45", f = "40 30 21 26|02 42",
  g = "42 47 38 18 07|43 32 12 03 05 16 36 45", h = "00 06|03 12 32 43 46", i = "22 26|20 20",
  j = "32 37 28 18|30 30", k = "00 06|42 04|14 46", l = "20 26", m = "02 06|03 12 23 26|23 32 43 46",
  n = "02 06|03 12 32 43 46", o = "12 32 43 45 36 16 05 03 12", p = "02 08|03 12 32 43 45 36 16 05",
  q = "42 48|43 32 12 03 05 16 36 45", r = "12 16|14 23 32 42", s = "43 32 12 03 14 34 45 36 16 05",
  t = "20 25 36 46|02 42", u = "02 05 16 36 45|42 46", v = "02 26 42", w = "02 16 23 36 42", x = "02 46|42 06",
  y = "02 26|42 18 08", z = "02 42 06 46",
  ["."] = "26 26", [","] = "26 17", [":"] = "23 23|26 26", [";"] = "23 23|26 17", ["-"] = "04 44",
  ["+"] = "22 26|04 44", ["_"] = "07 47", ["/"] = "40 06", ["\\"] = "00 46", ["("] = "30 21 25 36",
  [")"] = "10 21 25 16", ["["] = "30 10 17 37", ["]"] = "10 30 37 17", ["{"] = "30 21 22 14 25 26 37",
  ["}"] = "10 21 22 34 25 26 17", ["="] = "03 43|05 45", ["%"] = "40 06|01 01|45 45", ["#"] = "10 16|30 36|02 42|04 44",
  ["?"] = "01 10 30 41 42 23 24|26 26", ["!"] = "20 24|26 26", ["'"] = "20 21", ['"'] = "10 11|30 31",
  ["*"] = "21 25|12 34|32 14", ["&"] = "46 01 10 20 31 04 05 16 26 44", ["@"] = "36 16 05 01 10 30 41 44 24 22 42",
  ["<"] = "42 04 46", [">"] = "02 44 06", ["|"] = "20 27", ["~"] = "04 13 34 43", ["^"] = "02 20 42", ["`"] = "10 21",
  ["$"] = "41 30 10 01 02 13 33 44 45 36 16 05|20 26",
}

-- Of the size of a text, which is that of its line.
local unit_x, unit_y, advance, thickness = 0.105, 0.12, 0.63, 0.05

-- The strokes of a letter as segments { x1, y1, x2, y2 }, in pixels from its left end on its line.
local function segments_of(letter, size)
  local segments = {}
  for stroke in strokes[letter]:gmatch "[^|]+" do
    local x, y
    for column, row in stroke:gmatch "(%d)(%d)" do
      local next_x, next_y = tonumber(column) * unit_x * size, (tonumber(row) - 6) * unit_y * size
      if x then segments[#segments + 1] = { x, y, next_x, next_y } end
      x, y = next_x, next_y
    end
  end
  return segments
end

local function distance(segment, x, y)
  local x1, y1, dx, dy = segment[1], segment[2], segment[3] - segment[1], segment[4] - segment[2]
  local length = dx * dx + dy * dy
  local along = length > 0 and math.max(0, math.min(1, ((x - x1) * dx + (y - y1) * dy) / length)) or 0
  local away_x, away_y = x - x1 - along * dx, y - y1 - along * dy
  return math.sqrt(away_x * away_x + away_y * away_y)
end

-- How much of a pixel the strokes cover, from 0 to 1.
local function coverage(segments, x, y, half)
  local nearest = math.huge
  for _, segment in ipairs(segments) do nearest = math.min(nearest, distance(segment, x, y)) end
  return math.max(0, math.min(1, half + 0.5 - nearest))
end

-- The raster

local tones = 12 -- of a letter's colour on the paper

-- Rows of indices of colours. A colour gets its index when it is first used.
local function new_raster(width, height)
  local raster = { width = width, height = height, rows = {}, indices = {}, palette = {} }
  for y = 0, height - 1 do raster.rows[y] = {} end
  return raster
end

local function index_of(raster, color)
  local index = raster.indices[color]
  if not index then
    index = #raster.palette
    raster.indices[color] = index
    raster.palette[index + 1] = string.pack(">I3", color)
  end
  return index
end

local function fill(raster, item)
  local index = index_of(raster, item.color)
  for y = math.max(item.y, 0), math.min(item.y + item.height, raster.height) - 1 do
    local row = raster.rows[y]
    for x = math.max(item.x, 0) + 1, math.min(item.x + item.width, raster.width) do row[x] = index end
  end
end

local function blend(paper, color, share)
  local mixed = 0
  for shift = 16, 0, -8 do
    local from, to = paper >> shift & 255, color >> shift & 255
    mixed = mixed << 8 | math.floor(from + (to - from) * share + 0.5)
  end
  return mixed
end

local function draw_letter(raster, letter, left, item, paper)
  local segments, half = segments_of(letter, item.size), thickness * item.size
  for y = math.floor(item.y - item.size), math.ceil(item.y + item.size * 0.4) do
    local row = raster.rows[y]
    for x = math.floor(left) - 1, math.ceil(left + item.size * advance) do
      local share = coverage(segments, x + 0.5 - left, y + 0.5 - item.y, half)
      local tone = math.floor(share * tones + 0.5)
      if row and tone > 0 and x >= 0 and x < raster.width then
        row[x + 1] = index_of(raster, blend(paper, item.color, tone / tones))
      end
    end
  end
end

local shares = { start = 0, middle = 0.5, ["end"] = 1 }

-- A character without a letter here is a question mark.
local function draw_text(raster, item, paper)
  local words = item.text:gsub(utf8.len(item.text) and "[\xc2-\xf4][\x80-\xbf]*" or "[\x80-\xff]", "?")
  local step = item.size * advance
  local left = item.x - shares[item.anchor] * (#words * step - step / 4)
  for letter in words:gmatch "." do
    if letter ~= " " then draw_letter(raster, strokes[letter] and letter or "?", left, item, paper) end
    left = left + step
  end
end

local function pixels_of(raster)
  local lines = {}
  for y = 0, raster.height - 1 do lines[y + 1] = string.char(table.unpack(raster.rows[y], 1, raster.width)) end
  return table.concat(lines)
end

-- True; or nil and a sentence.
function png.save(drawing, path)
  local found, writer = pcall(require, "uffd.png")
  if not found then
    return nil, ("%s: this uffd-lua was built without libpng (Debian: libpng-dev). A name that ends in .svg works.")
      :format(path)
  end
  local raster = new_raster(drawing.width, drawing.height)
  fill(raster, { x = 0, y = 0, width = drawing.width, height = drawing.height, color = drawing.paper })
  for _, item in ipairs(drawing.items) do
    if item.text then draw_text(raster, item, drawing.paper) else fill(raster, item) end
  end
  return writer.write(path, raster.width, raster.height, table.concat(raster.palette), pixels_of(raster))
end

return png
