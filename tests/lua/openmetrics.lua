-- A check of OpenMetrics text 1.0, as strict as the specification is about what a pager says: the order of a family's
-- lines, names, suffixes, labels, numbers, buckets, the end. parse(text): the samples by "name{labels}", or it raises.
local suffixes = {
  counter = { _total = true }, gauge = { [""] = true }, info = { _info = true },
  histogram = { _bucket = true, _count = true, _sum = true },
}

local function check(ok, line, why)
  if not ok then error(("line %q: %s"):format(line, why), 0) end
end

local function labels_of(line, text)
  local labels, at = {}, 1
  if text == "" then return labels end
  while true do
    local name, stop = text:match('^([%a_][%w_]*)="()', at)
    check(name and not labels[name], line, "a label, once")
    local value = ""
    while true do
      local plain, after = text:match('^([^\\"\n]*)()', stop)
      value = value .. plain
      local c = text:sub(after, after)
      stop = after + 1
      if c == '"' then break end
      check(c == "\\" and text:find('^[\\"n]', stop), line, "only \\\\, \\\" and \\n are escapes")
      value, stop = value .. text:sub(stop, stop), stop + 1
    end
    labels[name] = value
    if stop > #text then return labels end
    check(text:sub(stop, stop) == ",", line, "a comma between labels")
    at = stop + 1
  end
end

local function check_buckets(family)
  local last, bound = -1, -math.huge
  for _, bucket in ipairs(family.buckets) do
    local le = bucket.le == "+Inf" and math.huge or tonumber(bucket.le)
    check(le and le > bound and bucket.value >= last, family.name, "buckets grow")
    last, bound = bucket.value, le
  end
  check(bound == math.huge and last == family.count and family.sum, family.name, "a bucket +Inf, which is the count")
end

local function begin(families, line)
  local word, name, rest = line:match "^# (%u+) ([%a_:][%w_:]*) (.+)$"
  check(word, line, "a comment is TYPE, UNIT or HELP of a family")
  local family = families[#families]
  if word == "TYPE" then
    check(suffixes[rest] and not families[name], line, "a known type, each family once")
    family = { name = name, type = rest, buckets = {} }
    families[#families + 1], families[name] = family, family
    return
  end
  check(family and family.name == name and not family.sampled, line, "it belongs to the family before it")
  if word == "UNIT" then check(name:sub(-#rest - 1) == "_" .. rest, line, "the name ends in its unit") end
  if word == "HELP" then family.help = rest end
  check(word == "UNIT" or word == "HELP", line, "TYPE, UNIT, HELP")
end

local function sample(families, samples, line)
  local name, labels, value = line:match "^([%a_:][%w_:]*)(%b{}) (%S+)$"
  if not name then name, value = line:match "^([%a_:][%w_:]*) (%S+)$" end
  local family = families[#families]
  check(name and family and name:sub(1, #family.name) == family.name, line, "a sample of the family before it")
  local suffix, number = name:sub(#family.name + 1), tonumber(value)
  check(suffixes[family.type][suffix], line, "not a suffix of its type")
  check(number and (family.type == "gauge" or number >= 0), line, "a number")
  local key = name .. (labels or "")
  check(not samples[key] and family.help, line, "each sample once, after its help")
  local set = labels_of(line, (labels or "{}"):sub(2, -2))
  if suffix == "_bucket" then family.buckets[#family.buckets + 1] = { le = set.le, value = number } end
  if suffix == "_count" then family.count = number end
  if suffix == "_sum" then family.sum = number end
  if suffix == "_info" then check(number == 1, line, "an info is 1") end
  samples[key], family.sampled = number, true
end

local function parse(text)
  local families, samples, over = {}, {}, false
  check(utf8.len(text), "", "UTF-8")
  check(text:sub(-1) == "\n", "", "the last line ends")
  for line in text:gmatch "([^\n]*)\n" do
    check(not over, line, "nothing follows # EOF")
    if line == "# EOF" then
      over = true
    elseif line:sub(1, 1) == "#" then
      begin(families, line)
    else
      sample(families, samples, line)
    end
  end
  check(over, "", "it ends with # EOF")
  for _, family in ipairs(families) do
    if family.type == "histogram" then check_buckets(family) end
  end
  return samples, families
end

return { parse = parse }
