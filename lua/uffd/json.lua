-- Writing JSON, for the runner's and the examples' --json. Reading it is left to a library.
local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quote(text)
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

return { encode = encode }
