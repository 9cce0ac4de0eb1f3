# --info, for a person and as one JSON object for a program; info.lua checks that object field by field.
? uffd-lua -e 'require "dkjson"' >/dev/null 2>&1 || { echo "the package lua-dkjson is not installed"; exit 1; }
$ uffd-lua --info=json > info.json; code=$?; wc -l < info.json; uffd-lua $TESTS/info.lua info.json $code
1
every field is as it should be
$ uffd-lua --info > info.txt; test $? = 0 -o $? = 77 && cat info.txt
uffd            *.*.*
kernel          *
userfaultfd     *
engine          *
fork events     *
features        *
...
missing         *
...
page size       * bytes
huge pages      *
...
# The same without the environment, and where LUA_INIT would speak.
$ env -i "$BUILD/bin/uffd-lua" --info=json | cmp - info.json
$ LUA_INIT='print "init"' uffd-lua -E --info=json | cmp - info.json
