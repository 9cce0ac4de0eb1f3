# libcurl and libnbd are loaded when they are needed: where one cannot be, a sentence names its package.
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
$ echo none > libcurl.so.4; echo none > libnbd.so.0
$ LD_LIBRARY_PATH=$PWD uffd-lua image info http://127.0.0.1:9/x.img
uffd-lua image info: Cannot open http://127.0.0.1:9/x.img: * (Debian: libcurl4*).
[1]
$ LD_LIBRARY_PATH=$PWD uffd-lua image info s3://bucket/x.img
uffd-lua image info: Cannot open s3://bucket/x.img: * (Debian: libcurl4*).
[1]
$ LD_LIBRARY_PATH=$PWD uffd-lua image info nbd://127.0.0.1:9/x
uffd-lua image info: Cannot open nbd://127.0.0.1:9/x: * (Debian: libnbd*).
[1]

# Nothing else needs them.
$ printf x > x.img; LD_LIBRARY_PATH=$PWD uffd-lua image info x.img | head -1
image: 1 byte*
