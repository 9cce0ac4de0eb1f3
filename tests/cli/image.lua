-- Writes a file of pages: image.lua FILE BYTE..., each page of that byte; "-" is a hole.
local file <close> = assert(io.open(arg[1], "w+b"))
for i = 2, #arg do
  file:seek("set", (i - 2) * 4096)
  if arg[i] ~= "-" then file:write(string.char(arg[i]):rep(4096)) end
end
