-- JSON for the runner's commands and the examples: writing it, and reading the replies of a pager's control socket.
local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

-- A text that is no UTF-8 (a path may be any bytes): each byte that is in the way becomes U+FFFD.
local function repair(text)
  local parts, at = {}, 1
  while at <= #text do
    local _, wrong = utf8.len(text, at)
    if not wrong then break end
    parts[#parts + 1] = text:sub(at, wrong - 1) .. "\u{FFFD}"
    at = wrong + 1
  end
  return table.concat(parts) .. text:sub(at)
end

local function quote(text)
  if not utf8.len(text) then text = repair(text) end
  return '"' .. text:gsub('[%c"\\]', function(c) return escapes[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

local encode

local function encode_list(list)
  local items = {}
  for i, item in ipairs(list) do items[i] = encode(item) end
  return "[" .. table.concat(items, ",") .. "]"
end

local function encode_object(fields)
  local members = {}
  for i, field in ipairs(fields) do members[i] = quote(field[1]) .. ":" .. encode(field[2]) end
  return "{" .. table.concat(members, ",") .. "}"
end

-- { object = { { name, value }, ... } } is an object that keeps its order, any other table is a list.
function encode(value)
  local kind = math.type(value) or type(value)
  if kind == "table" then return value.object and encode_object(value.object) or encode_list(value) end
  if kind == "string" then return quote(value) end
  if kind == "integer" or kind == "boolean" then return tostring(value) end
  if kind == "float" and value == value and math.abs(value) < math.huge then
    return (("%.17g"):format(value):gsub(",", ".")) -- whatever the locale
  end
  return "null"
end

-- Reading

local read

local names = { ["true"] = true, ["false"] = false }
local unescapes = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function read_string(text, at)
  local parts = {}
  while true do
    local plain, stop = text:match('^([^"\\%c]*)()', at)
    parts[#parts + 1] = plain
    local c = text:sub(stop, stop)
    if c == '"' then return table.concat(parts), stop + 1 end
    local escape, hex = text:match("^\\(.)", stop), text:match("^\\u(%x%x%x%x)", stop)
    if not escape or (escape == "u" and not hex) then error("a string that does not end", 0) end
    parts[#parts + 1] = hex and utf8.char(tonumber(hex, 16)) or unescapes[escape] or escape
    at = stop + (hex and 6 or 2)
  end
end

local function read_members(text, at, close, add)
  at = text:match("^%s*()", at)
  if text:sub(at, at) == close then return at + 1 end
  while true do
    at = text:match("^%s*()", add(at))
    local c = text:sub(at, at)
    if c == close then return at + 1 end
    if c ~= "," then error(("',' or '%s' expected at byte %d"):format(close, at), 0) end
    at = at + 1
  end
end

local function read_object(text, at)
  local object = {}
  return object, read_members(text, at, "}", function(place)
    local key, value
    place = text:match('^%s*"()', place) or error(("a name expected at byte %d"):format(place), 0)
    key, place = read_string(text, place)
    place = text:match("^%s*:()", place) or error(("':' expected at byte %d"):format(place), 0)
    value, place = read(text, place)
    object[key] = value
    return place
  end)
end

local function read_list(text, at)
  local list = {}
  return list, read_members(text, at, "]", function(place)
    list[#list + 1], place = read(text, place)
    return place
  end)
end

-- Reads the value that begins at a byte; returns it and the byte after it. null is nil.
function read(text, at)
  at = text:match("^%s*()", at)
  local c = text:sub(at, at)
  if c == '"' then return read_string(text, at + 1) end
  if c == "{" then return read_object(text, at + 1) end
  if c == "[" then return read_list(text, at + 1) end
  local word, stop = text:match("^([%w+.-]+)()", at)
  if word == "null" or names[word or ""] ~= nil then return names[word], stop end
  local number = word and word:find "^-?%d" and not word:find "[xX]" and tonumber(word)
  if not number then error(("a value expected at byte %d"):format(at), 0) end
  return number, stop
end

-- The value of a text; or nil and what is wrong with the text. Surrogate pairs are not joined.
local function decode(text)
  local ok, value, stop = pcall(read, text, 1)
  if not ok then return nil, value end
  if text:find("%S", stop) then return nil, ("something follows at byte %d"):format(stop) end
  return value
end

return { encode = encode, decode = decode }
