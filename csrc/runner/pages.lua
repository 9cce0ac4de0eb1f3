-- Makes the man pages and the completions: uffd-lua pages.lua DATE DIRECTORY EXAMPLES HEADER...
-- Section 1 and the completions come from what uffd-lua and its commands print with --help. Section 3 comes from the
-- comments of the headers. EXAMPLES holds the examples of each command. So nothing is written twice.
local date, directory, examples_path = arg[1], arg[2], arg[3]
local program = require("uffd.core").program()
local version = require("uffd").version

local function write(path, text)
  local file = assert(io.open(directory .. "/" .. path, "w"))
  assert(file:write(text))
  assert(file:close())
end

local function read(path)
  local file = assert(io.open(path))
  local text = assert(file:read "a")
  file:close()
  return text
end

local function help_of(command)
  local pipe = assert(io.popen(("'%s' %s --help"):format(program, command)))
  local text = pipe:read "a"
  assert(pipe:close(), command .. " --help failed")
  return text
end

-- Text for the man macros: a backslash, a minus that is typed, and what would be a request at the start of a line.
local function escape(text)
  return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("^([.'])", "\\&%1"))
end

-- Help is lines: "usage: ...", prose that starts at the margin, and items: "  TERM  text", continued further in.
local function parse_help(text)
  local help = { usage = {}, blocks = {} }
  local item, column
  for line in text:gmatch "([^\n]*)\n?" do
    local indent, term, gap, rest = line:match "^( +)(%S.-)(  +)(%S.*)$"
    local previous = help.blocks[#help.blocks]
    if line == "" then
      item = nil
    elseif line:find "^usage: " or (#help.blocks == 0 and line:find "^       %S") then
      help.usage[#help.usage + 1] = line:gsub("^usage: ", ""):gsub("^ +", "")
    elseif item and #line:match "^ *" >= column - 1 then
      item.text = item.text .. " " .. line:gsub("^ +", "")
    elseif indent then
      item = { term = term, text = rest }
      column = #indent + #term + #gap + 1
      help.blocks[#help.blocks + 1] = item
    elseif previous and not previous.term then
      previous.text = previous.text .. " " .. line:gsub("^ +", "")
    else
      item = nil
      help.blocks[#help.blocks + 1] = { text = (line:gsub("^ +", "")) }
    end
    if not item and line:find "^exit codes: " and help.blocks[#help.blocks].text ~= line then
      local block = help.blocks[#help.blocks]
      block.text = block.text:sub(1, #block.text - #line - 1)
      help.blocks[#help.blocks + 1] = { text = line }
    end
  end
  return help
end

-- EXAMPLES is "[command]" lines, prose, and indented lines, which are shown as they stand.
local function read_examples()
  local examples, command = {}, nil
  for line in io.lines(examples_path) do
    local name = line:match "^%[(.*)%]$"
    if name then
      command = name
      examples[command] = {}
    elseif line ~= "" then
      table.insert(examples[command], line)
    end
  end
  return examples
end

local Page = {}
Page.__index = Page

local function new_page(name, section, summary)
  local page = setmetatable({ lines = {}, fresh = true }, Page)
  page:add(('.TH %s %d %s "uffd %s" "uffd"'):format(escape(name:upper()), section, date, version))
  page:section "NAME"
  page:add(escape(name) .. " \\- " .. escape(summary))
  return page
end

function Page:add(line)
  self.lines[#self.lines + 1] = line
  self.fresh = false
end

-- Text that is filled: lines of a width that an editor shows.
function Page:fill(text)
  local line = ""
  for word in text:gmatch "%S+" do
    if line ~= "" and #line + #word > 70 then
      self:add(escape(line))
      line = ""
    end
    line = line == "" and word or line .. " " .. word
  end
  self:add(escape(line))
end

function Page:section(name)
  self:add(".SH " .. name:upper())
  self.fresh = true
end

function Page:paragraph(text)
  if not self.fresh then self:add ".PP" end
  self:fill(text)
end

function Page:item(term, text)
  self:add ".TP"
  self:add(("\\fB%s\\fR"):format(escape(term)))
  self:fill(text)
end

-- Lines as they stand.
function Page:verbatim(lines)
  if not self.fresh then self:add ".PP" end
  self:add ".nf"
  for _, line in ipairs(lines) do self:add(line == "" and "\\&" or escape(line)) end
  self:add ".fi"
end

function Page:write(path)
  write(path, table.concat(self.lines, "\n") .. "\n")
end

local function add_examples(page, list)
  if not list then return end
  page:section "EXAMPLES"
  local i = 1
  while i <= #list do
    local shown = {}
    while list[i] and list[i]:find "^  " do
      shown[#shown + 1] = list[i]
      i = i + 1
    end
    if #shown > 0 then page:verbatim(shown) end
    if list[i] then page:paragraph(list[i]) end
    i = i + 1
  end
end

local function add_references(page, own, names)
  page:section "SEE ALSO"
  local list = {}
  for _, name in ipairs(names) do
    if name[1] ~= own then list[#list + 1] = (".BR %s (%d)"):format(escape(name[1]), name[2]) end
  end
  page:add(table.concat(list, " ,\n"))
end

local function write_command(name, summary, help, examples, references)
  local page = new_page(name, 1, summary)
  page:section "SYNOPSIS"
  page:verbatim(help.usage)
  page:section "DESCRIPTION"
  for _, block in ipairs(help.blocks) do
    local codes = not block.term and block.text:match "^exit codes: (.*)$"
    if codes then
      page:section "EXIT STATUS"
      page:paragraph(codes .. ".")
    elseif block.term then
      page:item(block.term, block.text)
    else
      page:paragraph(block.text)
    end
  end
  add_examples(page, examples)
  add_references(page, name, references)
  page:write(("man/man1/%s.1"):format(name))
end

-- ("--socket PATH", "-o OUT") to the word itself and whether a value follows; a bare word is a verb.
local function words_of(help)
  local options, verbs, seen = {}, {}, {}
  for _, block in ipairs(help.blocks) do
    local option = block.term and block.term:match "^%-[%w%-]+"
    if option and not seen[option] then -- verbs may have an option in common
      seen[option] = true
      options[#options + 1] = { option, block.text }
    else
      local verb = block.term and block.term:match "^%l+%f[ \0]"
      if verb then verbs[#verbs + 1] = { verb, block.text } end
    end
  end
  return options, verbs
end

local function join(list)
  local words = {}
  for i, entry in ipairs(list) do words[i] = entry[1] end
  return table.concat(words, " ")
end

local function write_bash(main, commands)
  local cases = {}
  for _, command in ipairs(commands) do
    local options, verbs = words_of(command.help)
    cases[#cases + 1] = ("    %s) options='%s' verbs='%s' ;;"):format(command.name, join(options), join(verbs))
  end
  local options, names = words_of(main)
  write("bash-completion/completions/uffd-lua", ([[
# bash completion of uffd-lua: options, commands, their options and verbs; else files.
_uffd_lua() {
  local word=${COMP_WORDS[COMP_CWORD]} options='%s' verbs='%s' command=
  if [ "$COMP_CWORD" -gt 1 ]; then command=${COMP_WORDS[1]} verbs=; fi
  case $command in
%s
    -*|'') ;;
    *) options= ;; # the arguments of a script
  esac
  case $word in
    -*) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$word"; compgen -f -- "$word") ;;
  esac
}
complete -o filenames -F _uffd_lua uffd-lua
]]):format(join(options), join(names), table.concat(cases, "\n")))
end

local function described(list)
  local lines = {}
  for i, entry in ipairs(list) do
    local text = entry[2]:gsub("'", "’")
    lines[i] = ("'%s:%s'"):format(entry[1], text)
  end
  return table.concat(lines, " \\\n      ")
end

local function write_zsh(main, commands)
  local cases = {}
  for _, command in ipairs(commands) do
    local options, verbs = words_of(command.help)
    cases[#cases + 1] = ("    %s)\n      options=(%s)\n      verbs=(%s) ;;"):format(command.name, described(options),
      described(verbs))
  end
  local options, names = words_of(main)
  write("zsh/site-functions/_uffd-lua", ([=[
#compdef uffd-lua
# zsh completion of uffd-lua: options, commands, their options and verbs; else files.
local -a options verbs
options=(%s)
verbs=(%s)
if (( CURRENT > 2 )); then
  verbs=()
  case $words[2] in
%s
    -*) ;;
    *) options=() ;; # the arguments of a script
  esac
fi
if [[ $PREFIX == -* ]]; then
  _describe option options
else
  _describe command verbs
  _files
fi
]=]):format(described(options), described(names), table.concat(cases, "\n")))
end

-- A header is read into its head comment and its groups; an entry is a comment with the declarations right below it.
local function parse_header(path)
  local header = { groups = {} }
  local group, entry, comment
  local function open_entry()
    entry = { text = {}, code = {}, names = {} }
    if group then group[#group + 1] = entry end
    return entry.text
  end
  local function add_code(line)
    if not entry then open_entry() end
    local name = line:match "^UFFD_EXPORT.-([%w_]+)%("
    if name then entry.names[#entry.names + 1] = name end
    entry.code[#entry.code + 1] = (line:gsub("^UFFD_EXPORT ", ""):gsub("%s+\\$", " \\"))
  end
  for line in (read(path) .. "\n"):gmatch "([^\n]*)\n" do
    local title, only = line:match "^/%* Group: (.-) %*/$", line:match "^/%* ?(.-) ?%*/$"
    if title then
      group, entry = { name = title }, nil
      header.groups[#header.groups + 1] = group
    elseif comment then
      local text, ends = line:gsub("^ %* ?", ""):gsub("%s*%*/.*$", "")
      if text:find "^/" then text, ends = "", 1 end
      if ends == 0 or text ~= "" then comment[#comment + 1] = text end
      if ends > 0 then comment = nil end
    elseif only then
      open_entry()[1] = only
    elseif line:find "^/%*" then
      comment = open_entry()
      header.head = header.head or comment
      if line:find "^/%* %S" then comment[1] = line:gsub("^/%* ?", "") end
    elseif line == "" or line:find "^#[ie]" or line:find "^extern" or line == "}" or not group and line:find "^#" then
      entry = nil
    else
      if not group then
        group = { name = "functions" }
        header.groups[1] = group
      end
      add_code(line)
    end
  end
  return header
end

-- The text of a comment: paragraphs, and lists whose lines are set in: "  TERM  text".
local function add_comment(page, lines)
  local paragraph, item
  local function flush()
    if paragraph then page:paragraph(paragraph) end
    if item then page:item(item.term, item.text) end
    paragraph, item = nil, nil
  end
  for _, line in ipairs(lines) do
    local term, text = line:match "^ ? ?(%-E%u+[%u, %-]-)  +(%S.*)$"
    if not term then term, text = line:match "^(%u%l+)    *(%S.*)$" end
    if term then
      flush()
      item = { term = term, text = text }
    elseif line == "" then
      flush()
    elseif item and line:find "^  " then
      item.text = item.text .. " " .. line:gsub("^ +", "")
    elseif line:find "^  " then
      flush()
      page:verbatim { line }
    else
      if item then flush() end
      paragraph = paragraph and paragraph .. " " .. line or line
    end
  end
  flush()
end

local function write_header(path, references)
  local header = parse_header(path)
  local file = path:match "[^/]+$"
  local name = file:gsub("%.h$", ""):gsub("_", "-")
  local summary = header.head[1]:gsub("^[%w_%-]+: ", ""):gsub("%.$", "")
  local page = new_page(name, 3, summary)
  page:section "SYNOPSIS"
  page:verbatim { "#include <" .. file .. ">", "", ("cc ... $(pkg-config --cflags --libs %s)"):format(name) }
  page:section "DESCRIPTION"
  add_comment(page, { table.unpack(header.head, 2) })
  for _, group in ipairs(header.groups) do
    page:section(group.name)
    for _, entry in ipairs(group) do
      if #entry.code > 0 then page:verbatim(entry.code) end
      if #entry.text > 0 and #entry.code > 0 then
        page:add ".RS"
        page.fresh = true
        add_comment(page, entry.text)
        page:add ".RE"
      else
        add_comment(page, entry.text)
      end
      for _, function_name in ipairs(entry.names) do
        write(("man/man3/%s.3"):format(function_name), (".so man3/%s.3\n"):format(name))
      end
    end
  end
  add_references(page, name, references)
  page:write(("man/man3/%s.3"):format(name))
end

local main = parse_help(help_of "")
local examples = read_examples()
local commands, references = {}, { { "uffd-lua", 1 } }
local _, names = words_of(main)
for _, entry in ipairs(names) do
  commands[#commands + 1] = { name = entry[1], summary = entry[2], help = parse_help(help_of(entry[1])) }
  references[#references + 1] = { "uffd-lua-" .. entry[1], 1 }
end
for i = 4, #arg do
  references[#references + 1] = { arg[i]:match("[^/]+$"):gsub("%.h$", ""):gsub("_", "-"), 3 }
end
write_command("uffd-lua", "Lua with userfaultfd built in", main, examples["uffd-lua"], references)
for _, command in ipairs(commands) do
  write_command("uffd-lua-" .. command.name, command.summary, command.help, examples[command.name], references)
end
write_bash(main, commands)
write_zsh(main, commands)
for i = 4, #arg do write_header(arg[i], references) end
