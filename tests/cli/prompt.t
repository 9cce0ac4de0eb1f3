# The prompt, from a pipe.
$ printf '1 + 1\n= 2 + 2\nx =\n3\nx\nnil\n' | uffd-lua -i
uffd-lua *
> 2
> 4
> >> > 3
> nil
>
$ printf 'for i = 1, 2 do\nprint(i)\nend\nlocal a <const> = 3; print(a)\n' | uffd-lua -i
uffd-lua *
> >> >> 1
2
> 3
>
# Errors are told without the program's name, and the prompt comes back.
$ printf 'error("a", 0)\nx x\n5\n' | uffd-lua -i
uffd-lua *
> a
stack traceback:
	[C]: in function 'error'
	stdin:1: in main chunk
	[C]: in ?
> stdin:1: syntax error near 'x'
> 5
>
$ printf 'return 1, 2\nprint()\n\nprint = nil\n5\n' | uffd-lua -i
uffd-lua *
> 1	2
>
> > > error calling 'print' (attempt to call a nil value)
>
$ printf '_PROMPT = "? "; _PROMPT2 = "... "\nx = {\n}\n' | uffd-lua -i
uffd-lua *
> ? ... ?
# The end of input in the middle of a statement.
$ printf 'x = (\n' | uffd-lua -i
uffd-lua *
> >> stdin:1: unexpected symbol near <eof>
>
# After a script, with its variables.
$ echo 'five = 5' > set.lua; printf 'five\n' | uffd-lua -i set.lua
uffd-lua *
> 5
>
# A line longer than any buffer.
$ uffd-lua -e 'print("= #\"" .. ("x"):rep(100000) .. "\"")' | uffd-lua -i
uffd-lua *
> 100000
>

# On a terminal, lines are edited and remembered, where a line editor is built in. Readline, unlike libedit, brackets what is
# pasted (ESC [ ? 2004).
? ldd "$BUILD/bin/uffd-lua" | grep -qE 'libedit|libreadline' || { echo "built without a line editor"; exit 1; }
? command -v script > /dev/null || { echo "script is not installed (Debian: bsdutils)"; exit 1; }
$ { printf '40 + 2\n'; printf '\033[A\n'; } | TERM=xterm script -qec 'uffd-lua -i' /dev/null | tr -d '\r' | sed 's/\x1b\[?2004[hl]//g' | grep -c '^42$'
2
