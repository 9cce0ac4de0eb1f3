-- JSON as the runner writes it and reads it.
local lu = require "luaunit"
local json = require "uffd.json"

local tests = {}

function tests.test_reads_what_it_writes()
  local text = json.encode { object = {
    { "text", 'a "quoted"\n\tline\\ \1' }, { "integer", -5 }, { "float", 0.25 }, { "yes", true }, { "no", false },
    { "list", { 1, { object = { { "deep", {} } } } } },
  } }
  local value = assert(json.decode(text))
  lu.assertEquals(value, { text = 'a "quoted"\n\tline\\ \1', integer = -5, float = 0.25, yes = true, no = false,
    list = { 1, { deep = {} } } })
  lu.assertEquals(math.type(value.integer), "integer")
end

-- A path may be any bytes, and JSON is UTF-8.
function tests.test_what_is_written_is_utf8()
  for text, written in pairs {
    ["Aä\u{1F600}"] = "Aä\u{1F600}", ["\xff"] = "\u{FFFD}", ["a\xc3"] = "a\u{FFFD}", ["\xc3("] = "\u{FFFD}(",
    ["\xed\xa0\x80x"] = "\u{FFFD}\u{FFFD}\u{FFFD}x",
    ["\xf4\x90\x80\x80"] = ("\u{FFFD}"):rep(4), ["\x80\x80b"] = "\u{FFFD}\u{FFFD}b",
  } do
    local encoded = json.encode(text)
    lu.assertNotNil(utf8.len(encoded))
    lu.assertEquals(encoded, '"' .. written .. '"')
  end
end

function tests.test_reads_all_forms()
  lu.assertEquals(json.decode ' [ 1 , -2.5e2 , "\\u0041\\u00e4\\/\\b" , null , { } ] ', { 1, -250.0, "Aä/\b", {} })
  lu.assertEquals(json.decode "9007199254740993", 9007199254740993)
  lu.assertIs(json.decode "true", true)
end

function tests.test_refuses_the_rest()
  for _, text in ipairs {
    "", "{", "[", "[1", "[1,]", "[1 2]", "{1:2}", '{"a"}', '{"a":}', '{"a":1,}', '"open', '"\\u12"', "tru", "nil",
    "0x10", "1 2", "-", "'a'",
  } do
    local value, message = json.decode(text)
    lu.assertNil(value, text)
    lu.assertIsString(message, text)
  end
end

return tests
