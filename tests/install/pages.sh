#!/bin/sh
# pages.sh BUILD_DIR SOURCE_DIR [mandoc] [zsh]: every option of --help is in the man page of its command and in both
# completions, every function of the headers in the pages of section 3; what reads man pages and completions accepts them.
set -eu
build=$1 source=$2
pages=$build/pages
program=$build/bin/uffd-lua

fail() {
  echo "$1"
  exit 1
}

# A page as text, without what only formats it.
plain() {
  sed -e 's/\\-/-/g' -e 's/\\e/\\/g' -e 's/\\&//g' -e 's/\\fB//g' -e 's/\\fR//g' "$1"
}

commands=$("$program" --help | sed -n '/^The commands/,/^exit/s/^  \([a-z]*\) .*/\1/p')
[ -n "$commands" ] || fail "--help names no command"
for command in "" $commands; do
  page=$pages/man/man1/uffd-lua${command:+-$command}.1
  [ -s "$page" ] || fail "$command has no man page"
  # shellcheck disable=SC2086
  for option in $("$program" $command --help | grep -oE -- '(^|[^-a-z])--[a-z][a-z-]*' | grep -oE -- '--[a-z-]*' | sort -u); do
    plain "$page" | grep -q -- "$option" || fail "$page lacks $option"
  done
  # shellcheck disable=SC2086
  for option in $("$program" $command --help | sed -n 's/^ *\(--[a-z-]*\).*/\1/p' | sort -u); do
    grep -q -- "[' ]$option[' ]" "$pages/bash-completion/completions/uffd-lua" || fail "bash does not complete $option"
    grep -q -- "'$option:" "$pages/zsh/site-functions/_uffd-lua" || fail "zsh does not complete $option"
  done
done
for header in uffd uffd_pager; do
  page=$pages/man/man3/$(echo $header | tr _ -).3
  for name in $(sed -n 's/^UFFD_EXPORT.*[ *]\(uffd_[a-z_0-9]*\)(.*/\1/p' "$source/include/$header.h"); do
    plain "$page" | grep -q "$name(" || fail "$page lacks $name"
    [ -s "$pages/man/man3/$name.3" ] || fail "$name has no man page"
  done
done
grep -q 'EXAMPLES' "$pages/man/man1/uffd-lua-serve.1" || fail "serve has no examples"

bash -n "$pages/bash-completion/completions/uffd-lua"
# shellcheck disable=SC2016
completed=$(bash -c '. "$1"; COMP_WORDS=(uffd-lua serve --so); COMP_CWORD=2; _uffd_lua; echo "${COMPREPLY[@]}"' sh \
  "$pages/bash-completion/completions/uffd-lua")
[ "$completed" = --socket ] || fail "bash completes 'serve --so' to '$completed'"
if command -v zsh > /dev/null; then zsh -n "$pages/zsh/site-functions/_uffd-lua"; fi
if command -v mandoc > /dev/null; then
  mandoc -Tlint "$pages"/man/man1/*.1 "$pages/man/man3/uffd.3" "$pages/man/man3/uffd-pager.3"
fi
if command -v groff > /dev/null; then
  for page in "$pages"/man/man1/*.1 "$pages/man/man3/uffd.3" "$pages/man/man3/uffd-pager.3"; do
    said=$(groff -man -ww -Tutf8 -Kutf8 "$page" 2>&1 > /dev/null) || fail "$said"
    [ -z "$said" ] || fail "$said"
  done
fi
echo "man pages and completions say what --help and the headers say"
