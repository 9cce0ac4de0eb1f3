# Wrong usage: one sentence, one line of usage, exit code 2, nothing run.
$ uffd-lua -e 'print "not run"' -x
uffd-lua: '-x' is not an option
usage: uffd-lua [options] [script [args]]; uffd-lua --help tells more
[2]
$ uffd-lua -e
uffd-lua: '-e' needs an argument
usage: *
[2]
$ uffd-lua -e -v
uffd-lua: '-e' needs an argument
usage: *
[2]
$ uffd-lua -l
uffd-lua: '-l' needs an argument
usage: *
[2]
$ uffd-lua -vx
uffd-lua: '-vx' is not an option
usage: *
[2]
$ uffd-lua ---
uffd-lua: '---' is not an option
usage: *
[2]
$ uffd-lua --infos
uffd-lua: '--infos' is not an option
usage: *
[2]
$ uffd-lua --info=xml
uffd-lua: '--info=xml' is not a value of this option
usage: *
[2]
$ uffd-lua --check=x
uffd-lua: '--check=x' is not a value of this option
usage: *
[2]
$ uffd-lua --check
uffd-lua: '--check' needs a script
usage: *
[2]
$ uffd-lua --info --version
uffd-lua: '--version' cannot stand beside another command
usage: *
[2]
