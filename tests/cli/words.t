# A command's word, its arguments as they stand, and how a script of that name is run all the same.
$ echo 'print("a script of that name", ...)' > ws
$ uffd-lua ws --help
usage: uffd-lua ws *
...
$ uffd-lua ./ws a
a script of that name	a
$ uffd-lua -- ws a
a script of that name	a
$ uffd-lua -e 'print(arg[0], arg[1])' ws --help
ws	--help
usage: *
...
$ uffd-lua ws
uffd-lua ws: *
usage: uffd-lua ws *; uffd-lua ws --help tells more
[2]
$ uffd-lua ws ponder
uffd-lua ws: 'ponder' is none of its verbs
usage: *
[2]
