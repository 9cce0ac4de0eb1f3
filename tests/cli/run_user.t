# uffd-lua run without privileges.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? [ "$(id -u)" = 0 ] || { echo "only root can become another user"; exit 1; }
? command -v setpriv
? [ -c /dev/userfaultfd ] || { echo "there is no /dev/userfaultfd"; exit 1; }

# Without CAP_SYS_PTRACE the kernel tells nothing of forks: a child does not have the memory, which is better than zeros.
$ vmm --make 4194304 --image image
$ setpriv --bounding-set -sys_ptrace uffd-lua run --watchdog 600000 --image image --memory size=4M -- mapper map=anonymous,4194304 check=image fork check=image
uffd-preload: process * hands over 4194304 bytes in 1 mapping; forked children do not have them, which takes the capability sys_ptrace
pages 1024 wrong 0
[139]

# Another user: a set-uid program ignores what is to be preloaded.
? chmod 755 . && setpriv --reuid=65534 --regid=65534 --clear-groups uffd-lua -e 'os.exit(true)' || { echo "the build directory is not everybody's"; exit 1; }
$ cp "$(command -v mapper)" privileged && chmod u+s privileged
$ setpriv --reuid=65534 --regid=65534 --clear-groups uffd-lua run --door door --memory size=4M -- ./privileged map=anonymous,4194304
uffd-lua run: ./privileged runs with other rights than yours (set-uid, set-gid or file capabilities), so the system ignores LD_PRELOAD: *
[1]
$ uffd-lua run --door door --memory size=4M -- ./privileged map=anonymous,4194304
uffd-preload: Nobody listens at *
[1]
