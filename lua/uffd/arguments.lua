-- The arguments of the runner's commands as a person types them, and the messages when they are wrong.
local arguments = {}

-- Converters of values. They return the value, or nil and what is expected.
function arguments.text(text) return text end

-- Decimal digits: Lua's own numbers, such as 1e3 and 0x10, are none of a person's.
local function digits_of(text)
  return text:find "^%d+$" and math.tointeger(tonumber(text)) or nil
end

local function how(text)
  return tonumber(text) and not text:find "^%-?%d+$" and ", in decimal digits" or ""
end

function arguments.integer(text)
  local number = digits_of(text)
  if number then return number end
  return nil, "an integer from 0 on" .. how(text)
end

function arguments.positive(text)
  local number = digits_of(text)
  if number and number > 0 then return number end
  return nil, "an integer from 1 on" .. how(text)
end

function arguments.range(low, high)
  return function(text)
    local number = digits_of(text:match "^%-?(.*)$")
    if number and text:sub(1, 1) == "-" then number = -number end
    if number and number >= low and number <= high then return number end
    return nil, ("an integer from %d to %d%s"):format(low, high, how(text))
  end
end

local times = { [""] = 1, ms = 1, s = 1000, min = 60000 }

function arguments.milliseconds(text)
  local digits, unit = text:match "^(%d+)(%l*)$"
  local number = digits and times[unit] and math.tointeger(tonumber(digits))
  if number and number > 0 and number <= 0xffffffff // times[unit] then return number * times[unit] end
  return nil, "a time, such as 500ms or 10s"
end

local units = { [""] = 1, K = 1 << 10, M = 1 << 20, G = 1 << 30, T = 1 << 40 }

function arguments.bytes(text)
  local digits, unit = text:match "^(%d+)([KMGT]?)i?B?$"
  local number = digits and math.tointeger(tonumber(digits))
  if number and number <= math.maxinteger // units[unit] then return number * units[unit] end
  return nil, 'bytes, such as 4096 or "64M"'
end

function arguments.choice(...)
  local choices = { ... }
  return function(text)
    for _, choice in ipairs(choices) do
      if choice == text then return text end
    end
    return nil, "one of " .. table.concat(choices, ", ")
  end
end

-- An option that may be given several times: its value is the list of them.
function arguments.several(convert)
  return { convert = convert }
end

-- Puts an option's value where it belongs; nil, and what is expected.
local function set(options, name, convert, value)
  if type(convert) ~= "table" then
    local converted, expected = convert(value)
    options[name] = converted
    return converted ~= nil, expected
  end
  local converted, expected = convert.convert(value)
  options[name] = options[name] or {}
  table.insert(options[name], converted)
  return converted ~= nil, expected
end

local function name_of(known, option)
  local name = option:match "^%-%-(.+)$" or known[option]
  if name and name:sub(1, 1) ~= "-" and known[name] then return name end
  return nil, ("'%s' is not an option"):format(option)
end

-- known: for each option its name, without dashes, to true (it takes no value), a converter, or several of a converter;
-- "-x" to the long name.
-- Options may stand among the words, "--" ends them, "-" is a word. Returns the options by name and the words; or nil
-- and a sentence.
function arguments.parse(known, ...)
  local given, options, words = { ... }, {}, {}
  local i = 1
  while i <= #given do
    local option, value = given[i], nil
    if option == "--" then
      table.move(given, i + 1, #given, #words + 1, words)
      break
    elseif option == "-" or option:sub(1, 1) ~= "-" then
      words[#words + 1] = option
    else
      if option:find "^%-%-[^=]+=" then option, value = option:match "^(.-)=(.*)$" end
      local name, message = name_of(known, option)
      if not name then return nil, message end
      local convert = known[name]
      if convert == true then
        if value then return nil, ("'%s' takes no value"):format(option) end
        options[name] = true
      else
        if not value then
          i = i + 1
          value = given[i]
          if not value then return nil, ("'%s' needs a value"):format(option) end
        end
        local done, expected = set(options, name, convert, value)
        if not done then return nil, ("'%s' takes %s, not '%s'"):format(option, expected, value) end
      end
    end
    i = i + 1
  end
  return options, words
end

local function complain(command, message)
  io.stdout:flush()
  io.stderr:write("uffd-lua ", command, ": ", message, "\n")
end

-- For wrong usage, and for a run that failed: each prints its message and returns the exit code.
function arguments.refuse(command, message, usage)
  complain(command, message)
  io.stderr:write("usage: uffd-lua ", usage, "; uffd-lua ", command, " --help tells more\n")
  return 2
end

function arguments.fail(command, message)
  complain(command, message)
  return 1
end

return arguments
