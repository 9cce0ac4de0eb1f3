# Sourced by tests/run and examples/run: installs with apt-get what is missing on a Debian 12, if root runs it.

# Building, and running programs
packages_build="cmake ninja-build gcc libc6-dev pkg-config libjansson-dev libzstd-dev libxxhash-dev libpng-dev liblua5.4-dev lua5.4"
# The tests beside: Lua tests, installation, lint
packages_tests="lua-unit lua-dkjson lua-socket lua-cqueues lua-luv luarocks make g++ git clang libclang-rt-14-dev clang-format clang-tidy lua-check zstd qemu-utils libcurl4-openssl-dev libnbd-dev nbdkit nginx-light openssl"
# Virtual machines; their kernels are downloaded and unpacked by the tests themselves
packages_real="qemu-system-x86 busybox-static lz4"

missing_packages() { # packages
  for package; do
    dpkg-query -W -f '${Status}\n' "$package" 2> /dev/null | grep -q 'ok installed' || printf '%s ' "$package"
  done
}

install_packages() { # packages
  command -v dpkg-query > /dev/null || return 0
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" != 0 ]; then
    echo "missing packages, to be installed by root: apt-get install $missing" >&2
    return 0
  fi
  echo "installing: $missing" >&2
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  apt-get update -q >&2 && apt-get install -y -q --no-install-recommends $missing >&2
}

# A build directory that was configured at another place, or left half-way, is of no use.
drop_stale_build() { # source build
  cache=$2/CMakeCache.txt
  if [ -d "$2" ] && { [ ! -f "$cache" ] || ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$1" "$cache" ||
    ! grep -qxF "CMAKE_CACHEFILE_DIR:INTERNAL=$2" "$cache"; }; then
    rm -rf "$2"
  fi
}

build_preset() { # source preset build target
  drop_stale_build "$1" "$3"
  if [ ! -d "$3" ] && command -v ninja > /dev/null; then export CMAKE_GENERATOR=Ninja; else unset CMAKE_GENERATOR; fi
  (cd "$1" && cmake --preset "$2" && cmake --build --preset "$2" --parallel "$(nproc)" --target "$4")
}
