std = "lua54"
max_line_length = 120
files["examples/first.lua"] = { ignore = { "212/fault" } } -- shows what a policy is given
